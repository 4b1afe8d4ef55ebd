"""Few-shot accuracy of frozen features by closed-form ridge regression.

Source: ViT (arXiv 2010.11929) 4.1, "On-the-fly" few-shot evaluation, with the constants of the released
evaluator: features standardised by the support set, a constant 100 as bias, targets -1 and 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vitjax.config.eval_metrics import fewshot_metric
from vitjax.config.schema import EvalConfig
from vitjax.data import Source
from vitjax.data.folders import limited
from vitjax.data.splits import few_per_class
from vitjax.errors import DataError, Problem
from vitjax.evaluators.features import Features, Whitening

# So large that the penalty on its weight, the bias, does not matter.
_BIAS = 100.0
_CHUNK_SIZE = 8192


@dataclasses.dataclass(frozen=True)
class Ridge:
  """Ridge regression for every penalty at once: one eigendecomposition, float64.

  The weights for a penalty are left @ diag(1 / (eigenvalues + l2)) @ right.

  Attributes:
    whitening: of the support set.
    left: [d + 1, m].
    eigenvalues: [m], of the Gram matrix (m = d + 1) or of the kernel matrix (m = n), not negative.
    right: [m, v].
  """

  whitening: Whitening
  left: np.ndarray
  eigenvalues: np.ndarray
  right: np.ndarray

  def weights(self, l2: float) -> np.ndarray:
    """Returns the minimiser of |x w - y|^2 + l2 |w|^2, [d + 1, v]; the last row belongs to the bias."""
    return (self.left / (self.eigenvalues + l2)) @ self.right

  def predict(self, values: np.ndarray, l2: float) -> np.ndarray:
    """Returns the class of each row of features [n, d], int64 [n]; of equal scores the lowest class."""
    weights = self.weights(l2)
    chunks = [values[i : i + _CHUNK_SIZE] for i in range(0, len(values), _CHUNK_SIZE)]
    return np.concatenate([(_with_bias(self.whitening(x)) @ weights).argmax(axis=1) for x in chunks])


def fit_ridge(values: np.ndarray, labels: np.ndarray, *, num_classes: int) -> Ridge:
  """Returns the ridge regression of one-against-all targets on a support set. Host-side.

  Args:
    values: features, float [n, d].
    labels: int [n], in [0, num_classes).
    num_classes: v; a class without examples has -1 as its only target.

  Source: the normal equations (x'x + l2)^-1 x'y where n >= d + 1, else the same weights in dual form,
    x' (xx' + l2)^-1 y.
  Differs from source: float64 instead of float32; rounding below 0 is cut off the eigenvalues.
  """
  whitening = Whitening.of(values)
  x = _with_bias(whitening(values))
  targets = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
  if len(x) >= x.shape[1]:
    eigenvalues, vectors = np.linalg.eigh(x.T @ x)
    left, right = vectors, vectors.T @ (x.T @ targets)
  else:
    eigenvalues, vectors = np.linalg.eigh(x @ x.T)
    left, right = x.T @ vectors, vectors.T @ targets
  return Ridge(whitening, left, np.maximum(eigenvalues, 0.0), right)


def _with_bias(x: np.ndarray) -> np.ndarray:
  return np.concatenate([x, np.full((len(x), 1), _BIAS)], axis=1)


class Draw(NamedTuple):
  """One support set.

  Attributes:
    shots: examples of each class.
    seed: of the draw.
    examples: int64 [shots * v], positions in the source of the support images.
  """

  shots: int
  seed: int
  examples: np.ndarray


def draw_support(
  labels: np.ndarray, *, shots: Sequence[int], num_draws: int, class_names: Sequence[str], where: str
) -> list[Draw]:
  """Returns support sets with `shots` examples of each class, for the seeds 0 ... num_draws - 1.

  A seed's smaller sets are part of its larger ones.

  Args:
    labels: int [n], of the images to draw from.
    shots: sizes of the sets per class.
    num_draws: sets of each size.
    class_names: one per class id.
    where: the dotted path of the shots, for messages.

  Raises:
    DataError: naming every class with fewer examples than the largest of `shots`.
  """
  draws, short = [], {}
  for size in shots:
    for seed in range(num_draws):
      chosen, missing = few_per_class(labels, per_class=size, num_classes=len(class_names), seed=seed)
      draws.append(Draw(size, seed, chosen))
      short |= missing
  if short:
    problems = [
      Problem(where, str(max(shots)), f'at most {count}: class {class_names[label]!r} has no more')
      for label, count in sorted(short.items())
    ]
    raise DataError('classes have too few examples for a support set', limited(problems))
  return draws


@dataclasses.dataclass(frozen=True)
class FewShot:
  """The few-shot probe of one pair of sources.

  Attributes:
    config: shots, num_draws, ridge_l2.
    support: the images of all draws together.
    draws: support sets, as positions in `support`.
    num_classes: v.
  """

  config: EvalConfig
  support: Source
  draws: tuple[Draw, ...]
  num_classes: int

  @classmethod
  def from_source(cls, config: EvalConfig, source: Source, *, prefix: str) -> FewShot:
    """Draws the support sets; raises DataError like `draw_support`. `prefix` as in `make_probe`."""
    draws = draw_support(
      source.labels(),
      shots=config.shots,
      num_draws=config.num_draws,
      class_names=source.class_names,
      where=f'{prefix}shots',
    )
    union = np.unique(np.concatenate([draw.examples for draw in draws]))
    inside = tuple(draw._replace(examples=np.searchsorted(union, draw.examples)) for draw in draws)
    return cls(config, source.subset(union), inside, source.num_classes)

  def score(self, train: Features, test: Features) -> dict[str, float]:
    """Returns the mean accuracy over the draws and, from two draws on, its standard deviation ('..._std').

    Args:
      train: features of `support`.
      test: features of the test images.
    """
    accuracies: dict[str, list[float]] = {}
    for draw in self.draws:
      support = train.at(draw.examples)
      ridge = fit_ridge(support.values, support.labels, num_classes=self.num_classes)
      for l2 in self.config.ridge_l2:
        correct = ridge.predict(test.values, l2) == test.labels
        accuracies.setdefault(fewshot_metric(self.config, draw.shots, l2), []).append(float(correct.mean()))
    result = {}
    for name, values in accuracies.items():
      result[name] = float(np.mean(values))
      if len(values) > 1:
        result[f'{name}_std'] = float(np.std(values, ddof=1))
    return result
