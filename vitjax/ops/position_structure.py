"""How far rows and columns explain a table of positions."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


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
