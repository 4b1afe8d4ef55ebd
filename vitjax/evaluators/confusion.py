"""Which class is taken for which: counts, accuracy per class, and the mistakes that were made with most confidence."""

from __future__ import annotations

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
  """Returns int64 [v, v]: how many examples of the row's class were taken for the column's.

  Args:
    labels: int [n].
    predicted: int [n].
    num_classes: v.
  """
  counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)


def probabilities(scores: np.ndarray, loss: str) -> np.ndarray:
  """Returns float64 [n, v] of scores [n, v]: softmax, or one sigmoid per class.

  Args:
    scores: logits.
    loss: 'softmax' or 'sigmoid', what they were trained with.
  """
  scores = scores.astype(np.float64)
  if loss == 'sigmoid':
    return np.exp(-np.logaddexp(0, -scores))
  scores = np.exp(scores - scores.max(axis=1, keepdims=True))
  return scores / scores.sum(axis=1, keepdims=True)


def worst_mistakes(probs: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
  """Returns the positions of up to `most` wrong examples, the most confident mistake first.

  Confidence is the probability of the class that was chosen less that of the true one.

  Args:
    probs: float [n, v].
    labels: int [n].
    most: how many.
  """
  rows = np.arange(len(labels))
  chosen = probs.argmax(axis=1)
  margin = probs[rows, chosen] - probs[rows, labels]
  wrong = np.flatnonzero(chosen != labels)
  return wrong[np.argsort(-margin[wrong], kind='stable')][:most]
