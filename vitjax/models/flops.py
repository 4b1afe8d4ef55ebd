"""Analytic operation counts: 2 per multiply-add, matrix products and convolutions only.

XLA's own count takes the body of a scan once and differs between backends; this one depends on the config
alone. Norms, activations, softmax, biases and residual additions are left out, as is usual.
"""

from __future__ import annotations

import math

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ResNetVariant, ViTVariant
from vitjax.models.sizes import num_prefix_tokens, resolve_variant
from vitjax.ops.patches import num_kept

_EXPANSION = 4  # output channels of a ResNet bottleneck unit per channel of its 3x3 convolution
_CHANNELS = 3  # of an image


def forward_flops(
  config: ModelConfig,
  *,
  image_size: tuple[int, int],
  num_classes: int,
  train: bool = False,
  patch_size: int | None = None,
) -> float:
  """Returns the floating-point operations of one image forward; a training step takes three times as many.

  Counted: stem, patch embedding, query, key, value and output projections, both attention products (and the
  third one of relative positions), MLP, attention pooling, pre_logits, head; for ResNets every convolution
  and the head.

  Args:
    config: the model's config.
    image_size: height and width in pixels.
    num_classes: outputs of the head; 0: no head.
    train: as in a training step, where config.token_drop_rate leaves patches out.
    patch_size: of a model run on patches of another size than its own; None: its own.

  Raises:
    ConfigError: the config cannot be built.
  """
  variant = resolve_variant(config)
  if isinstance(variant, ResNetVariant):
    return float(_resnet_flops(variant, image_size, num_classes))
  rate = config.token_drop_rate if train else 0.0
  return float(_vit_flops(config, variant, image_size, num_classes, rate, patch_size or variant.patch_size))


def train_flops(config: ModelConfig, *, image_size: tuple[int, int], num_classes: int) -> float:
  """Returns the floating-point operations that training takes per image: three times a forward pass.

  With config.patch_sizes the mean over them, since steps draw them evenly. What config.remat computes twice is no
  part of it.
  """
  sizes = config.patch_sizes or (None,)
  counts = [
    forward_flops(config, image_size=image_size, num_classes=num_classes, train=True, patch_size=patch_size)
    for patch_size in sizes
  ]
  return 3 * sum(counts) / len(counts)


def _vit_flops(
  config: ModelConfig,
  variant: ViTVariant,
  image_size: tuple[int, int],
  num_classes: int,
  drop_rate: float,
  patch: int,
) -> int:
  total, (h, w), channels = _stem_flops(variant.stem_units, image_size)
  d, mlp_dim = variant.size.width, variant.size.mlp_dim
  num_patches = (h // patch) * (w // patch)
  total += 2 * num_patches * patch * patch * channels * d
  num_patches = num_kept(num_patches, drop_rate)
  num_tokens = num_patches + num_prefix_tokens(config)
  num_products = 3 if config.position == 'relative' else 2
  total += variant.size.depth * (
    4 * 2 * num_tokens * d * d
    + num_products * 2 * num_tokens * num_tokens * d
    + 2 * 2 * num_tokens * d * mlp_dim
  )
  if config.pool == 'map':
    total += 2 * 2 * d * d + 2 * 2 * num_patches * d * d + 2 * 2 * num_patches * d + 2 * 2 * d * mlp_dim
  features = d
  if config.representation_size is not None:
    features = config.representation_size
    total += 2 * d * features
  return total + 2 * features * num_classes


def _stem_flops(units: tuple[int, ...], image_size: tuple[int, int]) -> tuple[int, tuple[int, int], int]:
  """Returns (operations, feature map size, channels) of a hybrid's stem, or of the bare image."""
  if not units:
    return 0, image_size, _CHANNELS
  grid = _halve(image_size)
  root = 2 * math.prod(grid) * 7 * 7 * _CHANNELS * 64
  total, grid, channels = _stages_flops(units, 64, _halve(grid))
  return root + total, grid, channels


def _resnet_flops(variant: ResNetVariant, image_size: tuple[int, int], num_classes: int) -> int:
  grid, side = _halve(image_size), 3 if variant.small_root else 7
  root = 2 * math.prod(grid) * side * side * _CHANNELS * variant.width
  total, _, channels = _stages_flops(
    variant.units, variant.width, grid if variant.small_root else _halve(grid)
  )
  return root + total + 2 * channels * num_classes


def _stages_flops(
  units: tuple[int, ...], width: int, grid: tuple[int, int]
) -> tuple[int, tuple[int, int], int]:
  """Returns (operations, output grid, output channels) of bottleneck stages.

  Each stage after the first halves the grid. The 3x3 convolution of a stage's first unit takes the
  stride, so the 1x1 before it still sees the larger grid.
  """
  total, channels = 0, width
  for stage, num_units in enumerate(units):
    mid = width * 2**stage
    out = _EXPANSION * mid
    for unit in range(num_units):
      smaller = _halve(grid) if stage > 0 and unit == 0 else grid
      cells = math.prod(smaller)
      total += 2 * math.prod(grid) * channels * mid + 2 * cells * (9 * mid * mid + mid * out)
      if unit == 0:
        total += 2 * cells * channels * out
      grid, channels = smaller, out
  return total, grid, channels


def _halve(grid: tuple[int, int]) -> tuple[int, int]:
  """Returns the grid after a layer of stride 2: rounded up, under SAME and BiT's symmetric padding alike."""
  return (grid[0] + 1) // 2, (grid[1] + 1) // 2
