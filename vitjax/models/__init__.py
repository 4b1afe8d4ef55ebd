"""Networks: `create_model('B/16', num_classes=1000)`, or `build_model` from a recipe's ModelConfig."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.config.schema import ModelConfig
from vitjax.config.suggest import did_you_mean
from vitjax.config.variants import ResNetVariant
from vitjax.errors import ConfigError, Problem
from vitjax.models.flops import forward_flops, train_flops
from vitjax.models.layout import attention_by_block, stack_attention, stack_blocks, unstack_blocks
from vitjax.models.patch_sizes import with_patch_size
from vitjax.models.position_tables import position_tables
from vitjax.models.resnet import BiTResNet
from vitjax.models.sizes import computed_size, image_shape, native_patches, resolve_variant
from vitjax.models.vit import VisionTransformer

__all__ = [
  'BiTResNet',
  'VisionTransformer',
  'attention_by_block',
  'build_model',
  'computed_size',
  'create_model',
  'forward_flops',
  'image_shape',
  'native_patches',
  'position_tables',
  'resized_model',
  'resolve_variant',
  'stack_attention',
  'stack_blocks',
  'train_flops',
  'unstack_blocks',
  'with_patch_size',
]


def create_model(variant: str, *, num_classes: int, **overrides: Any) -> nn.Module:
  """Returns a network by name: 'B/16', 'R50+B/16', 'R50x1', 'R-tiny' ...

  Args:
    variant: a name of config/variants.py.
    num_classes: outputs of the head; 0: no head.
    **overrides: other fields of ModelConfig, such as pool='gap' or depth=6.

  Returns:
    A Linen module: `init(key, images)` and `apply({'params': p}, images, train=False)`.

  Raises:
    ConfigError: unknown names, values out of range, sizes that do not fit each other.
  """
  known = [
    field.name for field in dataclasses.fields(ModelConfig) if field.name not in ('variant', 'num_classes')
  ]
  problems = []
  for name in overrides:
    if name not in known:
      hint = did_you_mean(name, known) or f'Fields: {", ".join(known)}'
      problems.append(Problem(name, repr(overrides[name]), 'a field of ModelConfig', hint))
  if problems:
    raise ConfigError('create_model does not know these settings', problems)
  return build_model(ModelConfig(variant=variant, **overrides), num_classes=num_classes)


def build_model(config: ModelConfig, *, num_classes: int, device_class: str | None = None) -> nn.Module:
  """Returns the network that `config` describes.

  Args:
    config: the model's part of a recipe.
    num_classes: outputs of the head, from the recipe or the training source; 0: no head.
    device_class: what parallel.tuning calls the devices that it will run on, which may be absent (ahead-of-time
      compilation); None: those that jax would use.

  Raises:
    ConfigError: values out of range, sizes that do not fit each other, settings that would be ignored.
  """
  problems = []
  if config.num_classes not in (None, num_classes) or num_classes < 0:
    expected = f'None or num_classes, which is {num_classes} and must not be negative'
    problems.append(Problem('model.num_classes', repr(config.num_classes), expected))
  if num_classes == 0 and config.head_bias_init != 0:
    problems.append(Problem('model.head_bias_init', repr(config.head_bias_init), '0, since there is no head'))
  if problems:
    raise ConfigError('the head cannot be built as configured', problems)
  variant = resolve_variant(config)
  if isinstance(variant, ResNetVariant):
    return BiTResNet(
      variant,
      num_classes,
      head_bias_init=config.head_bias_init,
      remat=config.remat,
      dtype=jnp.dtype(config.dtype),
      param_dtype=jnp.dtype(config.param_dtype),
    )
  return VisionTransformer(config, variant, num_classes, device_class)


def resized_model(
  model: nn.Module, *, image_size: tuple[int, int], patch_size: int | None = None
) -> nn.Module:
  """Returns the network that runs the same parameters on images or patches of another size.

  A transformer resizes its position tables to the grid that it meets, and with `patch_size` its patch embedding's
  kernel (FlexiViT, arXiv 2212.08013). A ResNet takes any image as it is.

  Args:
    model: from `build_model`.
    image_size: height and width in pixels that the parameters are stored for.
    patch_size: side of the patches to cut, pixels; None: the model's own.
  """
  if not isinstance(model, VisionTransformer):
    assert patch_size is None, 'checked in config/'
    return model
  down = model.variant.downsample
  table_grid = (-(-image_size[0] // down), -(-image_size[1] // down))
  return model.clone(table_grid=table_grid, patch_size=patch_size)
