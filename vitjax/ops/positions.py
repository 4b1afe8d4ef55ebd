"""Position tables: fixed sines, offsets between tokens, and resampling to another grid. Host-side numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from vitjax.errors import CheckpointError, ConfigError, Problem

Grid = tuple[int, int]

METHODS = ('zoom', 'bilinear', 'bicubic')


def sincos_2d(h: int, w: int, d: int, *, temperature: float = 1e4) -> np.ndarray:
  """Returns the fixed 2-D sine-cosine position table. Host-side.

  Each cell holds [sin x*f, cos x*f, sin y*f, cos y*f] for d/4 frequencies f = temperature**(-i / (d/4 - 1)).

  Args:
    h: grid rows.
    w: grid columns.
    d: table width, a multiple of 4.
    temperature: ratio of the highest to the lowest frequency.

  Returns:
    float32 [h * w, d], rows in raster order.

  Raises:
    ConfigError: `d` is not a multiple of 4.

  Source: plain-ViT baselines (arXiv 2205.01580), in the form of MoCo v3 (2104.02057).
  """
  if d % 4:
    problem = Problem('width', str(d), 'a multiple of 4', 'sincos_2d holds a sine and a cosine of x and of y')
    raise ConfigError('sincos_2d positions do not fit this width', [problem])
  frequency = sincos_frequencies(d, temperature=temperature)
  y, x = np.mgrid[:h, :w].reshape(2, h * w, 1)
  table = np.concatenate(
    [np.sin(x * frequency), np.cos(x * frequency), np.sin(y * frequency), np.cos(y * frequency)], axis=1
  )
  return table.astype(np.float32)


def sincos_frequencies(d: int, *, temperature: float = 1e4) -> np.ndarray:
  """Returns float64 [d / 4], the frequencies of `sincos_2d`."""
  return temperature ** -(np.arange(d // 4) / max(d // 4 - 1, 1))


def num_relative_keys(num_patches: int, num_prefix: int) -> int:
  """Returns how many rows `relative_index` points at: 2 * num_patches - 1 offsets, two per prefix token."""
  return 2 * num_patches - 1 + 2 * num_prefix


def relative_index(num_patches: int, num_prefix: int) -> np.ndarray:
  """Returns which relative key each (query, key) pair of tokens uses. Host-side.

  Tokens stand in the order prefix (class token, registers), patches in raster order. A pair of patches uses
  the row of its 1-D offset. An offset means nothing for a prefix token, so prefix token t has two rows of its
  own: one that every query uses when it looks at t, one that t uses when it looks at any patch.

  Args:
    num_patches: patch tokens, >= 1.
    num_prefix: tokens in front of the patches, >= 0.

  Returns:
    int32 [l, l] with l = num_prefix + num_patches. Rows 0 .. 2 * num_patches - 2 are the offsets query - key
    = -(num_patches - 1) .. num_patches - 1, then num_prefix rows 'to prefix t', then num_prefix rows 'from
    prefix t'.

  Source: ViT (arXiv 2010.11929) D.4, with the relative keys of Shaw et al. (1803.02155).
  Differs from source: the paper does not say how the class token takes part.
  """
  p, num_offsets = num_prefix, 2 * num_patches - 1
  place = np.arange(num_patches)
  index = np.empty((p + num_patches, p + num_patches), np.int32)
  index[p:, p:] = place[:, None] - place[None, :] + num_patches - 1
  index[:, :p] = num_offsets + np.arange(p)[None, :]
  index[:p, p:] = num_offsets + p + np.arange(p)[:, None]
  return index


def resample_positions(
  table: np.ndarray, *, old_grid: Grid, new_grid: Grid, num_prefix: int, method: str = 'zoom'
) -> np.ndarray:
  """Returns a learned position table resampled to another grid; its leading rows stay as they are. Host-side.

  Args:
    table: float [1, num_prefix + h * w, d] for old_grid = (h, w), patches in raster order.
    old_grid: rows and columns of `table`.
    new_grid: rows and columns wanted.
    num_prefix: leading rows that are no grid cells (1 for the class token of the official tables, else 0).
    method: 'zoom': linear with corners on corners, as scipy.ndimage.zoom(order=1); 'bilinear', 'bicubic':
      cell centres on a common frame, without antialiasing, as torch's interpolate(align_corners=False),
      bicubic with a = -0.75.

  Returns:
    float32 [1, num_prefix + h' * w', d]; for new_grid == old_grid a bit-identical copy in the table's dtype.

  Raises:
    ConfigError: unknown method.
    CheckpointError: `table` does not hold `old_grid`.

  Source: ViT (arXiv 2010.11929) 3.2.
  Differs from source: rectangular grids work; and for a few sizes, such as 8 -> 26, scipy's rounding puts the
  last cell outside the table and makes it zero, which is not repeated here.
  """
  if method not in METHODS:
    raise ConfigError(
      'positions cannot be resampled',
      [Problem('position_resize', repr(method), f'one of {", ".join(METHODS)}')],
    )
  table = np.asarray(table)
  expected = num_prefix + math.prod(old_grid)
  if table.ndim != 3 or table.shape[:2] != (1, expected) or min(*old_grid, *new_grid) < 1:
    wanted = f'(1, {expected}, d) for {num_prefix} leading tokens and a {old_grid[0]}x{old_grid[1]} grid'
    problem = Problem(
      'pos_embedding', f'shape {table.shape}', wanted, f'asked for a {new_grid[0]}x{new_grid[1]} grid'
    )
    raise CheckpointError('positions cannot be resampled', [problem])
  if tuple(old_grid) == tuple(new_grid):
    return table.copy()
  prefix, cells = np.split(table.astype(np.float64), [num_prefix], axis=1)
  rows, columns = (axis_weights(old, new, method) for old, new in zip(old_grid, new_grid, strict=True))
  cells = cells.reshape(*old_grid, -1)
  cells = np.einsum('Hh,Ww,hwd->HWd', rows, columns, cells, optimize=True).reshape(1, math.prod(new_grid), -1)
  return np.concatenate([prefix, cells], axis=1).astype(np.float32)


def axis_weights(old: int, new: int, method: str) -> np.ndarray:
  """Returns float64 [new, old]: each new cell of one axis as a weighted sum of the old cells. Host-side."""
  target = np.arange(new, dtype=np.float64)
  if method == 'zoom':
    place = target * ((old - 1) / (new - 1)) if new > 1 else target
    return _spread(old, np.minimum(place, old - 1), (0, 1), _hat)
  place = (target + 0.5) * (old / new) - 0.5
  if method == 'bilinear':
    return _spread(old, np.clip(place, 0, old - 1), (0, 1), _hat)
  return _spread(old, place, (-1, 0, 1, 2), _cubic)


def _spread(
  old: int, place: np.ndarray, taps: tuple[int, ...], kernel: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Returns the weight matrix of an interpolation kernel; taps beyond an edge count for the edge cell."""
  weights = np.zeros((len(place), old))
  base = np.floor(place)
  for tap in taps:
    source = np.clip(base + tap, 0, old - 1).astype(int)
    np.add.at(weights, (np.arange(len(place)), source), kernel(place - base - tap))
  return weights


def _hat(t: np.ndarray) -> np.ndarray:
  """Returns the linear interpolation kernel at distances t (|t| <= 1)."""
  return 1 - np.abs(t)


def _cubic(t: np.ndarray) -> np.ndarray:
  """Returns Keys' cubic convolution kernel with a = -0.75 at distances t (|t| <= 2)."""
  a, t = -0.75, np.abs(t)
  near = (a + 2) * t**3 - (a + 3) * t**2 + 1
  far = a * (t**3 - 5 * t**2 + 8 * t - 4)
  return np.where(t <= 1, near, far)
