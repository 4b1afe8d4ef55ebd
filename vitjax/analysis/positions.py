"""What position tables hold: each place's likeness to all others, and how far rows and columns explain it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vitjax.analysis.layers import is_transformer, token_layout
from vitjax.loading import Loaded
from vitjax.models import unstack_blocks
from vitjax.ops.positions import resample_positions, sincos_2d
from vitjax.trees import flatten


@dataclasses.dataclass(frozen=True)
class PositionStructure:
  """How a table's variance over the grid splits into rows, columns and the rest; the three sum to 1.

  Attributes:
    rows: share that depends on the row alone.
    columns: share that depends on the column alone.
    rest: what only row and column together explain.
    chance: the expected rows + columns of a table of independent random vectors.
  """

  rows: float
  columns: float
  rest: float
  chance: float


def position_tables(loaded: Loaded) -> dict[str, np.ndarray]:
  """Returns the additive position tables by place, float32 [h, w, d]; {} where there is none. Host-side.

  Keys are 'stem', 'every block' (one table that all blocks add), or 'block 1' ... The class token's row is left
  out. Models without positions, with relative ones, and ResNets have no such table.
  """
  config = loaded.config
  if not is_transformer(loaded) or config.position in ('none', 'relative'):
    return {}
  layout = token_layout(loaded)
  h, w = layout.grid
  whole = 'stem' if config.position_at == 'stem' else 'every block'
  flat = flatten(unstack_blocks(loaded.params))
  if config.position == 'sincos_2d':
    width = flat['Transformer/encoder_norm/scale'].shape[0] if config.width is None else config.width
    return {whole: sincos_2d(h, w, width).reshape(h, w, width)}
  tables = {}
  for path, leaf in flat.items():
    place = whole if path.startswith('Transformer/posembed_input/') else f'block {_block_number(path)}'
    if path.endswith('/pos_embedding'):
      tables[place] = np.asarray(leaf, np.float32)[0, -layout.num_patches :].reshape(h, w, -1)
    elif path.endswith('/pos_embedding_x'):
      x = np.asarray(leaf, np.float32)[0]
      y = np.asarray(flat[path.removesuffix('_x') + '_y'], np.float32)[0]
      left, right = np.broadcast_to(x, (h, *x.shape)), np.broadcast_to(y[:, None], (h, w, y.shape[1]))
      tables[place] = np.concatenate([left, right], axis=-1)
  return dict(sorted(tables.items(), key=lambda item: (len(item[0]), item[0])))


def _block_number(path: str) -> int:
  """Returns the one-based number in .../encoderblock_{i}/...; 0 where there is none."""
  parts = [part for part in path.split('/') if part.startswith('encoderblock_')]
  return int(parts[0].removeprefix('encoderblock_')) + 1 if parts else 0


def resampled(table: np.ndarray, grid: tuple[int, int], *, method: str = 'zoom') -> np.ndarray:
  """Returns a table [h, w, d] resampled to another grid, float32 [h', w', d]: what transfer to another size does."""
  h, w, d = table.shape
  cells = resample_positions(
    table.reshape(1, h * w, d), old_grid=(h, w), new_grid=grid, num_prefix=0, method=method
  )
  return np.asarray(cells, np.float32).reshape(*grid, d)


def position_similarity(table: Any) -> np.ndarray:
  """Returns the cosine of each position with all others, float64 [h, w, h, w]. Host-side.

  Args:
    table: float [h, w, d]; a vector of zeros has cosine 0 with all.

  Source: ViT (arXiv 2010.11929) Figure 7 (centre).
  """
  table = np.asarray(table, np.float64)
  length = np.linalg.norm(table, axis=-1, keepdims=True)
  unit = np.divide(table, length, out=np.zeros_like(table), where=length > 0)
  return np.einsum('hwd,HWd->hwHW', unit, unit)


def position_structure(table: Any) -> PositionStructure:
  """Returns how much of a table is rows and how much columns: a two-way analysis of variance. Host-side.

  With p(y, x) the vector at row y and column x, m the mean of all, r(y) and c(x) those of rows and columns:

    rows = sum |r(y) - m|^2 / sum |p(y, x) - m|^2 (over all y, x), columns likewise, rest = 1 - rows - columns

  An additive table (2-D embeddings, sines) has rest 0; independent random vectors have rows + columns =
  (h + w - 2) / (h w - 1) in expectation, `chance`.

  Args:
    table: float [h, w, d].
  """
  table = np.asarray(table, np.float64)
  h, w, _ = table.shape
  centred = table - table.mean(axis=(0, 1), keepdims=True)
  total = (centred**2).sum()
  if total == 0:
    return PositionStructure(0.0, 0.0, 0.0, (h + w - 2) / max(h * w - 1, 1))
  rows = w * (centred.mean(axis=1) ** 2).sum() / total
  columns = h * (centred.mean(axis=0) ** 2).sum() / total
  return PositionStructure(
    float(rows), float(columns), float(max(1 - rows - columns, 0)), (h + w - 2) / max(h * w - 1, 1)
  )
