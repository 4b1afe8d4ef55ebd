"""From a path of images, and perhaps a checkpoint, to the knobs of a recipe, each with the reason for its value."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from ml_collections import config_dict

from vitjax.config import evaluator, evaluators, source_config
from vitjax.config.hyperrule import BATCH_SIZE, PEAK_LR, apply_hyper_rule, hyper_rule
from vitjax.config.render import DERIVATION_INDENT
from vitjax.config.schema import ModelConfig, SourceConfig
from vitjax.config.variants import ResNetVariant, ViTVariant, parse_variant
from vitjax.errors import ConfigError, Problem
from vitjax.loading import start_facts
from vitjax.own_images.layout import VAL_SHARE, Facts, Layout, find_facts, find_layout

# Of a transformer that is fine-tuned with AdamW, at BATCH_SIZE; a batch of b takes sqrt(b / BATCH_SIZE) of it.
_TUNE_LR = 1.2e-3
_TUNE_WEIGHT_DECAY = 0.05
_LAYER_DECAY = 0.75
_SCRATCH_LR = 1e-3
_SMALLEST_BATCH = 8
_STEPS_PER_EPOCH = 4
# Where the data do not exist: the recipe is complete all the same, and its check names what is missing.
_NOMINAL = Facts(800, 200, (), (), (), 384.0, 384.0, ())


@dataclasses.dataclass(frozen=True)
class Asked:
  """What the command line sets; 0 and '' leave it to the derivation.

  Attributes:
    data: folder or manifest.
    checkpoint: whatever vitjax.load reads; '' trains from scratch.
    model: variant.
    size: side of the images, pixels.
    steps: optimiser steps.
    batch: examples per step.
    lr: peak learning rate.
    seed: of the run and of the split.
  """

  data: str
  checkpoint: str = ''
  model: str = ''
  size: int = 0
  steps: int = 0
  batch: int = 0
  lr: float = 0.0
  seed: int = 0


class _Reasons:
  """The lines of the derivation."""

  def __init__(self) -> None:
    self.lines: list[str] = []

  def add(self, name: str, value: object, why: str) -> None:
    self.lines.append(f'{name:<11} {value!s:<12}'.ljust(DERIVATION_INDENT) + why)


def fit_recipe(config: config_dict.ConfigDict, asked: Asked) -> None:
  """Sets sources, model, sizes, lengths and rates of a recipe from the images and the checkpoint, with reasons.

  The same path and arguments give the same recipe, so that a run resumes; the reasons go to config.derivation.
  Nothing is decoded or trained, and no array of a vitjax checkpoint is read.

  Args:
    config: a default recipe.
    asked: what the user has set.

  Raises:
    ConfigError: no data are named, or values that do not fit the checkpoint.
    DataError, CheckpointError: data or weights that cannot be used.

  Source: BiT-HyperRule (arXiv 1912.11370, 3.3) for size, steps and mixup, and for all of a ResNet.
  Differs from source: batches fit a small data set. A transformer is trained by AdamW with layer-wise decay (BEiT,
    arXiv 2106.08254): the rule's SGD is made for ResNets. configs/finetune.py:rule=bit is as published.
  """
  if not asked.data:
    expected = 'a folder with a sub-folder of images per class, or a manifest'
    hint = 'As in --config=configs/transfer.py:data=/path/to/images,checkpoint=runs/pretrained'
    raise ConfigError('no images to learn from', [Problem('data', '', expected, hint)])
  reasons = _Reasons()
  config.seed = asked.seed
  facts = _data(config, asked, reasons)
  _model(config, asked, reasons)
  _size(config, asked, facts, reasons)
  _lengths(config, asked, facts, reasons)
  _rate(config, asked, reasons)
  _evaluation(config, facts, reasons)
  if _exists(asked.data):
    config.derivation = tuple(reasons.lines)


def _exists(path: str) -> bool:
  try:
    return pathlib.Path(path).expanduser().exists()
  except (OSError, RuntimeError, ValueError):
    return False


def _data(config: config_dict.ConfigDict, asked: Asked, reasons: _Reasons) -> Facts:
  """Sets the sources; returns what they hold."""
  if not _exists(asked.data):
    nothing = SourceConfig(kind='image_folder', path=asked.data, split='train')
    _sources(config, Layout(nothing, dataclasses.replace(nothing, split='val'), made=False))
    return _NOMINAL
  layout = find_layout(asked.data, split_seed=asked.seed)
  facts = find_facts(layout)
  _sources(config, layout)
  total = facts.num_train + facts.num_val
  several = ', several per image' if layout.train.multi_label else ''
  what = f'{layout.train.kind}, {len(facts.class_names)} classes{several}: {_listed(facts.class_names)}'
  reasons.add('data', f'{total:,} images', f'{asked.data}: {what}')
  _explain_split(layout, facts, asked.seed, reasons)
  for note in facts.notes:
    reasons.add('note', '', note)
  budget = max(total // 100, 2)
  config.data.source.max_corrupt = config.evals.val.source.max_corrupt = budget
  reasons.add(
    'unreadable', f'{budget} allowed', '1 % of the images, at least 2: left out and named; more stop the run'
  )
  if layout.train.multi_label:
    config.objective.loss = 'sigmoid'
    config.evals.val.kind = 'multilabel'
    reasons.add('loss', 'sigmoid', 'images have several classes; judged by mean average precision')
  return facts


def _sources(config: config_dict.ConfigDict, layout: Layout) -> None:
  train, val = (source_config(**dataclasses.asdict(source)) for source in (layout.train, layout.val))
  config.data.source = train
  config.evals = evaluators(val=evaluator(source=val))


def _explain_split(layout: Layout, facts: Facts, seed: int, reasons: _Reasons) -> None:
  sizes = f'{facts.num_train:,} + {facts.num_val:,}'
  if not layout.made:
    reasons.add(
      'split', sizes, f'to train + to judge: the parts {layout.train.split!r} and {layout.val.split!r}'
    )
  else:
    dealt = 'drawn at random' if layout.train.multi_label else 'of each class'
    why = f'to train + to judge: no such parts, so {VAL_SHARE} % {dealt} are set aside (seed {seed})'
    reasons.add('split', sizes, why)
  alone = [
    n for n, c, v in zip(facts.class_names, facts.train_counts, facts.val_counts, strict=True) if c and not v
  ]
  if alone:
    why = f'{_listed(alone)}: all their images train, too few to set any aside; nothing judges them'
    reasons.add('not judged', f'{len(alone)} class{"es" if len(alone) > 1 else ""}', why)


def _listed(names: Any, most: int = 6) -> str:
  rest = len(names) - most
  return ', '.join(names[:most]) + (f' and {rest} more' if rest > 0 else '')


def _model(config: config_dict.ConfigDict, asked: Asked, reasons: _Reasons) -> None:
  """Sets the model: the checkpoint's, or what is asked for."""
  if asked.checkpoint:
    config.init.checkpoint = asked.checkpoint
  if not asked.checkpoint or not _exists(asked.checkpoint):
    config.model.variant = asked.model or 'B/16'
    if not asked.checkpoint:
      why = 'random weights: few images teach them little; checkpoint=PATH starts from pretrained ones'
      reasons.add('model', config.model.variant, why)
    return
  start = start_facts(asked.checkpoint)
  if asked.model and asked.model != start.model.variant:
    expected = f'{start.model.variant!r}, as in {asked.checkpoint}'
    raise ConfigError(
      'the model is not the one of the checkpoint',
      [Problem('model', repr(asked.model), expected, 'Leave model out: it is taken from the checkpoint')],
    )
  own = ('num_classes', 'representation_size', 'dtype', 'param_dtype', 'head_bias_init', 'remat', 'layers')
  for field in dataclasses.fields(ModelConfig):
    if field.name not in own:
      config.model[field.name] = getattr(start.model, field.name)
  data = start.preprocess
  config.data.mean, config.data.std, config.data.interpolation = data.mean, data.std, data.interpolation
  if start.model.position in ('learned_1d', 'learned_2d') and isinstance(
    _variant(start.model.variant), ViTVariant
  ):
    config.init.position_resize = start.position_resize
  size = (
    f'{start.image_size[0]} px' if start.image_size[0] == start.image_size[1] else f'{start.image_size} px'
  )
  reasons.add('model', start.model.variant, f'of {asked.checkpoint} ({start.format}, {size}), a new head')


