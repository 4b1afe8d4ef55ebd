"""Pixels to model input, on the device: images travel as uint8, a quarter of float32."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def normalize(
  images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: jnp.dtype | type | str = jnp.float32
) -> jax.Array:
  """Returns (images / 255 - mean) / std. Traced or not; local or global batches.

  Args:
    images: uint8 (or float with values 0..255) [..., c].
    mean: c numbers in [0, 1] pixel units.
    std: c positive numbers.
    dtype: of the result; the arithmetic is float32.

  Returns:
    `dtype` [..., c]; with mean = std = 0.5 the values lie in [-1, 1].
  """
  shape = (1,) * (images.ndim - 1) + (len(mean),)
  shift = jnp.asarray(mean, jnp.float32).reshape(shape)
  scale = jnp.asarray(std, jnp.float32).reshape(shape)
  return ((images.astype(jnp.float32) / 255.0 - shift) / scale).astype(dtype)
