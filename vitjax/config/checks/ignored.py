"""Settings that nothing would read: knobs that matter only in some cases are an error when set in others.

A knob counts as set when it differs from its default, so a recipe file may always restore a default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from vitjax.config.checks.base import Findings
from vitjax.config.eval_metrics import FEATURE_KINDS, KIND_KNOBS
from vitjax.config.knobs import fields_of, find_knob, read
from vitjax.config.schema import SourceConfig
from vitjax.config.values import plain
from vitjax.config.variants import ResNetVariant


@dataclasses.dataclass(frozen=True)
class Use:
  """Knobs that are read only where another knob has one of some values.

  Attributes:
    knobs: dotted paths.
    on: the knob that decides.
    values: values of `on` for which the knobs are read; empty when `test` decides.
    test: whether a value of `on` makes the knobs matter.
    words: what `test` asks for, in words.
  """

  knobs: tuple[str, ...]
  on: str
  values: tuple[Any, ...] = ()
  test: Callable[[Any], bool] | None = None
  words: str = ''

  def holds(self, value: Any) -> bool:
    """Returns whether the knobs are read."""
    return self.test(value) if self.test is not None else value in self.values

  def condition(self) -> str:
    """Returns when the knobs are read, in words."""
    return f'{self.on} {self.words}' if self.words else f'{self.on} = ' + ' or '.join(map(repr, self.values))


def _is_set(value: Any) -> bool:
  return value is not None


def _is_head(value: Any) -> bool:
  return value != 0


def _is_positive(value: Any) -> bool:
  return value > 0


def _is_sweep(value: Any) -> bool:
  return len(value) != 1


_TABLES = ('learned_1d', 'learned_2d')
_WITHOUT = ('sgd', 'adafactor')  # optimisers that may run without momentum
_FILES = ('image_folder', 'numbered_folders', 'manifest', 'huggingface', 'tfds', 'array_record', 'tfrecord')

USES = (
  Use(('model.position_at',), 'model.position', (*_TABLES, 'sincos_2d', 'relative')),
  Use(('model.head_bias_init',), 'model.num_classes', test=_is_head, words='other than 0'),
  Use(('data.crop_area', 'data.crop_ratio'), 'data.crop', ('inception', 'random_resized')),
  Use(('data.shift',), 'data.crop', ('shift',)),
  Use(('data.precrop_size',), 'data.crop', ('random',)),
  Use(('data.randaugment_magnitude',), 'data.randaugment_layers', test=_is_positive, words='above 0'),
  Use(('optim.b1',), 'optim.name', ('adamw', 'lamb', 'lion', 'muon')),
  Use(('optim.b2',), 'optim.name', ('adamw', 'lamb', 'lion', 'muon', 'adafactor')),
  Use(('optim.eps',), 'optim.name', ('adamw', 'lamb', 'muon')),
  Use(('optim.momentum',), 'optim.name', ('sgd', 'adafactor', 'muon')),
  Use(('optim.nesterov',), 'optim.name', ('sgd',)),
  Use(('optim.factor_min_dim',), 'optim.name', ('adafactor',)),
  Use(('optim.weight_decay_form',), 'optim.name', ('adamw', 'sgd', 'adafactor', 'lion', 'muon')),
  Use(('optim.sam_rho_end', 'optim.gsam_alpha'), 'optim.sam_rho', test=_is_positive, words='above 0'),
  Use(('optim.end_lr',), 'optim.schedule', ('cosine', 'linear')),
  Use(('optim.rsqrt_timescale',), 'optim.schedule', ('rsqrt',)),
  Use(('optim.cooldown',), 'optim.schedule', ('rsqrt', 'constant')),
  Use(('optim.stairs', 'optim.stair_factor'), 'optim.schedule', ('staircase',)),
  Use(
    ('optim.weight_decay_form', 'optim.weight_decay_on'),
    'optim.weight_decay',
    test=_is_positive,
    words='above 0',
  ),
  Use(
    ('data.mixup_alpha', 'data.cutmix_alpha', 'model.patch_sizes', 'model.token_drop_rate'),
    'objective.name',
    ('classification', 'distillation'),
  ),
  Use(
    ('objective.loss', 'objective.label_smoothing', 'data.max_tokens'), 'objective.name', ('classification',)
  ),
  Use(('distill.checkpoint', 'distill.temperature'), 'objective.name', ('distillation',)),
  Use(('report.num_mistakes',), 'report.evals', test=bool, words='set'),
  Use(('objective.corrupt_rate',), 'objective.name', ('masked_patch',)),
  Use(('init.head', 'init.position_resize'), 'init.checkpoint', test=_is_set, words='set'),
  Use(('init.position_resize',), 'model.position', _TABLES),
  Use(
    ('resilience.spike_window', 'resilience.on_spike'), 'resilience.spike_factor', test=_is_set, words='set'
  ),
  Use(('resilience.spike_skip',), 'resilience.on_spike', ('rollback',)),
)

# Paths relative to a source: data.source, evals.<name>.source.
SOURCE_USES = (
  Use(('path',), 'kind', ('fashion_mnist', *_FILES)),
  Use(('name', 'label'), 'kind', ('tfds',)),
  Use(('num_examples',), 'kind', ('synthetic',)),
  Use(('max_corrupt',), 'kind', _FILES),
  Use(('empty_classes',), 'kind', ('image_folder',)),
  Use(('multi_label',), 'kind', ('manifest', 'huggingface', 'array_record', 'tfrecord')),
  Use(('subset_seed',), 'examples_per_class', test=_is_set, words='set'),
)

# Paths relative to an evaluator: evals.<name>.
EVAL_USES = (
  Use(tuple(f'train_source.{knob}' for knob in fields_of(SourceConfig)), 'kind', FEATURE_KINDS),
  *(Use(knobs, 'kind', (kind,)) for kind, knobs in KIND_KNOBS.items()),
  Use(('held_out',), 'probe_l2', test=_is_sweep, words='of several values'),
)

VIT_ONLY = (
  'width', 'depth', 'mlp_dim', 'num_heads', 'patch_size', 'patch_sizes', 'pool', 'position', 'position_at',
  'num_registers', 'representation_size', 'dropout_rate', 'attention_dropout_rate', 'stochastic_depth_rate',
  'token_drop_rate', 'layer_scale_init', 'qk_norm', 'parallel_blocks', 'norm_eps', 'final_norm', 'gelu', 'layers',
  'attention',
)  # fmt: skip


def check_ignored(found: Findings) -> None:
  """Reports every knob that is set and would not be read."""
  for use in USES:
    _check_use(found, use)
  for source in found.sources():
    for use in SOURCE_USES:
      _check_use(found, _inside(use, source))
  for name in found.recipe.evals:
    for use in EVAL_USES:
      _check_use(found, _inside(use, f'evals.{name}'))
  _check_momentum(found)
  _check_augment_on(found)
  if isinstance(found.variant(), ResNetVariant):
    _check_resnet(found)


def _inside(use: Use, group: str) -> Use:
  """Returns `use` with its paths, relative to a group, made absolute."""
  knobs = tuple(f'{group}.{knob}' for knob in use.knobs)
  return dataclasses.replace(use, knobs=knobs, on=f'{group}.{use.on}')


def _differs(found: Findings, path: str) -> bool:
  knob = find_knob(path)
  assert knob is not None, path
  return found.good(path) and read(found.recipe, path) != knob.default


def _report(found: Findings, path: str, condition: str, hint: str) -> None:
  knob = find_knob(path)
  assert knob is not None, path
  found.add(path, f'its default {plain(knob.default)!r}, since it is read only with {condition}', hint)


def _check_use(found: Findings, use: Use) -> None:
  if not found.good(use.on):
    return
  value = read(found.recipe, use.on)
  if use.holds(value):
    return
  for path in use.knobs:
    if _differs(found, path):
      _report(found, path, use.condition(), f'Leave it out, or change {use.on} from {value!r}')


def _check_momentum(found: Findings) -> None:
  """Reports momentum details where SGD or Adafactor runs without momentum."""
  optim = found.recipe.optim
  if found.good('optim.name', 'optim.momentum') and optim.name in _WITHOUT and optim.momentum == 0:
    for path in ('optim.nesterov', 'optim.momentum_dtype'):
      if _differs(found, path):
        _report(found, path, 'optim.momentum above 0', 'Leave it out, or set optim.momentum')


def _check_augment_on(found: Findings) -> None:
  knobs = ('randaugment_layers', 'three_augment', 'color_jitter', 'erasing_rate')
  if not any(getattr(found.recipe.data, name) for name in knobs) and _differs(found, 'data.augment_on'):
    condition = ' or '.join(f'data.{name}' for name in knobs)
    _report(found, 'data.augment_on', condition, 'Leave it out, or turn on an augmentation')


def _check_resnet(found: Findings) -> None:
  variant = found.recipe.model.variant
  for name in VIT_ONLY:
    if _differs(found, f'model.{name}'):
      _report(
        found,
        f'model.{name}',
        'a transformer variant',
        f'Leave it out, or change model.variant from {variant!r}',
      )
  for path in ('init.position_resize', 'optim.layer_decay'):
    if _differs(found, path):
      _report(found, path, 'a transformer variant', f'Leave it out, or change model.variant from {variant!r}')
