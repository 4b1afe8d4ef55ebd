"""Top-1, top-5 and loss over a whole split, as masked sums: never a mean of means."""

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


@dataclasses.dataclass(frozen=True)
class ClassificationEvaluator:
  """Counts every example of a split exactly once, on any number of devices and hosts.

  Attributes:
    objective: gives the scores.
    loss_kind: 'softmax' or 'sigmoid', for the reported loss (without label smoothing).
    mesh: where batches are placed.
    batches: starts one pass over the split; yields this process's rows of padded batches: 'image' uint8
      [n, h, w, 3], 'label' int32 [n], 'weight' float32 [n], 0 for padding. The number of batches is the
      same on every process.
  """

  objective: Objective
  loss_kind: str
  mesh: Mesh
  batches: EvalBatches
  _step: Any = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    object.__setattr__(self, '_step', jax.jit(on_mesh(self.mesh, self._count)))

  def _count(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns sums over one global batch; counts are int32, so they are exact in any order."""
    logits = self.objective.predict(params, batch['image'])
    real = batch['weight'] > 0
    label_logit = jnp.take_along_axis(logits, batch['label'][:, None], axis=-1)
    # The rank of the label: classes that score higher, plus equal scores with a lower class number, so
    # that a tie is never counted in the model's favour twice.
    lower_class = jnp.arange(logits.shape[-1])[None] < batch['label'][:, None]
    rank = ((logits > label_logit) | ((logits == label_logit) & lower_class)).sum(axis=-1)
    # A score that is not a number compares as neither larger nor smaller: such an example is wrong.
    rank = jnp.where(jnp.isfinite(logits).all(axis=-1), rank, logits.shape[-1])
    losses = classification_loss(logits, jax.nn.one_hot(batch['label'], logits.shape[-1]), self.loss_kind)
    return {
      'top1': (real & (rank < 1)).sum(dtype=jnp.int32),
      'top5': (real & (rank < 5)).sum(dtype=jnp.int32),
      'loss': jnp.where(real, losses, 0.0).sum(),
      'examples': real.sum(dtype=jnp.int32),
    }

  def results(self, params: Any) -> Iterator[dict[str, jax.Array]]:
    """Yields the sums of each batch, still on device."""
    with self.batches() as batches:
      for batch in batches:
        interruption_point()
        rows = {name: batch[name] for name in ('image', 'label', 'weight')}
        yield self._step(params, to_global(self.mesh, rows))

  def run(self, params: Any) -> dict[str, float]:
    """Returns 'accuracy_top1', 'accuracy_top5', 'loss' and 'num_examples' over the whole split."""
    sums = jax.device_get(list(self.results(params)))
    total = {name: float(np.sum([s[name] for s in sums], dtype=np.float64)) for name in sums[0]}
    return {
      'accuracy_top1': total['top1'] / total['examples'],
      'accuracy_top5': total['top5'] / total['examples'],
      'loss': total['loss'] / total['examples'],
      'num_examples': total['examples'],
    }
