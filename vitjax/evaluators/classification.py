"""The head over a whole split: accuracy, loss and calibration as masked sums, never a mean of means."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitjax.data import Batches
from vitjax.objectives import Objective
from vitjax.objectives.classification import classification_loss
from vitjax.parallel.constrain import on_mesh
from vitjax.parallel.interruption import interruption_point
from vitjax.parallel.mesh import to_global

EvalBatches = Callable[[], Batches]
NUM_BINS = 15


@dataclasses.dataclass(frozen=True)
class ClassificationEvaluator:
  """Counts every example of a split exactly once, on any number of devices and hosts.

  Attributes:
    objective: gives the scores.
    loss_kind: 'softmax' or 'sigmoid', for the reported loss (without label smoothing) and for confidences.
    mesh: where batches are placed.
    batches: starts one pass over the split; yields this process's rows of padded batches: 'image' uint8
      [n, h, w, 3], 'label' int32 [n], 'weight' float32 [n], 0 for padding, and 'index' int64 [n], the numbers of the
      examples. The number of batches is the same on every process.
    real_labels: int32 [examples, k], the classes that count as right for each example, -1 for no more; None: no
      such labels. See data.real_labels.
  """

  objective: Objective
  loss_kind: str
  mesh: Mesh
  batches: EvalBatches
  real_labels: np.ndarray | None = None
  _step: Any = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    object.__setattr__(self, '_step', jax.jit(on_mesh(self.mesh, self._count)))

  def _count(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns sums over one global batch; counts are int32, so they are exact in any order."""
    logits = self.objective.predict(params, batch['image'])
    real, label, num_classes = batch['weight'] > 0, batch['label'], logits.shape[-1]
    label_logit = jnp.take_along_axis(logits, label[:, None], axis=-1)
    # The rank of the label: classes that score higher, plus equal scores with a lower class number, so
    # that a tie is never counted in the model's favour twice.
    lower_class = jnp.arange(num_classes)[None] < label[:, None]
    rank = ((logits > label_logit) | ((logits == label_logit) & lower_class)).sum(axis=-1)
    # A score that is not a number compares as neither larger nor smaller: such an example is wrong.
    finite = jnp.isfinite(logits).all(axis=-1)
    rank = jnp.where(finite, rank, num_classes)
    losses = classification_loss(logits, jax.nn.one_hot(label, num_classes), self.loss_kind)
    correct = real & (rank < 1)
    counts = {
      'top1': correct.sum(dtype=jnp.int32),
      'top5': (real & (rank < 5)).sum(dtype=jnp.int32),
      'loss': jnp.where(real, losses, 0.0).sum(),
      'examples': real.sum(dtype=jnp.int32),
      'class_examples': jnp.zeros(num_classes, jnp.int32).at[label].add(real),
      'class_correct': jnp.zeros(num_classes, jnp.int32).at[label].add(correct),
    }
    confidence = jnp.where(real & finite, confidences(logits, self.loss_kind), 0.0)
    place = jnp.clip(jnp.ceil(confidence * NUM_BINS).astype(jnp.int32) - 1, 0, NUM_BINS - 1)
    counts['bin_confidence'] = jnp.zeros(NUM_BINS, jnp.float32).at[place].add(confidence)
    counts['bin_correct'] = jnp.zeros(NUM_BINS, jnp.int32).at[place].add(correct)
    if self.real_labels is not None:
      asked = real & (batch['acceptable'] >= 0).any(axis=-1)
      right = (batch['acceptable'] == logits.argmax(axis=-1)[:, None]).any(axis=-1) & finite
      counts['real_examples'] = asked.sum(dtype=jnp.int32)
      counts['real'] = (asked & right).sum(dtype=jnp.int32)
    return counts

  def results(self, params: Any) -> Iterator[dict[str, jax.Array]]:
    """Yields the sums of each batch, still on device."""
    with self.batches() as batches:
      for batch in batches:
        interruption_point()
        rows = {name: batch[name] for name in ('image', 'label', 'weight')}
        if self.real_labels is not None:
          rows['acceptable'] = self.real_labels[np.maximum(batch['index'], 0)]
        yield self._step(params, to_global(self.mesh, rows))

  def totals(self, params: Any) -> dict[str, np.ndarray]:
    """Returns float64 sums over the whole split, among them 'class_examples' and 'class_correct' [v]."""
    sums = jax.device_get(list(self.results(params)))
    return {name: np.sum([s[name] for s in sums], axis=0, dtype=np.float64) for name in sums[0]}

  def run(self, params: Any) -> dict[str, float]:
    """Returns the metrics of the whole split; see `metrics_of`."""
    return metrics_of(self.totals(params))


def confidences(logits: jax.Array, loss_kind: str) -> jax.Array:
  """Returns float32 [n], the probability that the model gives its first choice. Traced."""
  if loss_kind == 'softmax':
    return jax.nn.softmax(logits, axis=-1).max(axis=-1)
  return jax.nn.sigmoid(logits.max(axis=-1))


def metrics_of(totals: dict[str, np.ndarray]) -> dict[str, float]:
  """Returns the metrics that sums over a split amount to.

  'accuracy_top1', 'accuracy_top5', 'loss', 'num_examples'. 'accuracy_per_class': the mean over classes that have
  examples of each one's top-1 accuracy. 'calibration_error': the expected calibration error, the sum over 15 bins of
  equal width, (m / 15, (m + 1) / 15], of |accuracy - mean confidence| times the bin's share of the examples. With ReaL
  labels 'accuracy_real', over the 'num_examples_real' images that have any.

  Source: calibration error: Guo et al. (arXiv 1706.04599) section 2, equation 3; accuracy_real: 2006.07159.
  """
  examples = totals['examples']
  seen = totals['class_examples'] > 0
  gaps = np.abs(totals['bin_correct'] - totals['bin_confidence'])
  found = {
    'accuracy_top1': totals['top1'] / examples,
    'accuracy_top5': totals['top5'] / examples,
    'accuracy_per_class': (totals['class_correct'][seen] / totals['class_examples'][seen]).mean(),
    'calibration_error': gaps.sum() / examples,
    'loss': totals['loss'] / examples,
    'num_examples': examples,
  }
  if 'real' in totals:
    found['accuracy_real'] = totals['real'] / max(totals['real_examples'], 1)
    found['num_examples_real'] = totals['real_examples']
  return {name: float(value) for name, value in found.items()}
