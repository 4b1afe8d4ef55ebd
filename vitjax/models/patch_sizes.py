"""Parameters of a transformer resized for patches of another size, once and for all."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.config.suggest import nearest_divisors
from vitjax.config.variants import ViTVariant
from vitjax.errors import ConfigError, Problem
from vitjax.models.sizes import resolve_variant
from vitjax.ops.patches import pi_resize, resize_cells
from vitjax.ops.positions import Grid

_TABLE = re.compile(r'Transformer/(encoderblock(_\d+)?/)?posembed_input/pos_embedding(?P<axis>_[xy])?')


def with_patch_size(
  config: ModelConfig, params: Any, *, image_size: tuple[int, int], patch_size: int
) -> tuple[ModelConfig, Any]:
  """Returns the config and the parameters of the same network for patches of another size. Host-side.

  It computes what `resized_model(..., patch_size=...)` computes, whose parameters stay as they were.

  Args:
    config: of the network.
    params: its parameters, nested dict of numpy arrays.
    image_size: height and width in pixels that they are stored for, and stay for.
    patch_size: side of the new patches, pixels.

  Raises:
    ConfigError: a model whose patches cannot be resized, or a size that does not divide the image.

  Source: FlexiViT (arXiv 2212.08013) 3.4.
  """
  variant = resolve_variant(config)
  _check(config, variant, image_size, patch_size)
  assert isinstance(variant, ViTVariant)
  old, new = ((image_size[0] // side, image_size[1] // side) for side in (variant.patch_size, patch_size))
  num_prefix = int(config.pool == 'token')

  def resized(path: str, leaf: np.ndarray) -> np.ndarray:
    if path == 'embedding/kernel':
      return np.asarray(pi_resize(leaf, patch_size))
    match = _TABLE.fullmatch(path)
    if match is None:
      return leaf
    if leaf.ndim == 4:  # blocks stacked on axis 0
      return np.stack([resized(path, table) for table in leaf])
    if match['axis'] is None:
      return _resize(leaf, old, new, num_prefix)
    axis = 1 if match['axis'] == '_x' else 0
    return _resize(leaf, (1, old[axis]), (1, new[axis]), 0)

  return dataclasses.replace(config, patch_size=patch_size), trees.map_with_path(resized, params)


def _resize(table: np.ndarray, old: Grid, new: Grid, num_prefix: int) -> np.ndarray:
  cells = np.asarray(resize_cells(table[:, num_prefix:], old, new), table.dtype)
  return np.concatenate([table[:, :num_prefix], cells], axis=1)


def _check(config: ModelConfig, variant: Any, image_size: tuple[int, int], patch_size: int) -> None:
  found, problems = f'{patch_size} pixels', []
  if not isinstance(variant, ViTVariant) or variant.stem_units:
    hint = 'A ResNet has no patches, those of a hybrid are cut of a feature map'
    problems.append(Problem('patch_size', found, f'None with {config.variant}', hint))
  elif patch_size < 1 or any(side % patch_size for side in image_size):
    hint = f'Nearest: {nearest_divisors(max(patch_size, 1), image_size[0])}'
    expected = f'a divisor of the image, {image_size[0]}x{image_size[1]} pixels'
    problems.append(Problem('patch_size', found, expected, hint))
  if config.position == 'relative':
    hint = 'Offsets along the raster mean other places on another grid'
    problems.append(Problem('patch_size', found, "None with model.position = 'relative'", hint))
  if problems:
    raise ConfigError('the patches cannot be resized', problems)
