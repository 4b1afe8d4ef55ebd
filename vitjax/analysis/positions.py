"""What position tables hold: each place's likeness to all others, and how far rows and columns explain it."""

from __future__ import annotations

from typing import Any

import numpy as np

from vitjax import models
from vitjax.analysis.layers import is_transformer, token_layout
from vitjax.loaded import Loaded
from vitjax.ops.position_structure import PositionStructure, position_structure
from vitjax.ops.positions import resample_positions


def position_tables(loaded: Loaded) -> dict[str, np.ndarray]:
  """Returns the additive position tables by place, float32 [h, w, d]: `models.position_tables` of its weights."""
  if not is_transformer(loaded):
    return {}
  return models.position_tables(loaded.config, loaded.params, grid=token_layout(loaded).grid)


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


__all__ = ['PositionStructure', 'position_similarity', 'position_structure', 'position_tables', 'resampled']
