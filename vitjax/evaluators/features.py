"""Frozen features of labelled images, each example once and in order, on any number of devices and hosts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax.data import Batches
from vitjax.errors import Problem, TrainingError
from vitjax.parallel.constrain import on_mesh
from vitjax.parallel.interruption import interruption_point
from vitjax.parallel.mesh import replicated, to_global

# Added to the standard deviation of every feature; a feature that never varies becomes 0.
_STD_EPS = 1e-5


class Features(NamedTuple):
  """What a model makes of a set of images.

  Attributes:
    values: float32 [n, d].
    labels: int64 [n], or [n, v] with zeros and ones.
    index: int64 [n], the examples' numbers in their source, ascending.
  """

  values: np.ndarray
  labels: np.ndarray
  index: np.ndarray

  def at(self, examples: np.ndarray) -> Features:
    """Returns the rows of these examples, in that order; damaged ones, which have no features, are left out."""
    rows = np.minimum(np.searchsorted(self.index, examples), len(self.index) - 1)
    rows = rows[self.index[rows] == examples]
    return Features(self.values[rows], self.labels[rows], self.index[rows])


class Whitening(NamedTuple):
  """Standardisation of features by the statistics of a training set.

  Attributes:
    mean: float64 [d].
    std: float64 [d], the population standard deviation plus 1e-5.
  """

  mean: np.ndarray
  std: np.ndarray

  @classmethod
  def of(cls, values: np.ndarray) -> Whitening:
    """Returns the statistics of features [n, d]."""
    return cls(values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64) + _STD_EPS)

  def __call__(self, values: np.ndarray) -> np.ndarray:
    """Returns features [n, d] standardised, float64."""
    return (values.astype(np.float64) - self.mean) / self.std


def make_features(values: np.ndarray, labels: np.ndarray, index: np.ndarray, *, where: str) -> Features:
  """Returns checked Features, sorted by example.

  Args:
    values: float [n, d].
    labels: int [n], or [n, v].
    index: int [n], numbers of the examples; each stands there once.
    where: the source's dotted path, for messages.

  Raises:
    TrainingError: a feature is not finite.
  """
  order = np.argsort(index, kind='stable')
  values, labels, index = values[order], labels[order].astype(np.int64), index[order].astype(np.int64)
  broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
  if len(broken):
    found = f'{len(broken)} of {len(index)} images, the first is example {index[broken[0]]}'
    problem = Problem(where, found, 'finite features', 'Look for damaged weights, or an overflow in 16 bits')
    raise TrainingError('the features of the model are not finite', [problem])
  return Features(values.astype(np.float32, copy=False), labels, index)


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
  """Runs a model over padded batches and gathers what it makes of each image on every host.

  Attributes:
    function: (params, uint8 [n, h, w, 3]) -> float32 [n, d]; traced. An objective's `features`, what its head sees, or
      its `predict`, the scores.
    mesh: where batches are placed.
  """

  function: Callable[[Any, jax.Array], jax.Array]
  mesh: Mesh
  _step: Any = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    step = jax.jit(on_mesh(self.mesh, self._rows), out_shardings=replicated(self.mesh))
    object.__setattr__(self, '_step', step)

  def _rows(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a batch with features in the place of images; labels and numbers travel with their rows, since a
    device order may permute the rows of the global batch."""
    values = self.function(params, batch['image'])
    return {'values': values, 'label': batch['label'], 'weight': batch['weight'], 'index': batch['index']}

  def collect(self, params: Any, batches: Batches, *, where: str) -> Features:
    """Returns the features of one pass, the same on every process; padding and damaged records are left out.

    Host-side; called by every process. One batch of features at a time lies on the devices.

    Args:
      params: of the objective's model.
      batches: from `eval_batches`; closed at the end.
      where: the source's dotted path, for messages.

    Raises:
      TrainingError: a feature is not finite.
      DataError: more damaged records than the source tolerates.
    """
    parts: list[dict[str, np.ndarray]] = []
    with batches:
      pending = None
      for batch in batches:
        interruption_point()
        rows = {name: batch[name] for name in ('image', 'label', 'weight')}
        rows['index'] = batch['index'].astype(np.int32)
        result = self._step(params, to_global(self.mesh, rows))
        if pending is not None:
          parts.append(_real_rows(pending))
        pending = result
      if pending is not None:
        parts.append(_real_rows(pending))
    values, labels, index = (
      np.concatenate([p[name] for p in parts]) for name in ('values', 'label', 'index')
    )
    return make_features(values, labels, index, where=where)


def _real_rows(result: dict[str, jax.Array]) -> dict[str, np.ndarray]:
  host = {name: np.asarray(value) for name, value in result.items()}
  real = host['weight'] > 0
  return {name: host[name][real] for name in ('values', 'label', 'index')}
