"""The contract between the training loop and what is learned."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from vitjax.models import attention_by_block

Batch = dict[str, jax.Array]


class LossOutput(NamedTuple):
  """The result of one loss computation.

  Attributes:
    loss: float32 scalar, the mean over the (micro-)batch that is differentiated.
    metrics: name -> (total, weight), float32 scalars; totals and weights add over micro-batches, and the
      logged value is total / weight.
  """

  loss: jax.Array
  metrics: dict[str, tuple[jax.Array, jax.Array]]


def attention_of(model: Any, params: Any, images: jax.Array) -> list[jax.Array]:
  """Returns each block's attention probabilities [n, k, l, l], rows sum to 1, of normalised images. Traced."""
  _, kept = model.apply({'params': params}, images, train=False, mutable=['intermediates'])
  return attention_by_block(kept['intermediates'])


class Objective(Protocol):
  """What the loop needs of a learning task. All methods are traced.

  Raw images are uint8 [n, h, w, 3]; with data.max_tokens patches, uint8 [n, l, p * p * 3 + 4], see config/naflex.py.
  """

  def init(self, key: jax.Array) -> Any:
    """Returns fresh parameters, a nested dict."""
    ...

  def augment(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Batch:
    """Turns a global batch from the input pipeline into what `loss` takes; runs once per step, on device.

    `frozen` holds weights that never train, such as a teacher's; None for objectives without any.
    """
    ...

  def loss(self, params: Any, batch: Batch, key: jax.Array) -> LossOutput:
    """Returns the training loss of an augmented (micro-)batch; `key` seeds dropout."""
    ...

  def predict(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns float32 scores [n, v] of raw images (uint8 [n, h, w, 3]), without dropout."""
    ...

  def features(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns float32 [n, d], what a head would see of raw images (uint8 [n, h, w, 3]), without dropout."""
    ...

  def attention(self, params: Any, images: jax.Array) -> list[jax.Array]:
    """Returns each block's attention probabilities [n, k, l, l] on raw images (uint8 [n, h, w, 3]); a ViT's alone."""
    ...
