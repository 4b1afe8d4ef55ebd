"""CutMix: a box of one example pasted into another, labels mixed by area."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cutmix(
  key: jax.Array, images: jax.Array, targets: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """Pastes a box of its neighbour in the global batch into each example, the same box for the whole batch.

  Traced; the batch is global. The box has the image's aspect and the share 1 - r of its area, r ~ Beta(alpha, alpha);
  its centre is uniform and what lies outside of the image is cut off, so targets are mixed by the area that is left.

  Args:
    key: PRNG key.
    images: float [n, h, w, c].
    targets: float [n, v].
    alpha: Beta parameter, > 0.

  Returns:
    Mixed images [n, h, w, c] and targets [n, v], dtypes kept.

  Source: arXiv 1905.04899, section 3.
  Differs from source: the partner is the next example instead of a random permutation, as in `mixup`.
  """
  ratio_key, y_key, x_key = jax.random.split(key, 3)
  h, w = images.shape[1:3]
  side = jnp.sqrt(1 - jax.random.beta(ratio_key, alpha, alpha))
  rows, columns = _covered(y_key, h, side), _covered(x_key, w, side)
  inside = rows.reshape(1, h, 1, 1) & columns.reshape(1, 1, w, 1)
  share = inside.astype(jnp.float32).mean()
  mixed = jnp.where(inside, jnp.roll(images, 1, axis=0), images)
  share = share.astype(targets.dtype)
  return mixed, (1 - share) * targets + share * jnp.roll(targets, 1, axis=0)


def _covered(key: jax.Array, length: int, side: jax.Array) -> jax.Array:
  """Returns bool [length]: the pixels of an axis in a span of `side` of it around a uniform centre."""
  centre = jax.random.uniform(key) * length
  return jnp.abs(jnp.arange(length) + 0.5 - centre) < side * length / 2
