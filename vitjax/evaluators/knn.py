"""Accuracy of frozen features by their nearest neighbours.

Source: DINO (arXiv 2104.14294) 4.1 and its released evaluator: cosine similarity, k = 20, temperature 0.07.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.config.eval_metrics import knn_metric
from vitjax.config.schema import EvalConfig
from vitjax.data import Source
from vitjax.evaluators.features import Features

# Rows that are compared at a time: 128 MiB of similarities on the device.
_BANK_ROWS = 65_536
_QUERY_ROWS = 512


@functools.partial(jax.jit, static_argnames='num')
def _top(queries: jax.Array, bank: jax.Array, num_rows: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
  """Returns the largest cosines of unit rows and their positions in `bank`, of which num_rows are real."""
  similarity = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
  real = jnp.arange(bank.shape[0]) < num_rows
  return jax.lax.top_k(jnp.where(real[None], similarity, -jnp.inf), num)


def nearest(bank: np.ndarray, queries: np.ndarray, num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns the cosines float32 [n, k] and rows int64 [n, k] of each query's nearest rows of `bank`.

  Nearest first; of equal ones the lower row. k is `num_neighbours`, or all rows where there are fewer. Runs on
  this process's first device, exactly (no approximate search), in float32. A row of zeros has cosine 0 with
  everything.

  Args:
    bank: float [m, d], m >= 1.
    queries: float [n, d].
    num_neighbours: at least 1.
  """
  bank, queries = _unit_rows(bank), _unit_rows(queries)
  wanted = min(num_neighbours, len(bank))
  bank_size, query_size = min(len(bank), _BANK_ROWS), min(len(queries), _QUERY_ROWS)
  similarity = np.empty((len(queries), 0), np.float32)
  rows = np.empty((len(queries), 0), np.int64)
  for start in range(0, len(bank), bank_size):
    block = bank[start : start + bank_size]
    device_block = jnp.asarray(_padded(block, bank_size))
    found = [
      _top(_padded(queries[i : i + query_size], query_size), device_block, len(block), min(wanted, bank_size))
      for i in range(0, len(queries), query_size)
    ]
    values, places = (np.concatenate([np.asarray(pair[j]) for pair in found])[: len(queries)] for j in (0, 1))
    similarity = np.concatenate([similarity, values], axis=1)
    rows = np.concatenate([rows, places.astype(np.int64) + start], axis=1)
    best = np.argsort(-similarity, axis=1, kind='stable')[:, :wanted]
    similarity, rows = (np.take_along_axis(x, best, axis=1) for x in (similarity, rows))
  return similarity, rows


def _unit_rows(values: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
  return (values / np.maximum(norm, 1e-12)).astype(np.float32)


def _padded(rows: np.ndarray, num_rows: int) -> np.ndarray:
  return np.pad(rows, ((0, num_rows - len(rows)), (0, 0)))


def vote(similarity: np.ndarray, labels: np.ndarray, *, temperature: float, num_classes: int) -> np.ndarray:
  """Returns the class with the largest sum of exp(cosine / temperature) over the neighbours, int64 [n].

  Of equal sums the lowest class. Summed in float64.

  Args:
    similarity: [n, k] cosines, nearest first.
    labels: int [n, k] classes of the neighbours.
    temperature: the smaller, the more the nearest one counts.
    num_classes: v.
  """
  # The common factor exp(-largest / temperature) keeps the sums in range and changes no order.
  scaled = similarity.astype(np.float64)
  weights = np.exp((scaled - scaled[:, :1]) / temperature)
  winners = []
  for start in range(0, len(labels), _QUERY_ROWS):
    rows = slice(start, start + _QUERY_ROWS)
    votes = np.zeros((len(labels[rows]), num_classes))
    np.add.at(votes, (np.arange(len(votes))[:, None], labels[rows]), weights[rows])
    winners.append(votes.argmax(axis=1))
  return np.concatenate(winners)


def knn_predict(
  train_values: np.ndarray,
  train_labels: np.ndarray,
  test_values: np.ndarray,
  *,
  num_neighbours: Sequence[int],
  temperature: float,
  num_classes: int,
) -> Mapping[int, np.ndarray]:
  """Returns {k: classes int64 [n]} of test features [n, d] by the votes of their k nearest training features.

  Where there are fewer than k training features, all of them vote. Arguments as in `nearest` and `vote`.
  """
  similarity, rows = nearest(train_values, test_values, max(num_neighbours))
  labels = train_labels[rows]
  return {
    k: vote(similarity[:, :k], labels[:, :k], temperature=temperature, num_classes=num_classes)
    for k in num_neighbours
  }


@dataclasses.dataclass(frozen=True)
class Knn:
  """The nearest-neighbour probe of one pair of sources.

  Attributes:
    config: num_neighbours, temperature.
    support: the images that vote.
  """

  config: EvalConfig
  support: Source

  def score(self, train: Features, test: Features) -> dict[str, float]:
    """Returns the accuracy for each number of neighbours.

    Args:
      train: features of `support`.
      test: features of the test images.
    """
    predicted = knn_predict(
      train.values,
      train.labels,
      test.values,
      num_neighbours=self.config.num_neighbours,
      temperature=self.config.temperature,
      num_classes=self.support.num_classes,
    )
    return {knn_metric(k): float((classes == test.labels).mean()) for k, classes in predicted.items()}
