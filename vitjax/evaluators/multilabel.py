"""Images with several classes: mean average precision over a whole split, each example counted once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from vitjax.evaluators.classification import EvalBatches
from vitjax.evaluators.features import FeatureExtractor


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
  """Returns the average precision of one class: precision at each threshold, weighted by the recall it adds.

  Equal scores are one threshold, so that the order of the examples does not matter.

  Args:
    scores: float [n].
    positive: [n], 1 or True for the examples of the class.

  Returns:
    A number in [0, 1]; NaN without positives.
  """
  order = np.argsort(-scores, kind='stable')
  hits = np.cumsum(positive[order] > 0)
  if not len(hits) or not hits[-1]:
    return float('nan')
  ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
  gained = np.diff(hits[ends], prepend=0)
  return float((gained * hits[ends] / (ends + 1)).sum() / hits[-1])


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns float64 [v], the average precision of each class, NaN where no example has it.

  Args:
    scores: float [n, v].
    labels: [n, v], zeros and ones.
  """
  return np.array([average_precision(scores[:, i], labels[:, i]) for i in range(scores.shape[1])])


def sigmoid_losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns float64 [n, v], the binary cross-entropy of each class."""
  scores = scores.astype(np.float64)
  return np.logaddexp(0, scores) - scores * labels


@dataclasses.dataclass(frozen=True)
class MultiLabelEvaluator:
  """Judges the ranking of the images within each class.

  Attributes:
    where: dotted path of the evaluator, for messages.
    extractor: of the scores.
    batches: starts one pass over the split.
  """

  where: str
  extractor: FeatureExtractor
  batches: EvalBatches

  def run(self, params: Any) -> dict[str, float]:
    """Returns 'mean_average_precision' over the classes that occur, 'loss' (binary cross-entropy summed over classes,
    mean over images), 'num_classes' that occur, and 'num_examples'."""
    found = self.extractor.collect(params, self.batches(), where=f'{self.where}.source')
    precisions = average_precisions(found.values, found.labels)
    occurring = ~np.isnan(precisions)
    return {
      'mean_average_precision': float(precisions[occurring].mean()) if occurring.any() else 0.0,
      'loss': float(sigmoid_losses(found.values, found.labels).sum(axis=1).mean()),
      'num_classes': float(occurring.sum()),
      'num_examples': float(len(found.index)),
    }
