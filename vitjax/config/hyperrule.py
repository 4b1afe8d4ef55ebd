"""BiT-HyperRule: how to fine-tune on a data set, from its number of examples and the size of its images alone.

  rule = hyper_rule(num_examples=800, image_area=224 * 224)
  rule.steps                     500
  apply_hyper_rule(config, rule) sets optimiser, schedule, crop and mixup of a recipe
  print(rule.derivation())       what was chosen, and why

Source: "Big Transfer", arXiv 1912.11370, section 3.3, and its released code.
"""

from __future__ import annotations

import dataclasses

from ml_collections import config_dict

from vitjax.errors import ConfigError, Problem

SMALL_DATA = 20_000  # below: a small task
LARGE_DATA = 500_000  # from here on: a large task
SMALL_AREA = 96 * 96  # below: small images
PEAK_LR = 0.003
BATCH_SIZE = 512
MIXUP_ALPHA = 0.1


@dataclasses.dataclass(frozen=True)
class HyperRule:
  """What the rule says for one data set.

  Attributes:
    num_examples: training examples of the data set.
    image_area: pixels of a typical image, height times width.
    steps: optimiser steps at batch BATCH_SIZE.
    warmup: steps of linear warm-up.
    stairs: steps at which the rate is divided by 10.
    resize_size: side to which training images are resized, pixels.
    crop_size: side of the random crop out of it, and of the plain resize in evaluation, pixels.
    mixup_alpha: Beta parameter of mixup; 0: off.
  """

  num_examples: int
  image_area: float
  steps: int
  warmup: int
  stairs: tuple[int, int, int]
  resize_size: int
  crop_size: int
  mixup_alpha: float

  def derivation(self) -> str:
    """Returns the choices with their reasons, a line each."""
    count, side = f'{self.num_examples:,} examples', round(self.image_area**0.5)
    if self.num_examples < SMALL_DATA:
      size, mixing = f'{count}, fewer than {SMALL_DATA:,}: a small task', 'off for a small task'
    elif self.num_examples < LARGE_DATA:
      size, mixing = f'{count}, fewer than {LARGE_DATA:,}: a medium task', f'on from {SMALL_DATA:,} examples'
    else:
      size, mixing = f'{count}, {LARGE_DATA:,} or more: a large task', f'on from {SMALL_DATA:,} examples'
    area = 'less than' if self.image_area < SMALL_AREA else 'at least'
    stairs = ', '.join(f'{step:,}' for step in self.stairs)
    lines = (
      ('steps', f'{self.steps:,}', size),
      ('warm-up', f'{self.warmup}', 'steps'),
      ('rate / 10 at', stairs, 'steps'),
      (
        'resize, crop',
        f'{self.resize_size}, {self.crop_size}',
        f'about {side} x {side} pixels, {area} 96 x 96',
      ),
      ('mixup', f'{self.mixup_alpha:g}', mixing),
      ('rate', f'{PEAK_LR:g}', f'SGD with momentum 0.9 at batch {BATCH_SIZE}, no weight decay'),
    )
    return '\n'.join(f'{name:<13}{value:<23}{why}' for name, value, why in lines)


def hyper_rule(num_examples: int, image_area: float) -> HyperRule:
  """Returns the BiT-HyperRule for a data set.

  Args:
    num_examples: training examples, >= 1.
    image_area: height times width of a typical image, pixels, > 0.

  Raises:
    ConfigError: there are no examples or no pixels.

  Source: BiT (arXiv 1912.11370) section 3.3.
  """
  problems = []
  if num_examples < 1:
    problems.append(Problem('num_examples', str(num_examples), 'at least one training example'))
  if not image_area > 0:
    problems.append(Problem('image_area', f'{image_area:g}', 'pixels of an image, above 0'))
  if problems:
    raise ConfigError('the HyperRule needs images', problems)
  if num_examples < SMALL_DATA:
    steps, warmup, stairs = 500, 100, (200, 300, 400)
  elif num_examples < LARGE_DATA:
    steps, warmup, stairs = 10_000, 500, (3_000, 6_000, 9_000)
  else:
    steps, warmup, stairs = 20_000, 500, (6_000, 12_000, 18_000)
  resize_size, crop_size = (160, 128) if image_area < SMALL_AREA else (512, 480)
  mixup_alpha = MIXUP_ALPHA if num_examples >= SMALL_DATA else 0.0
  return HyperRule(num_examples, image_area, steps, warmup, stairs, resize_size, crop_size, mixup_alpha)


def apply_hyper_rule(config: config_dict.ConfigDict, rule: HyperRule) -> None:
  """Sets the knobs of a recipe that the rule decides: length, optimiser, schedule, crop, mixup.

  Source, evaluators, model and checkpoint stay as they are. Evaluation is a plain resize to the crop's size, as in
  the released code. A smaller batch or image is a later edit of the recipe's own.
  """
  config.total = f'{rule.steps} steps'
  config.data.batch_size = BATCH_SIZE
  config.data.image_size = (rule.crop_size, rule.crop_size)
  config.data.crop = 'random'
  config.data.precrop_size = rule.resize_size
  config.data.mixup_alpha = rule.mixup_alpha
  optim = config.optim
  optim.name = 'sgd'
  optim.peak_lr = PEAK_LR
  optim.momentum = 0.9
  optim.weight_decay = 0.0
  optim.clip_norm = None
  optim.schedule = 'staircase'
  optim.warmup = f'{rule.warmup} steps'
  optim.stairs = tuple(f'{step} steps' for step in rule.stairs)
  optim.stair_factor = 0.1
