"""Mixup: convex combinations of pairs of examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
  """Mixes each example with its neighbour in the global batch, with one weight for the whole batch.

  Traced; the batch is global. The weight is max(r, 1 - r) with r ~ Beta(alpha, alpha), so that an example
  keeps at least half of itself.

  Args:
    key: PRNG key.
    images: float [n, h, w, c], already normalised.
    targets: float [n, v], rows that sum to 1 (softmax) or are 0/1 (sigmoid).
    alpha: Beta parameter, > 0.

  Returns:
    Mixed images [n, h, w, c] and targets [n, v], dtypes kept.

  Source: arXiv 1710.09412, equation 1.
  Differs from source: the partner is the next example instead of a random permutation; batches are shuffled
  already, and a roll moves one row between devices where a permutation moves the whole batch.
  """
  ratio = jax.random.beta(key, alpha, alpha)
  weight = jnp.maximum(ratio, 1 - ratio)

  def mix(x: jax.Array) -> jax.Array:
    share = weight.astype(x.dtype)
    return share * x + (1 - share) * jnp.roll(x, 1, axis=0)

  return mix(images), mix(targets)
