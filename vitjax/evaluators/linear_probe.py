"""Accuracy of frozen features by multinomial logistic regression: the linear probe."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.config.schema import EvalConfig
from vitjax.data import Source
from vitjax.errors import DataError, Problem
from vitjax.evaluators.features import Features, Whitening

log = logging.getLogger('vitjax')

_CHUNK_SIZE = 8192
_MAX_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True)
class Logistic:
  """A fitted logistic regression, float64.

  Attributes:
    l2: its penalty.
    whitening: of the training features.
    kernel: [d, v], on standardised features.
    bias: [v].
  """

  l2: float
  whitening: Whitening
  kernel: np.ndarray
  bias: np.ndarray

  def log_probabilities(self, values: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the class probabilities of features [n, d], float64 [n, v]."""
    import scipy.special

    return scipy.special.log_softmax(self.whitening(values) @ self.kernel + self.bias, axis=1)

  def evaluate(self, values: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns (accuracy, mean cross-entropy) on features [n, d] and labels [n]."""
    correct, loss = 0, 0.0
    for start in range(0, len(values), _CHUNK_SIZE):
      truth = labels[start : start + _CHUNK_SIZE]
      scores = self.log_probabilities(values[start : start + _CHUNK_SIZE])
      correct += int((scores.argmax(axis=1) == truth).sum())
      loss -= float(np.take_along_axis(scores, truth[:, None], axis=1).sum())
    return correct / len(values), loss / len(values)


@jax.jit
def _loss_and_gradient(weights, x, labels, real, l2):
  """Returns mean cross-entropy + l2/2 |kernel|^2 of chunked examples, its gradient, and the mean of p (1 - p).

  Args:
    weights: [d + 1, v], the bias last.
    x: [c, m, d] standardised features.
    labels: int32 [c, m].
    real: [c, m], 1 for an example and 0 for padding.
    l2: scalar.
  """
  kernel, bias = weights[:-1], weights[-1]
  matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

  def add_chunk(total, chunk):
    features, truth, weight = chunk
    scores = jax.nn.log_softmax(matmul(features, kernel) + bias[None])
    target = jax.nn.one_hot(truth, bias.shape[0], dtype=scores.dtype)
    difference = (jnp.exp(scores) - target) * weight[:, None]
    loss = -((scores * target).sum(axis=1) * weight).sum()
    probability = jnp.exp(scores)
    spread = ((probability * (1 - probability)).mean(axis=1) * weight).sum()
    parts = (loss, matmul(features.T, difference), difference.sum(axis=0), spread)
    return tuple(a + b for a, b in zip(total, parts, strict=True)), None

  number = jnp.zeros((), weights.dtype)
  zero = (number, jnp.zeros_like(kernel), jnp.zeros_like(bias), number)
  (loss, kernel_gradient, bias_gradient, spread), _ = jax.lax.scan(add_chunk, zero, (x, labels, real))
  count = real.sum()
  loss = loss / count + l2 / 2 * jnp.vdot(kernel, kernel, precision=jax.lax.Precision.HIGHEST)
  gradient = jnp.concatenate([kernel_gradient / count + l2 * kernel, (bias_gradient / count)[None]])
  return loss, gradient, spread / count


def _principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the variances [m] and orthonormal axes [d, m] of centred features [n, d], without empty directions."""
  wide = len(x) < x.shape[1]
  variances, vectors = np.linalg.eigh((x @ x.T if wide else x.T @ x) / len(x))
  kept = variances > 1e-12 * max(variances.max(), 1e-300)
  variances, vectors = variances[kept], vectors[:, kept]
  return variances, x.T @ vectors / np.sqrt(len(x) * variances) if wide else vectors


class _Problem:
  """The chunked training set on the device, in coordinates in which L-BFGS needs few steps.

  Features stand in their principal axes: a rotation, so the penalty stays what it is, and directions that the
  training set does not have, in which the best kernel is 0, are dropped. Each axis is then scaled by the
  curvature of the loss at the start, about variance * p (1 - p) + l2; raw pixels, whose neighbours agree, would
  take thousands of steps otherwise.
  """

  def __init__(self, x: np.ndarray, labels: np.ndarray, num_classes: int):
    self._dtype = np.float32 if jax.default_backend() == 'tpu' else np.float64
    self._variances, self._axes = _principal_axes(x)
    self.shape = (len(self._variances) + 1, num_classes)
    size = min(len(x), _CHUNK_SIZE)
    padding = -len(x) % size
    rotated = np.pad(x @ self._axes, ((0, padding), (0, 0))).astype(self._dtype)
    truth = np.pad(labels, (0, padding)).astype(np.int32)
    real = np.pad(np.ones(len(x), self._dtype), (0, padding))
    chunked = (rotated.reshape(-1, size, rotated.shape[1]), truth.reshape(-1, size), real.reshape(-1, size))
    with self._precision():
      self._chunks = [jnp.asarray(array) for array in chunked]

  def _precision(self) -> contextlib.AbstractContextManager:
    return jax.enable_x64(self._dtype is np.float64)

  def _loss(self, weights: np.ndarray, l2: float) -> tuple[float, np.ndarray, float]:
    results = _loss_and_gradient(weights.astype(self._dtype), *self._chunks, self._dtype(l2))
    loss, gradient, spread = (np.asarray(value, np.float64) for value in results)
    return float(loss), gradient, float(spread)

  def solve(self, l2: float, start: np.ndarray) -> np.ndarray:
    """Returns the minimiser for one penalty, [m + 1, v] in principal axes with the bias last."""
    import scipy.optimize  # half a second that every start of a training run would pay

    with self._precision():
      spread = max(self._loss(start, l2)[2], 1e-6)
    scale = 1 / np.sqrt(np.append(self._variances * spread + l2, spread))[:, None]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
      loss, gradient, _ = self._loss(flat.reshape(self.shape) * scale, l2)
      return loss, (gradient * scale).ravel()

    options = {
      'maxiter': _MAX_ITERATIONS,
      'maxfun': 2 * _MAX_ITERATIONS,
      'gtol': 1e-7,
      'ftol': 64 * np.finfo(self._dtype).eps,
    }
    with self._precision():
      found = scipy.optimize.minimize(
        objective, (start / scale).ravel(), jac=True, method='L-BFGS-B', options=options
      )
    if found.nit >= _MAX_ITERATIONS:
      log.warning('linear probe: l2 = %g has not converged in %d iterations', l2, found.nit)
    return found.x.reshape(self.shape) * scale

  def kernel_and_bias(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a solution as kernel [d, v] on the features as they were, and bias [v]."""
    return self._axes @ weights[:-1], weights[-1]


def fit_logistic(
  values: np.ndarray, labels: np.ndarray, *, num_classes: int, l2: Sequence[float]
) -> list[Logistic]:
  """Returns a logistic regression for each penalty, in the order of `l2`.

  Minimises mean cross-entropy + l2/2 |kernel|^2 (the bias is free) over features standardised by their own mean
  and std, by L-BFGS from zero; the strongest penalty comes first and starts the next one. Loss and gradient
  are float64 on CPU and GPU, float32 on TPU, computed on this process's first device; the optimiser is
  scipy's, on the host. In scikit-learn's terms C = 1 / (n * l2).

  Args:
    values: float [n, d].
    labels: int [n], in [0, num_classes).
    num_classes: v.
    l2: positive penalties.
  """
  whitening = Whitening.of(values)
  problem = _Problem(whitening(values), labels, num_classes)
  weights = np.zeros(problem.shape)
  fitted: dict[float, Logistic] = {}
  for penalty in sorted(set(l2), reverse=True):
    weights = problem.solve(penalty, weights)
    fitted[penalty] = Logistic(penalty, whitening, *problem.kernel_and_bias(weights))
  return [fitted[penalty] for penalty in l2]


def hold_out(labels: np.ndarray, share: float, *, seed: int = 0, at_least: int = 0) -> np.ndarray:
  """Returns bool [n]: the examples that are set aside, `share` of each class rounded down.

  Args:
    labels: int [n].
    share: in [0, 1].
    seed: of the choice, which in one class does not depend on the others.
    at_least: set aside so many of each class, even where that is more than the share.
  """
  held = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    of_class = np.flatnonzero(labels == label)
    # A share such as 0.29 of 100 is 28.999999999999996.
    count = max(math.floor(share * len(of_class) + 1e-9), at_least)
    held[np.random.RandomState([seed, label]).permutation(of_class)[:count]] = True
  return held


def choose_l2(
  values: np.ndarray,
  labels: np.ndarray,
  *,
  num_classes: int,
  l2: Sequence[float],
  held_out: float,
  prefix: str,
) -> float:
  """Returns the penalty with the best accuracy on a held-out part of the training features.

  Of equal accuracies the one with the lower held-out loss, of equal losses the larger penalty.

  Args:
    values: float [n, d].
    labels: int [n].
    num_classes: v.
    l2: the candidates; one alone is returned as it is.
    held_out: share of each class that is set aside.
    prefix: what stands before the names of knobs in messages, such as 'evals.val.'.

  Raises:
    DataError: every class is too small for a part of it to be set aside.
  """
  if len(l2) == 1:
    return l2[0]
  held = hold_out(labels, held_out)
  if not held.any():
    expected = (
      f'examples to choose among {len(l2)} penalties with: the largest class has {np.bincount(labels).max()}'
    )
    hint = f'Raise {prefix}held_out, or give one value in {prefix}probe_l2'
    raise DataError('nothing is held out', [Problem(f'{prefix}held_out', f'{held_out:g}', expected, hint)])
  fits = fit_logistic(values[~held], labels[~held], num_classes=num_classes, l2=l2)
  results = {fit.l2: fit.evaluate(values[held], labels[held]) for fit in fits}
  return max(results, key=lambda penalty: (results[penalty][0], -results[penalty][1], penalty))


@dataclasses.dataclass(frozen=True)
class LinearProbe:
  """The linear probe of one pair of sources.

  Attributes:
    config: probe_l2, held_out.
    support: the images that the classifier is fitted to.
    prefix: what stands before the names of knobs in messages.
  """

  config: EvalConfig
  support: Source
  prefix: str

  def score(self, train: Features, test: Features) -> dict[str, float]:
    """Returns 'accuracy_top1', 'loss' (both on the test features) and 'l2', the penalty that was chosen.

    Args:
      train: features of `support`.
      test: features of the test images.
    """
    num_classes = self.support.num_classes
    chosen = choose_l2(
      train.values,
      train.labels,
      num_classes=num_classes,
      l2=self.config.probe_l2,
      held_out=self.config.held_out,
      prefix=self.prefix,
    )
    (fit,) = fit_logistic(train.values, train.labels, num_classes=num_classes, l2=(chosen,))
    accuracy, loss = fit.evaluate(test.values, test.labels)
    return {'accuracy_top1': accuracy, 'loss': loss, 'l2': chosen}
