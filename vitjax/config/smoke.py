"""The smoke form of a recipe: the same optimiser, schedule and augmentation for four steps on tiny synthetic data."""

from __future__ import annotations

from ml_collections import config_dict

from vitjax.config.defaults import source_config

_SIZE = 32


def make_smoke(config: config_dict.ConfigDict) -> None:
  """Shrinks a recipe to seconds on a CPU, in place: does it run? Its numbers mean nothing.

  Model, images, batch and lengths shrink; sources become synthetic, in training and in all evaluators. What the
  recipe chooses otherwise (optimiser, shape of the schedule, loss, crop, mixup, RandAugment, kinds of evaluators)
  stays.
  """
  _shrink_model(config.model)
  data = config.data
  data.source = source_config(kind='synthetic', num_examples=32, num_classes=4)
  data.image_size = (_SIZE, _SIZE)
  data.batch_size = 16
  if data.max_tokens is not None:
    data.max_tokens = 6
  if data.crop == 'random':
    data.precrop_size = _SIZE + 4
  config.total = '4 steps'
  config.optim.warmup = '1 steps'
  if config.optim.schedule == 'staircase':
    config.optim.stairs = ('2 steps', '3 steps')
  config.log.every = '2 steps'
  config.log.tensorboard = False
  config.checkpoint.every = '4 steps'
  config.init.checkpoint = None
  config.init.head = 'reset'
  config.init.position_resize = 'zoom'
  for entry in config.evals.values():
    entry.source = source_config(kind='synthetic', num_examples=24, num_classes=4)
    entry.batch_size = 16
    entry.every = '4 steps'
    if entry.resize_short is not None:
      entry.resize_short = _SIZE + 4
    if entry.kind == 'fewshot':
      entry.train_source = source_config(data.source)
      entry.shots, entry.num_draws = (1, 2), 1


def _shrink_model(model: config_dict.ConfigDict) -> None:
  model.dtype = 'float32'
  if '/' not in model.variant:
    model.variant = 'R-tiny'
    return
  model.variant = 'R4+Ti/4' if '+' in model.variant else 'Ti/16'
  model.width, model.depth, model.mlp_dim, model.num_heads = 64, 2, 128, 2
  if model.variant != 'Ti/16':
    model.patch_size = 2
  if model.representation_size is not None:
    model.representation_size = 64
