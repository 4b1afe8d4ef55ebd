"""What the formats of the PyTorch libraries share: what they cannot express, token tables, preprocessing. Host-side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError, Problem
from vitjax.models import resolve_variant, unstack_blocks
from vitjax.ops.positions import sincos_2d
from vitjax.weights.entries import Entry
from vitjax.weights.imported import Shape, Size, expected_shapes, fit_problems, raise_problems

POSITIONS = 'Transformer/posembed_input/pos_embedding'
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# What Pillow and torchvision call a filter that antialiases.
INTERPOLATIONS = {'nearest': 'nearest', 'bilinear': 'bilinear_antialias', 'bicubic': 'bicubic_antialias'}


def checked_params(
  params: Mapping[str, Any], model: ModelConfig, num_classes: int, image_size: Size, *, library: str
) -> tuple[dict[str, np.ndarray], ViTVariant]:
  """Returns ({'a/b/c': array} in loop form, the variant) of a model that a PyTorch library could express.

  Raises:
    CheckpointError: parameters that are not the model's, or knobs that neither library has. Lists all.
  """
  flat = trees.flatten(unstack_blocks(params))
  expected = expected_shapes(model, num_classes=num_classes, image_size=image_size)
  problems = fit_problems({path: tuple(np.shape(leaf)) for path, leaf in flat.items()}, expected)
  variant = resolve_variant(model)
  headline = f'the model cannot be written for {library}'
  if not isinstance(variant, ViTVariant):
    problems.append(Problem('model.variant', repr(model.variant), 'a transformer', 'ResNets go to .npz'))
    raise CheckpointError(headline, problems)
  size, expected_form = variant.size, f'one that {library} has'
  exotic = {
    'qk_norm': (size.qk_norm, False),
    'parallel_blocks': (size.parallel_blocks, False),
    'variant': (model.variant if not (size.use_qkv_bias and size.use_norm_bias) else True, True),
    'position_at': (model.position_at, 'stem'),
  }
  for knob, (value, plain) in exotic.items():
    if value != plain:
      problems.append(Problem(f'model.{knob}', repr(value), f'{plain!r}, {expected_form}'))
  if model.position == 'relative':
    problems.append(Problem('model.position', "'relative'", f'an additive table, {expected_form}'))
  raise_problems(headline, problems)
  return {path: np.asarray(leaf) for path, leaf in flat.items()}, variant


def with_learned_positions(
  flat: Mapping[str, np.ndarray], model: ModelConfig, grid: Size
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  """Returns (parameters with every additive kind of position as one learned table, what is lost by that).

  Args:
    flat: the parameters.
    model: its `position` is not 'relative', its `position_at` is 'stem'.
    grid: (h, w) patches.
  """
  if model.position == 'learned_1d':
    return dict(flat), ()
  folder = POSITIONS.removesuffix('pos_embedding')
  result = {path: leaf for path, leaf in flat.items() if not path.startswith(folder)}
  (h, w), width = grid, flat['embedding/kernel'].shape[-1]
  dtype = flat['embedding/kernel'].dtype
  first = np.zeros((1, int(model.pool == 'token'), width), dtype)
  if model.position == 'learned_2d':
    x, y = flat[f'{folder}pos_embedding_x'][0], flat[f'{folder}pos_embedding_y'][0]
    x, y = np.broadcast_to(x, (h, *x.shape)), np.broadcast_to(y[:, None], (h, w, y.shape[1]))
    cells = np.concatenate([x, y], axis=-1).reshape(1, h * w, width)
    if model.pool == 'token':
      first = flat[f'{folder}pos_embedding_cls']
  elif model.position == 'sincos_2d':
    cells = sincos_2d(h, w, width)[None].astype(dtype)
  else:
    cells = np.zeros((1, h * w, width), dtype)
  result[POSITIONS] = np.concatenate([first, cells], axis=1)
  return result, (f'model.position={model.position!r} became a learned table with the same values',)


def without_rows(entry: Entry, start: int, stop: int) -> Entry:
  """Returns the entry of a table [1, l, d] without rows start ... stop - 1."""
  shape = (1, entry.shape[1] - (stop - start), entry.shape[2])
  return Entry(shape, entry.dtype, lambda: np.delete(entry.read(), np.s_[start:stop], axis=1))


def joined_tokens(tokens: list[Entry], table: Entry | None, start: int) -> Entry:
  """Returns the entry of tokens [1, t, d] one after the other, plus the rows of `table` from `start` on.

  A token that has a position of its own is the same model as a token with the sum of both and none.
  """
  shape: Shape = (1, sum(token.shape[1] for token in tokens), tokens[0].shape[2])

  def read() -> np.ndarray:
    joined = np.concatenate([token.read() for token in tokens], axis=1)
    return joined if table is None else joined + table.read()[:, start : start + shape[1]]

  return Entry(shape, tokens[0].dtype, read)


def scaled_preprocess(preprocess: Preprocess, size: Size) -> Preprocess:
  """Returns the same preparation for another image size: the share of the image that is cut out is kept."""
  short = preprocess.resize_short
  if short is not None:
    short = max(round(short * max(size) / max(preprocess.image_size)), max(size))
  return Preprocess(size, preprocess.mean, preprocess.std, preprocess.interpolation, short)


def filter_name(preprocess: Preprocess, *, library: str) -> tuple[str, tuple[str, ...]]:
  """Returns (the interpolation by Pillow's name, what is lost by calling it so)."""
  for name, ours in INTERPOLATIONS.items():
    if ours == preprocess.interpolation:
      return name, ()
  name = 'bicubic' if preprocess.interpolation == 'bicubic' else 'bilinear'
  text = f'preprocess.interpolation={preprocess.interpolation!r}: {library} will use antialiased {name}'
  return name, (text,)


def triple(value: Any, where: str) -> tuple[float, float, float] | Problem:
  """Returns a JSON list of three finite numbers as floats, or what is wrong with it."""
  good = isinstance(value, list | tuple) and len(value) == 3
  if good and all(type(x) in (int, float) and math.isfinite(x) for x in value):
    return float(value[0]), float(value[1]), float(value[2])
  return Problem(where, str(value)[:80], 'three numbers')


def size_pair(value: Any) -> Size | None:
  """Returns a JSON number or list of two as (h, w), None when it is neither."""
  if isinstance(value, list | tuple) and len(value) == 2 and all(type(x) is int and x > 0 for x in value):
    return value[0], value[1]
  return (value, value) if type(value) is int and value > 0 else None
