"""Patch embeddings for another patch size, and patches left out of training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.positions import Grid, axis_weights


@functools.cache
def pi_weights(old: int, new: int) -> np.ndarray:
  """Returns float64 [new, old], the pseudo-inverse of bilinear resizing along one axis. Host-side.

  With B [new, old] the matrix that resizes a row of pixels, this is (B^T)^+. Both axes of a patch are resized one
  after the other, and the pseudo-inverse of a Kronecker product is the product of the pseudo-inverses.
  """
  return np.linalg.pinv(axis_weights(old, new, 'bilinear').T)


def pi_resize(kernel: jax.Array, size: int) -> jax.Array:
  """Returns a patch embedding's kernel for patches of another size, [size, size, c, d]; traced or numpy.

  The new kernel w' is the one whose products <w', B x> with resized patches come closest to <w, x>: equal for every
  x when patches grow, in the mean over x ~ N(0, 1) when they shrink.

  Args:
    kernel: float [p, p, c, d].
    size: side of the new patches, pixels.

  Source: FlexiViT (arXiv 2212.08013) 3.4, equation 3; bilinear resizing without antialiasing, as its code has it.
  """
  old = kernel.shape[0]
  if old == size:
    return kernel
  if isinstance(kernel, np.ndarray):
    weights = pi_weights(old, size)
    return np.einsum('Hh,Ww,hwcd->HWcd', weights, weights, kernel, optimize=True).astype(kernel.dtype)
  weights = jnp.asarray(pi_weights(old, size), jnp.float32)
  resized = jnp.einsum('Hh,Ww,hwcd->HWcd', weights, weights, kernel.astype(jnp.float32))
  return resized.astype(kernel.dtype)


def resize_cells(cells: jax.Array, old: Grid, new: Grid) -> jax.Array:
  """Returns a table of positions [1, h * w, d] resized to another grid: linear, antialiased where it shrinks. Traced.

  Source: FlexiViT's code, jax.image.resize(table, 'linear').
  """
  if old == new:
    return cells
  d = cells.shape[-1]
  resized = jax.image.resize(cells.reshape(1, *old, d), (1, *new, d), 'linear')
  return resized.reshape(1, new[0] * new[1], d)


def num_kept(num_patches: int, drop_rate: float) -> int:
  """Returns how many patches of an image stay in training: round((1 - drop_rate) * num_patches), at least 1."""
  return max(round((1 - drop_rate) * num_patches), 1)


def drop_patches(key: jax.Array, tokens: jax.Array, *, num_prefix: int, drop_rate: float) -> jax.Array:
  """Returns tokens [n, num_prefix + kept, d]: of each example another random set of patches, in their order. Traced.

  Args:
    key: PRNG key.
    tokens: [n, num_prefix + l, d], positions added already.
    num_prefix: tokens in front of the patches, which always stay.
    drop_rate: share of the patches that is left out, in [0, 1).

  Source: FLIP (arXiv 2212.00794) 3; PatchDropout (2208.07220).
  """
  n, length, _ = tokens.shape
  kept = num_kept(length - num_prefix, drop_rate)
  _, chosen = jax.lax.top_k(jax.random.uniform(key, (n, length - num_prefix)), kept)
  chosen = jnp.sort(chosen, axis=1) + num_prefix
  patches = jnp.take_along_axis(tokens, chosen[:, :, None], axis=1)
  return jnp.concatenate([tokens[:, :num_prefix], patches], axis=1)
