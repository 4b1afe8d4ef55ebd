"""Numbers of tokens that change from step to step or from one evaluation to the next."""

from __future__ import annotations

from collections import Counter

from vitjax.config.checks.base import Findings, sizes
from vitjax.config.schema import EvalConfig
from vitjax.config.suggest import nearest_divisors, nearest_multiples
from vitjax.config.variants import ResNetVariant, ViTVariant

_RELATIVE_HINT = 'Offsets along the raster mean other places on another grid'


def check_tokens(found: Findings) -> None:
  """Reports patch and image sizes that do not fit, and dropped tokens that positions would not follow."""
  variant = found.variant()
  if variant is None:
    return
  if isinstance(variant, ViTVariant):
    _check_dropping(found)
    _check_patch_sizes(found, variant)
  for name, config in found.recipe.evals.items():
    _check_eval(found, variant, f'evals.{name}', config)


def _check_dropping(found: Findings) -> None:
  model, where = found.recipe.model, 'model.token_drop_rate'
  if model.token_drop_rate == 0 or not found.good('model.position', 'model.position_at'):
    return
  if model.position == 'relative':
    found.add(where, "0 with model.position = 'relative'", 'Each image would need keys of its own')
  elif model.position_at != 'stem':
    found.add(where, f'0 with model.position_at = {model.position_at!r}', "Add positions at the 'stem'")


def _check_patch_sizes(found: Findings, variant: ViTVariant) -> None:
  model, where = found.recipe.model, 'model.patch_sizes'
  if not model.patch_sizes:
    return
  if len(model.patch_sizes) < 2:
    found.add(where, 'two sizes or more, or ()', 'For a single size set model.patch_size')
  _check_different(found, where, model.patch_sizes)
  _check_resizable(found, where, variant)
  if found.good('data.image_size'):
    _check_divisors(found, where, model.patch_sizes, found.recipe.data.image_size)


def _check_eval(found: Findings, variant: ViTVariant | ResNetVariant, where: str, config: EvalConfig) -> None:
  images, patches = f'{where}.image_sizes', f'{where}.patch_sizes'
  _check_different(found, images, config.image_sizes)
  _check_different(found, patches, config.patch_sizes)
  if isinstance(variant, ResNetVariant):
    if config.patch_sizes:
      found.add(patches, '() with a ResNet, which has no patches', 'Judge it at several image_sizes')
    return
  if config.patch_sizes:
    _check_resizable(found, patches, variant)
  elif config.image_sizes and found.good('model.position') and found.recipe.model.position == 'relative':
    found.add(images, "() with model.position = 'relative'", _RELATIVE_HINT)
  if not found.good('data.image_size', 'model.patch_size', images):
    return
  for side in config.image_sizes or ():
    if config.patch_sizes:
      _check_divisors(found, patches, config.patch_sizes, (side, side))
    elif side % (step := sizes(variant, found.recipe.model).downsample):
      hint = f'Nearest to {side}: {nearest_multiples(side, step)}'
      found.add(images, f'multiples of the {step} pixels of a patch', hint)
  if not config.image_sizes:
    _check_divisors(found, patches, config.patch_sizes, found.recipe.data.image_size)


def _check_resizable(found: Findings, where: str, variant: ViTVariant) -> None:
  if variant.stem_units:
    found.add(where, '() with a hybrid, whose patches are cut of a feature map', 'Such as "S/16"')
  if found.good('model.position') and found.recipe.model.position == 'relative':
    found.add(where, "() with model.position = 'relative'", _RELATIVE_HINT)


def _check_divisors(found: Findings, where: str, patches: tuple[int, ...], image: tuple[int, int]) -> None:
  for patch in patches:
    if any(side % patch for side in image):
      near = nearest_divisors(patch, image[0])
      found.add(where, f'divisors of the image, {image[0]}x{image[1]} pixels', f'Nearest to {patch}: {near}')
      return


def _check_different(found: Findings, where: str, values: tuple[int, ...]) -> None:
  repeated = [value for value, times in Counter(values).items() if times > 1]
  if repeated:
    found.add(where, 'different sizes', f'{repeated[0]} stands there twice')