def _variant(name: str) -> Any:
  """Returns the parsed variant, None for a name that the recipe's check will refuse."""
  try:
    return parse_variant(name)
  except ValueError:
    return None


def _rule(facts: Facts) -> Any:
  return hyper_rule(facts.num_train, facts.height * facts.width)


def _size(config: config_dict.ConfigDict, asked: Asked, facts: Facts, reasons: _Reasons) -> None:
  """Sets the image size: the HyperRule's, in whole patches."""
  rule = _rule(facts)
  apply_hyper_rule(config, rule)
  typical = f'images of about {facts.width:.0f} x {facts.height:.0f} px'
  if asked.size:
    size, why = asked.size, 'as asked for'
  else:
    variant = _variant(config.model.variant)
    patch = config.model.patch_size or (variant.downsample if isinstance(variant, ViTVariant) else 1)
    size = rule.crop_size // patch * patch
    why = f'{typical}: the HyperRule takes {rule.crop_size}' + (
      f', in patches of {patch}' if patch > 1 else ''
    )
  config.data.image_size = (size, size)
  config.data.precrop_size = round(size * rule.resize_size / rule.crop_size)
  why += f'; training takes a random place of them resized to {config.data.precrop_size}'
  reasons.add('size', f'{size} px', why)


def _lengths(config: config_dict.ConfigDict, asked: Asked, facts: Facts, reasons: _Reasons) -> None:
  """Sets batch, steps, warm-up and stairs."""
  rule = _rule(facts)
  if asked.batch:
    batch, why = asked.batch, 'as asked for'
  else:
    most = min(facts.num_train // _STEPS_PER_EPOCH, BATCH_SIZE)
    batch = max(1 << max(most, 1).bit_length() - 1, _SMALLEST_BATCH)
    why = f'largest power of two up to {BATCH_SIZE} with {_STEPS_PER_EPOCH} steps an epoch, at least {_SMALLEST_BATCH}'
  config.data.batch_size = batch
  reasons.add('batch', batch, why)
  steps = asked.steps or rule.steps
  share = steps / rule.steps
  config.total = f'{steps} steps'
  config.optim.warmup = f'{int(rule.warmup * share)} steps'
  stairs = dict.fromkeys(round(step * share) for step in rule.stairs)
  config.optim.stairs = tuple(f'{step} steps' for step in stairs if 0 < step < steps)
  if not config.optim.stairs:
    config.optim.schedule = 'constant'
  epochs = f'{steps * batch / facts.num_train:.3g} epochs'
  why = 'as asked for' if asked.steps else f'the HyperRule for {facts.num_train:,} images'
  mixing = f', mixup {rule.mixup_alpha:g}' if rule.mixup_alpha else ', no mixup'
  reasons.add('steps', f'{steps:,}', f'{why}: {epochs}{mixing}')


def _rate(config: config_dict.ConfigDict, asked: Asked, reasons: _Reasons) -> None:
  """Sets optimiser, rate and schedule; size and lengths stand already."""
  batch, optim = config.data.batch_size, config.optim
  if not asked.checkpoint:
    default, words = _SCRATCH_LR, 'AdamW, weight decay 0.1, cosine: weights start at random'
    optim.name, optim.weight_decay, optim.clip_norm = 'adamw', 0.1, 1.0
  elif isinstance(_variant(config.model.variant), ResNetVariant):
    default = float(f'{PEAK_LR * batch / BATCH_SIZE:.2g}')
    words = (
      f'SGD, momentum 0.9, {PEAK_LR:g} x {batch} / {BATCH_SIZE}: the HyperRule, which is made for ResNets'
    )
  else:
    default = float(f'{_TUNE_LR * (batch / BATCH_SIZE) ** 0.5:.2g}')
    words = (
      f'AdamW, weight decay {_TUNE_WEIGHT_DECAY:g}, cosine, {_TUNE_LR:g} x sqrt({batch} / {BATCH_SIZE}); '
      f'each block {_LAYER_DECAY:g} times the rate of the one above it'
    )
    optim.name, optim.weight_decay, optim.clip_norm = 'adamw', _TUNE_WEIGHT_DECAY, 1.0
    optim.layer_decay = _LAYER_DECAY
  if optim.name == 'adamw':
    optim.schedule, optim.stairs = 'cosine', ()
  optim.peak_lr = asked.lr or default
  falls = ', '.join(step.removesuffix(' steps') for step in optim.stairs)
  shape = f'; a tenth of it from steps {falls} on' if falls else ''
  warm = f'; warm-up over {optim.warmup}' if not optim.warmup.startswith('0 ') else ''
  reasons.add('rate', f'{optim.peak_lr:g}', ('as asked for' if asked.lr else words) + warm + shape)


def _evaluation(config: config_dict.ConfigDict, facts: Facts, reasons: _Reasons) -> None:
  """Sets when to judge, save and log, and what to write up."""
  steps = int(config.total.removesuffix(' steps'))
  every = f'{max(steps // 5, 1)} steps'
  batch = min(config.data.batch_size * 2, BATCH_SIZE)
  config.evals.val.batch_size = batch
  config.evals.val.every = config.checkpoint.every = every
  config.log.every = f'{min(max(steps // 10, 1), 20)} steps'
  metric = 'mean_average_precision' if config.data.source.multi_label else 'accuracy_top1'
  config.checkpoint.keep_best = f'val/{metric}'
  config.report.data = True
  config.report.evals = ('val',)
  reasons.add(
    'judged', every, f'between looks at the {facts.num_val:,} images set aside; the best step is kept too'
  )
