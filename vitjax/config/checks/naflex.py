"""Images at their own aspect ratio (data.max_tokens): what they cannot be combined with."""

from __future__ import annotations

from vitjax.config.checks.base import Findings
from vitjax.config.schema import EvalConfig
from vitjax.config.variants import ResNetVariant, ViTVariant

_WHERE = 'data.max_tokens'
_HINT = 'Leave data.max_tokens out for images of one size'


def check_native(found: Findings) -> None:
  """Reports settings that need all images of a batch to have one size."""
  if found.recipe.data.max_tokens is None or not found.good(_WHERE):
    return
  variant = found.variant()
  if isinstance(variant, ResNetVariant):
    found.add(_WHERE, 'None with a ResNet, which has no tokens', 'Such as model.variant = "S/16"')
  elif isinstance(variant, ViTVariant) and variant.stem_units:
    found.add(_WHERE, 'None with a hybrid, whose stem needs whole images', 'Such as model.variant = "S/16"')
  _check_model(found)
  _check_data(found)
  for name, config in found.recipe.evals.items():
    _check_eval(found, f'evals.{name}', config)


def _refuse(found: Findings, path: str, wrong: bool, expected: str, hint: str = _HINT) -> None:
  if wrong:
    found.add(path, f'{expected} with {_WHERE}', hint)


def _check_model(found: Findings) -> None:
  model = found.recipe.model
  _refuse(found, 'model.position', model.position == 'relative', "a kind other than 'relative'")
  _refuse(
    found,
    'model.position_at',
    model.position_at == 'every_layer' and model.position != 'relative',
    "'stem' or 'every_layer_shared'",
  )
  _refuse(found, 'model.token_drop_rate', model.token_drop_rate > 0, '0')
  _refuse(found, 'model.patch_sizes', bool(model.patch_sizes), '()', 'The number of tokens is fixed')


def _check_data(found: Findings) -> None:
  data = found.recipe.data
  crops = "'inception', 'random_resized', 'shift' or 'resize'"
  _refuse(found, 'data.crop', data.crop == 'random', crops, 'It cuts all images to one size')
  for name in ('mixup_alpha', 'cutmix_alpha'):
    _refuse(
      found, f'data.{name}', getattr(data, name) > 0, '0', 'Patches of two images stand in different places'
    )
  _refuse(
    found, 'data.augment_on', data.augment_on == 'device', "'workers'", 'There are no whole images there'
  )


def _check_eval(found: Findings, where: str, config: EvalConfig) -> None:
  kind = 'an evaluator of the head or of features'
  _refuse(found, f'{where}.kind', config.kind == 'attention', kind, 'Each image has a grid of its own')
  for name, off in (('resize_short', None), ('image_sizes', ()), ('patch_sizes', ())):
    _refuse(found, f'{where}.{name}', getattr(config, name) != off, repr(off))
