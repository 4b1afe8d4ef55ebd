"""How far patches look: the mean distance of what they attend to."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def patch_distances(grid: tuple[int, int], stride: int) -> np.ndarray:
  """Returns the Euclidean distance between the centres of each two patches, float64 [h * w, h * w], pixels.

  Args:
    grid: (h, w) patches.
    stride: pixels from one patch to the next.
  """
  y, x = np.mgrid[: grid[0], : grid[1]].reshape(2, -1, 1).astype(np.float64)
  return stride * np.hypot(y - y.T, x - x.T)


def query_distances(
  attention: Any, *, grid: tuple[int, int], stride: int, num_prefix: int, renormalize: bool = True
) -> jax.Array:
  """Returns how far each patch looks, pixels, float32 [..., h * w]. Traced or not.

    distance(q) = sum_j a(q, j) |place(q) - place(j)| / sum_j a(q, j)        over patches j

  Args:
    attention: probabilities [..., l, l], rows sum to 1.
    grid: (h, w) patches.
    stride: pixels from one patch to the next.
    num_prefix: tokens in front of the patches (class token, registers); they have no place and are left out, as
      queries and as keys.
    renormalize: divide by what the row gives to patches, as written above: the distance of what a head does
      look at on the image. False: divide by 1, so that attention to the class token counts as distance 0; a
      head that idles on the class token then looks local.

  Source: ViT (arXiv 2010.11929) D.7, Figures 7 (right) and 11.
  Differs from source: the paper does not say what becomes of the class token; hence the argument.
  """
  patches = jnp.asarray(attention)[..., num_prefix:, num_prefix:].astype(jnp.float32)
  distances = jnp.asarray(patch_distances(grid, stride), jnp.float32)
  found = jnp.einsum('...qj,qj->...q', patches, distances)
  # A row that underflowed to nothing but prefix tokens has no place to look at: distance 0.
  return found / jnp.maximum(patches.sum(-1), 1e-30) if renormalize else found
