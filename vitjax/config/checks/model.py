"""The network: variant, sizes that must divide one another, and the image it is given."""

from __future__ import annotations

import math

from vitjax.config.checks.base import KNOWN_CLASSES, Findings, Sizes, sizes
from vitjax.config.suggest import did_you_mean, nearest_divisors, nearest_multiples
from vitjax.config.values import shown
from vitjax.config.variants import ResNetVariant, ViTVariant, parse_variant, variant_examples


def check_model(found: Findings) -> None:
  """Reports a variant that does not exist, and sizes that do not fit together."""
  variant = found.variant()
  if variant is None:
    _check_variant(found)
  elif isinstance(variant, ViTVariant):  # a ResNet takes any image size
    size = sizes(variant, found.recipe.model)
    _check_width(found, size)
    _check_positions(found, size)
    _check_patches(found, variant, size)
    _check_attention(found, size)
  if isinstance(variant, ResNetVariant):
    _check_no_attention(found)
  if found.good('objective.name') and found.recipe.objective.name == 'masked_patch':
    _check_headless(found, variant)
  else:
    _check_classes(found)


def _check_variant(found: Findings) -> None:
  name = found.recipe.model.variant
  try:
    parse_variant(name)
  except ValueError as error:
    reason = str(error).replace(repr(name), '').lstrip(': ')
    hint = did_you_mean(name, variant_examples()) or f'{shown(name)}: {reason}'
    found.add('model.variant', 'a variant such as "B/16", "R50+B/16" or "R50x1"', hint)


def _check_width(found: Findings, size: Sizes) -> None:
  model = found.recipe.model
  if found.good('model.width', 'model.num_heads') and size.width % size.num_heads:
    if model.num_heads is not None:
      hint = f'Nearest: {nearest_divisors(size.num_heads, size.width)} heads'
      found.add('model.num_heads', f'a divisor of the width, {size.width}', hint)
    else:
      hint = f'Nearest: {nearest_multiples(size.width, size.num_heads)}'
      found.add('model.width', f'a multiple of the number of heads, {size.num_heads}', hint)


def _check_positions(found: Findings, size: Sizes) -> None:
  model = found.recipe.model
  if model.position == 'sincos_2d' and model.position_at == 'every_layer' and found.good('model.position'):
    hint = 'The table is fixed, so layers cannot have tables of their own'
    found.add('model.position_at', "'stem' or 'every_layer_shared' with model.position = 'sincos_2d'", hint)
  unit = {'sincos_2d': 4, 'learned_2d': 2}
  if found.good('model.position', 'model.width') and model.position in unit:
    divisor = unit[model.position]
    if size.width % divisor:
      hint = f'Nearest: {nearest_multiples(size.width, divisor)}'
      expected = f'a multiple of {divisor}, for model.position = {model.position!r}'
      found.add('model.width', expected, hint, found=str(size.width))


def _check_patches(found: Findings, variant: ViTVariant, size: Sizes) -> None:
  if not found.good('model.patch_size', 'data.image_size'):
    return
  h, w = found.recipe.data.image_size
  step = size.downsample
  if h % step == 0 and w % step == 0:
    return
  if h == w:
    images = f'Nearest sizes: {nearest_multiples(h, step)}'
  else:
    images = f'Nearest sizes: {nearest_multiples(h, step)} high, {nearest_multiples(w, step)} wide'
  if found.recipe.model.patch_size is not None:
    stem = variant.downsample // variant.patch_size
    common = math.gcd(h, w)
    patches = nearest_divisors(size.patch_size, common // stem) if common % stem == 0 else ''
    what = f'sides of data.image_size = {h, w}' + (
      f' after the stem, which divides by {stem},' if stem > 1 else ''
    )
    hint = f'Nearest patches: {patches}. {images}' if patches else images
    found.add('model.patch_size', f'a divisor of both {what} in pixels', hint)
  else:
    why = 'stem and patch of' if variant.stem_units else 'the patch of'
    expected = f'two multiples of {step} pixels, {why} model.variant = {found.recipe.model.variant!r}'
    found.add('data.image_size', expected, images)


def _check_no_attention(found: Findings) -> None:
  """Reports evaluators that a ResNet has nothing for."""
  for name, config in found.recipe.evals.items():
    if config.kind == 'attention':
      variant = shown(found.recipe.model.variant)
      hint = (
        f'Leave the evaluator out, or change model.variant from {variant} to a transformer such as "S/16"'
      )
      found.add(f'evals.{name}.kind', 'an evaluator for a ResNet, which has no attention', hint)


def _check_headless(found: Findings, variant: ViTVariant | ResNetVariant | None) -> None:
  name = "objective.name = 'masked_patch'"
  if found.good('model.num_classes') and found.recipe.model.num_classes != 0:
    hint = 'Fine-tuning puts a head on: init.checkpoint, or load(path, num_classes=..., head="reset")'
    found.add('model.num_classes', f'0 with {name}, which trains no head', hint)
  if isinstance(variant, ResNetVariant):
    found.add('model.variant', f'a transformer with {name}: a ResNet has no patches', 'Such as "S/16"')
  for path in found.head_sources():
    if path != 'data.source':
      where = path.rpartition('.')[0]
      hint = 'Judge frozen features: fewshot, knn or linear_probe; or look at attention'
      found.add(f'{where}.kind', f'an evaluator of features with {name}: there is no head', hint)


def _check_attention(found: Findings, size: Sizes) -> None:
  """Reports what cuDNN's attention cannot do, since it would then be ignored."""
  model = found.recipe.model
  if not found.good('model.attention') or model.attention != 'cudnn':
    return
  reasons = []
  if found.good('model.dtype') and model.dtype != 'bfloat16':
    reasons.append("model.dtype = 'bfloat16'")
  if found.good('model.position') and model.position == 'relative':
    reasons.append("a model.position other than 'relative'")
  if found.good('model.attention_dropout_rate') and model.attention_dropout_rate:
    reasons.append('model.attention_dropout_rate = 0')
  if found.good('model.width', 'model.num_heads') and size.width % size.num_heads == 0:
    head_dim = size.width // size.num_heads
    if head_dim % 8 or head_dim > 128:
      reasons.append(f'a head dim (here {head_dim}) that is a multiple of 8 and at most 128')
  if reasons:
    expected = f"'auto' or 'plain', since cuDNN's attention needs {', '.join(reasons)}"
    found.add('model.attention', expected, "'auto' uses it wherever it can be used")


def _check_classes(found: Findings) -> None:
  model, loss = found.recipe.model, found.recipe.objective.loss
  count = model.num_classes
  if count is None or not found.good('model.num_classes'):
    return
  smallest = 2 if loss == 'softmax' else 1
  if found.good('objective.loss') and count < smallest:
    expected = (
      f"at least {smallest} to learn from labels with objective.loss = {loss!r}, or None for the source's own"
    )
    found.add('model.num_classes', expected, 'Leave it out to take the number of classes of data.source')
    return
  largest: tuple[int, str] = (0, '')
  for path in found.head_sources():
    source = found.source(path)
    known = KNOWN_CLASSES[source.kind] if source.kind in KNOWN_CLASSES else source.num_classes
    if known is not None and known > largest[0] and found.good(f'{path}.kind', f'{path}.num_classes'):
      largest = (known, path)
  if count < largest[0]:
    expected = f'at least {largest[0]}, the classes of {largest[1]}'
    found.add('model.num_classes', expected, f'Nearest: {largest[0]}')
