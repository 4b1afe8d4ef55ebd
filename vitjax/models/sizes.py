"""ModelConfig -> the sizes of a network, checked. Imports nothing of jax.

Recipes were checked by config/ before; this is for models built directly, and names the same knobs.
"""

from __future__ import annotations

import dataclasses

from vitjax.config.checks.ignored import VIT_ONLY
from vitjax.config.knobs import Knob, fields_of
from vitjax.config.naflex import NativePatches
from vitjax.config.schema import DataConfig, ModelConfig
from vitjax.config.suggest import did_you_mean, nearest_divisors, nearest_multiples
from vitjax.config.values import Mismatch, convert, out_of_range
from vitjax.config.variants import ResNetVariant, ViTVariant, parse_variant, variant_examples
from vitjax.errors import ConfigError, Problem

_SIZE_KNOBS = ('width', 'depth', 'mlp_dim', 'num_heads', 'qk_norm', 'parallel_blocks')


def resolve_variant(config: ModelConfig) -> ViTVariant | ResNetVariant:
  """Returns the sizes that `config.variant` names, with the config's own size knobs put in.

  Raises:
    ConfigError: values of a wrong type or out of range, sizes that do not fit each other, settings that the
      variant would ignore. Lists all.
  """
  problems = _value_problems(config)
  headline = f'model {config.variant!r} cannot be built as configured'
  if problems:
    raise ConfigError(headline, problems)
  try:
    variant = parse_variant(config.variant)
  except ValueError as error:
    hint = did_you_mean(config.variant, variant_examples())
    problem = Problem('model.variant', repr(config.variant), 'a known variant', f'{error}. {hint}')
    raise ConfigError(headline, [problem]) from None
  if isinstance(variant, ResNetVariant):
    problems = _resnet_problems(config)
  else:
    variant = _override(variant, config)
    problems = _vit_problems(config, variant)
  if problems:
    raise ConfigError(headline, problems)
  return variant


def num_prefix_tokens(config: ModelConfig) -> int:
  """Returns how many tokens stand before the patches: the class token (pool='token') and the registers."""
  return int(config.pool == 'token') + config.num_registers


def native_patches(model: ModelConfig, data: DataConfig) -> NativePatches | None:
  """Returns how images at their own aspect ratio are cut; None where data.max_tokens is None."""
  if data.max_tokens is None:
    return None
  variant = resolve_variant(model)
  assert isinstance(variant, ViTVariant), 'checked in config/'
  return NativePatches(data.max_tokens, variant.patch_size)


def image_shape(model: ModelConfig, data: DataConfig) -> tuple[int, ...]:
  """Returns the shape of one image in a batch, uint8: [h, w, 3], or patches and their places with data.max_tokens."""
  native = native_patches(model, data)
  return (*data.image_size, 3) if native is None else native.shape


def computed_size(model: ModelConfig, data: DataConfig) -> tuple[int, int]:
  """Returns (height, width) of what a step computes on, pixels: data.image_size, or as much as max_tokens patches."""
  native = native_patches(model, data)
  return data.image_size if native is None else native.strip_size


def _override(variant: ViTVariant, config: ModelConfig) -> ViTVariant:
  """Returns the variant with every size knob that is not None put in."""
  knobs = {name: getattr(config, name) for name in _SIZE_KNOBS if getattr(config, name) is not None}
  size = dataclasses.replace(variant.size, **knobs)
  patch = variant.patch_size if config.patch_size is None else config.patch_size
  downsample = variant.downsample // variant.patch_size * patch
  return dataclasses.replace(variant, size=size, patch_size=patch, downsample=downsample)


def _value_problems(config: ModelConfig) -> list[Problem]:
  """Returns a problem for each knob whose type or value the schema rules out."""
  problems = []
  for name, knob in fields_of(ModelConfig).items():
    assert isinstance(knob, Knob), name
    value = getattr(config, name)
    try:
      hint = out_of_range(convert(value, knob.type, knob.info), knob.type, knob.info)
    except Mismatch as mismatch:
      hint = mismatch.hint
    if hint is not None:
      problems.append(Problem(f'model.{name}', repr(value), knob.expected, hint))
  return problems


def _resnet_problems(config: ModelConfig) -> list[Problem]:
  """Returns a problem for each setting that a ResNet would ignore."""
  problems = []
  for name, knob in fields_of(ModelConfig).items():
    assert isinstance(knob, Knob), name
    value = getattr(config, name)
    if name in VIT_ONLY and value != knob.default:
      expected = f'its default {knob.default!r}, since only transformer variants read it'
      problems.append(Problem(f'model.{name}', repr(value), expected))
  return problems


def _vit_problems(config: ModelConfig, variant: ViTVariant) -> list[Problem]:
  """Returns what does not fit together in a transformer."""
  width, num_heads = variant.size.width, variant.size.num_heads
  problems = []
  if width % num_heads:
    hint = f'Nearest: {nearest_divisors(num_heads, width)}'
    problems.append(Problem('model.num_heads', str(num_heads), f'a divisor of the width, {width}', hint))
  for kind, unit in (('sincos_2d', 4), ('learned_2d', 2)):
    if config.position == kind and width % unit:
      expected, hint = (
        f'a multiple of {unit} for position={kind!r}',
        f'Nearest: {nearest_multiples(width, unit)}',
      )
      problems.append(Problem('model.width', str(width), expected, hint))
  place = repr(config.position_at)
  if config.position == 'none' and config.position_at != 'stem':
    problems.append(Problem('model.position_at', place, "'stem' with position='none'", 'Nothing is added'))
  if config.position == 'sincos_2d' and config.position_at == 'every_layer':
    expected, hint = "'stem' or 'every_layer_shared'", 'The table is fixed, so layers cannot have their own'
    problems.append(Problem('model.position_at', place, f"{expected} with position='sincos_2d'", hint))
  return problems
