"""A model's scores of every example of a split, on any number of devices and hosts."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from vitjax.data import Batches
from vitjax.evaluators.features import FeatureExtractor, Features
from vitjax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class _Scores:
  """An objective whose features are its scores."""

  objective: Objective

  def features(self, params: Any, images: jax.Array) -> jax.Array:
    return self.objective.predict(params, images)


class Predictor:
  """Collects scores; compiled once.

  Args:
    objective: gives the scores.
    mesh: where batches are placed.
  """

  def __init__(self, objective: Objective, mesh: Mesh):
    self._extractor = FeatureExtractor(_Scores(objective), mesh)  # type: ignore[arg-type]

  def collect(self, params: Any, batches: Batches, *, where: str) -> Features:
    """Returns the scores of one pass, float32 [n, v], with labels and example numbers; the same on every process.

    Args and errors: as of `FeatureExtractor.collect`.
    """
    return self._extractor.collect(params, batches, where=where)
