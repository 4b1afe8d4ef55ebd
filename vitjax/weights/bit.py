"""The .npz files of BiT ResNets, in and out.

Two families: the original TensorFlow dumps (resnet/block1/unit01/a/standardized_conv2d/kernel) and the Flax
trees of big_vision, whose names are vitjax's own apart from the form of the head and of the norms. The names of
the dumps are those that two independent readers (big_vision, timm) look for; no original file was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.config.variants import RESNET_UNITS, ResNetVariant, parse_variant
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError, Problem
from vitjax.weights.entries import Entry
from vitjax.weights.imported import (
  Exported,
  Imported,
  Shape,
  Size,
  expected_shapes,
  fit_problems,
  raise_problems,
)
from vitjax.weights.placing import (
  Alias,
  find_prefix,
  lost_by_npz,
  mismatches,
  num_outputs,
  place,
  preprocess_assumption,
  preprocess_checks,
  read_params,
  report_of,
  shapes_of,
  stored_dtype,
)

LAYOUTS = ('official', 'big_vision')
PREFIXES = ('', 'resnet/', 'params/', 'opt/target/')
# A convolutional network has no size of its own: the files do not say what it was trained on.
ASSUMED_SIZE: Size = (224, 224)

_MARKS = ('root_block/conv_root/kernel', 'root_block/standardized_conv2d/kernel')
_UNIT_PREFIX = r'^(block\d+/unit\d+/)'
_TF, _FLAX = 'TensorFlow dumps', 'big_vision bit_paper'
# Old spellings, in the order in which they are applied.
ALIASES = (
  Alias(r'standardized_conv2d_\d+/', 'standardized_conv2d/', 'some TensorFlow dumps'),
  Alias('^root_block/standardized_conv2d/', 'root_block/conv_root/', _TF),
  Alias(f'{_UNIT_PREFIX}a/proj/standardized_conv2d/', r'\1conv_proj/', _TF),
  *(
    Alias(f'{_UNIT_PREFIX}{letter}/standardized_conv2d/', rf'\1conv{number}/', _TF)
    for number, letter in enumerate('abc', 1)
  ),
  *(
    Alias(f'{_UNIT_PREFIX}{letter}/group_norm/', rf'\1gn{number}/', _TF)
    for number, letter in enumerate('abc', 1)
  ),
  Alias('^group_norm/', 'norm-pre-head/', _TF),
  Alias(r'(^norm-pre-head|/gn\d)/gamma$', r'\1/scale', _TF),
  Alias(r'(^norm-pre-head|/gn\d)/beta$', r'\1/bias', _TF),
  Alias('^head/conv2d/', 'head/', _TF),
  Alias('^conv_head/', 'head/', _FLAX),
)
# The way back to the dumps; each is applied where it matches.
_OFFICIAL_NAMES = (
  ('^root_block/conv_root/', 'root_block/standardized_conv2d/'),
  (f'{_UNIT_PREFIX}conv_proj/', r'\1a/proj/standardized_conv2d/'),
  *((f'{_UNIT_PREFIX}conv{n}/', rf'\1{letter}/standardized_conv2d/') for n, letter in enumerate('abc', 1)),
  *((f'{_UNIT_PREFIX}gn{n}/', rf'\1{letter}/group_norm/') for n, letter in enumerate('abc', 1)),
  ('^norm-pre-head/', 'group_norm/'),
  ('group_norm/scale$', 'group_norm/gamma'),
  ('group_norm/bias$', 'group_norm/beta'),
  ('^head/', 'head/conv2d/'),
)
_SQUEEZED = {r'(norm-pre-head|block\d+/unit\d+/gn\d)/(scale|bias)': 3, 'head/kernel': 2}
_UNIT = re.compile(r'block(\d{1,4})/unit(\d{1,4})/.*')


def recognises(keys: Mapping[str, Shape], config: Mapping[str, Any] | None = None) -> bool:
  """Returns whether these are the arrays of a BiT ResNet; `config` (of a config.json) must be None."""
  return config is None and find_prefix(keys, PREFIXES, _MARKS) is not None


def load(path: str, entries: Mapping[str, Entry]) -> Imported:
  """Returns the model in a BiT .npz file; its image size is an assumption, and any other size works.

  Args:
    path: the file's name, for errors.
    entries: its arrays, from `files.read_npz`.

  Raises:
    CheckpointError: arrays that are missing, left over or of a wrong shape, with the names of all.

  Source: BiT, arXiv 1912.11370.
  """
  prefix = find_prefix(entries, PREFIXES, _MARKS)
  if prefix is None:
    expected = f'{_MARKS[0]} or {_MARKS[1]} below one of the prefixes {PREFIXES}'
    raise CheckpointError(f'{path} holds no BiT ResNet', [Problem(path, 'no root convolution', expected)])
  placements, unused, problems = place(entries, prefix=prefix, aliases=ALIASES, squeezed=_SQUEEZED)
  raise_problems(f'{path} does not fit', problems)
  shapes = shapes_of(placements)
  model = ModelConfig(variant=_variant(path, shapes), param_dtype=stored_dtype(placements))
  num_classes = num_outputs(shapes, 'head/kernel') or 0
  expected = expected_shapes(model, num_classes=num_classes, image_size=ASSUMED_SIZE)
  raise_problems(
    f'{path} does not fit {model.variant}, as which it was read', mismatches(placements, expected)
  )
  return Imported(
    format='bit_npz',
    model=model,
    num_classes=num_classes,
    image_size=ASSUMED_SIZE,
    params=read_params(placements),
    preprocess=Preprocess(ASSUMED_SIZE),
    class_names=None,
    assumed=(preprocess_assumption(ASSUMED_SIZE),),
    report=report_of(placements, unused),
  )


def _variant(path: str, shapes: Mapping[str, Shape]) -> str:
  """Returns the name of the ResNet with these residual units and this width.

  Raises:
    CheckpointError: the size table has no such ResNet.
  """
  found: dict[int, int] = {}
  for name in shapes:
    if match := _UNIT.fullmatch(name):
      stage, unit = int(match[1]), int(match[2])
      found[stage] = max(unit, found[stage]) if stage in found else unit
  units = tuple(found[stage] for stage in sorted(found))
  root = shapes['root_block/conv_root/kernel']
  names = [name for name, row in RESNET_UNITS.items() if row == units]
  problems = []
  if not names:
    known = ', '.join(f'{name} {row}' for name, row in RESNET_UNITS.items())
    problems.append(Problem('block*/unit*', f'residual units {units} per stage', known))
  if len(root) != 4 or root[:2] != (7, 7) or root[3] % 64:
    problems.append(
      Problem('root_block/conv_root/kernel', f'shape {list(root)}', '(7, 7, 3, a multiple of 64)')
    )
  raise_problems(f'{path} is no ResNet of the size table', problems)
  return f'{names[0]}x{root[3] // 64}'


def export(
  params: Mapping[str, Any],
  model: ModelConfig,
  num_classes: int,
  image_size: Size,
  preprocess: Preprocess,
  class_names: Sequence[str] | None = None,
  *,
  layout: str = 'official',
  prefix: str | None = None,
) -> Exported:
  """Returns the arrays of a BiT .npz file; `files.write_npz` writes them.

  Args:
    params: the parameters, numpy or jax arrays.
    model: their model, a BiT ResNet.
    num_classes: outputs of the head; 0: no head.
    image_size: (h, w) in pixels; not stored.
    preprocess: what the model was evaluated with; pixels must go to [-1, 1], as readers take for granted.
    class_names: not stored, and mentioned in `lost`.
    layout: 'official' (the TensorFlow dumps: the head is a 1x1 convolution) or 'big_vision' (vitjax's own names).
    prefix: put before each name; None: 'resnet/' for official, 'params/' for big_vision.

  Raises:
    CheckpointError: parameters that are not the model's, or what the layout cannot express. Lists all.
  """
  flat = trees.flatten(params)
  problems = []
  variant = parse_variant(model.variant)
  if layout not in LAYOUTS:
    problems.append(Problem('layout', repr(layout), f'one of {", ".join(LAYOUTS)}'))
  if not isinstance(variant, ResNetVariant) or variant.small_root:
    problems.append(
      Problem('model.variant', repr(model.variant), 'a BiT ResNet with the 7x7 root, such as R50x1')
    )
  else:
    expected = expected_shapes(model, num_classes=num_classes, image_size=image_size)
    problems += fit_problems({path: tuple(np.shape(leaf)) for path, leaf in flat.items()}, expected)
  checks = preprocess_checks(image_size, preprocess)
  problems += [
    Problem(where, repr(found), wanted, hint) for good, where, found, wanted, hint in checks if not good
  ]
  raise_problems(f'the model cannot be written as {layout} BiT .npz', problems)
  arrays = {path: np.asarray(leaf) for path, leaf in flat.items()}
  if layout == 'official':
    if 'head/kernel' in arrays:
      arrays['head/kernel'] = arrays['head/kernel'][None, None]
    arrays = {_official_name(path): array for path, array in arrays.items()}
  if prefix is None:
    prefix = 'resnet/' if layout == 'official' else 'params/'
  lost = (*lost_by_npz(preprocess, class_names), f'the image size, {image_size[0]}x{image_size[1]}')
  return Exported({prefix + path: array for path, array in arrays.items()}, lost=lost)


def _official_name(path: str) -> str:
  """Returns a parameter's name in the TensorFlow dumps, without prefix."""
  for pattern, name in _OFFICIAL_NAMES:
    path = re.sub(pattern, name, path)
  return path
