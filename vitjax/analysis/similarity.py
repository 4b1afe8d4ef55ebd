"""Whether two layers hold the same information: centred kernel alignment, in batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from vitjax.analysis.layers import layer_names, mapped
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded


@dataclasses.dataclass(frozen=True)
class Similarity:
  """CKA of each layer of one model with each of another (or the same).

  Attributes:
    cka: float64 [layers of the first, layers of the second]; 1: the same up to rotation and scale, about 0:
      nothing in common (the unbiased estimate may fall a little below).
    first, second: layer names.
    num_examples: rows that entered: cells of images.
  """

  cka: np.ndarray
  first: tuple[str, ...]
  second: tuple[str, ...]
  num_examples: int


def hsic(first: np.ndarray, second: np.ndarray) -> float:
  """Returns the unbiased estimate of the Hilbert-Schmidt independence criterion of two Gram matrices. Host-side.

    ( tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 / (n-2) 1'K L 1 ) / (n (n-3))   with zero diagonals

  Args:
    first: K, symmetric float [n, n], n >= 4.
    second: L, symmetric float [n, n].

  Source: Song et al. 2012 (JMLR 13) equation 5; as used by Nguyen et al. (arXiv 2010.15327) equation 3.
  """
  n = len(first)
  first, second = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
  middle = first.sum() * second.sum() / ((n - 1) * (n - 2))
  middle -= 2 * (first.sum(axis=0) @ second.sum(axis=0)) / (n - 2)
  return float(((first * second).sum() + middle) / (n * (n - 3)))


def cka(batches: Iterable[tuple[list[np.ndarray], list[np.ndarray]]]) -> np.ndarray:
  """Returns the linear CKA of every pair of layers, float64 [a, b]. Host-side.

    CKA(X, Y) = sum_b HSIC(X_b X_b', Y_b Y_b') / sqrt( sum_b HSIC(X_b X_b', X_b X_b') sum_b HSIC(Y_b Y_b', ...) )

  over minibatches b, each HSIC unbiased, so that the result does not depend on the batch size in expectation.

  Args:
    batches: (features of a layers, features of b layers) per batch, each float [n, d]; the same n >= 4 examples
      in one batch.

  Raises:
    ConfigError: a batch of fewer than 4 examples.

  Source: Kornblith et al. (arXiv 1905.00414); minibatches: Nguyen et al. (2010.15327) equations 2 to 4.
  """
  cross, first, second = 0.0, 0.0, 0.0
  for xs, ys in batches:
    if len(xs[0]) < 4:
      raise ConfigError('CKA needs larger batches', [Problem('examples in a batch', str(len(xs[0])), '>= 4')])
    left, right = [_gram(x) for x in xs], [_gram(y) for y in ys]
    cross = cross + np.array([[hsic(k, m) for m in right] for k in left])
    first = first + np.array([hsic(k, k) for k in left])
    second = second + np.array([hsic(m, m) for m in right])
  scale = np.sqrt(np.maximum(np.multiply.outer(first, second), 1e-300))
  return np.asarray(cross / scale)


def _gram(x: np.ndarray) -> np.ndarray:
  """Returns x x' in float64, scaled so that products of Gram matrices stay far from overflow."""
  x = np.asarray(x, np.float64)
  gram = x @ x.T
  return gram / max(np.abs(gram).max(), 1e-300)


def pooled_cells(maps: np.ndarray, cells: int) -> np.ndarray:
  """Returns maps [n, h, w, d] averaged over a cells x cells grid, float64 [n * cells^2, d]. Host-side.

  The same cells for any grid, so that layers of different resolutions have the same examples. A cell's borders
  may cut through a map's cells, which then count by the share inside.
  """
  rows, columns = _overlap(maps.shape[1], cells), _overlap(maps.shape[2], cells)
  pooled = np.einsum('Hh,Ww,nhwd->nHWd', rows, columns, np.asarray(maps, np.float64), optimize=True)
  return pooled.reshape(-1, maps.shape[-1])


def _overlap(old: int, new: int) -> np.ndarray:
  """Returns float64 [new, old]: the share that each old interval has in each new one; rows sum to 1."""
  edges = np.arange(new + 1) * (old / new)
  place = np.arange(old)
  inside = np.minimum(edges[1:, None], place + 1) - np.maximum(edges[:-1, None], place)
  return np.maximum(inside, 0) * (new / old)


def layer_similarity(
  first: Loaded, second: Loaded, images: Any, *, cells: int = 4, batch_size: int = 16
) -> Similarity:
  """Returns the CKA of every layer of one model with every layer of another.

  An example is a cell of an image: each layer's map is averaged over a cells x cells grid, which serves any
  two architectures. The cells of one image are not independent, which raises CKA a little.

  Args:
    first: any model.
    second: another, or the same once more.
    images: as for `Loaded.predict`; each model preprocesses them in its own way.
    cells: per side.
    batch_size: images per batch; a last batch of a single image counts too, if it has 4 cells.
  """
  count = 0

  def batches():
    nonlocal count
    others = mapped(second, images, batch_size=batch_size) if second is not first else None
    for maps in mapped(first, images, batch_size=batch_size):
      xs = [pooled_cells(x, cells) for x in maps.values()]
      ys = xs if others is None else [pooled_cells(y, cells) for y in next(others).values()]
      count += len(xs[0])
      yield xs, ys

  values = cka(batches())
  return Similarity(values, layer_names(first), layer_names(second), count)
