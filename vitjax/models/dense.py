"""Affine maps with the parameters, names and initial values of flax.linen's Dense and DenseGeneral."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.ops.dense import contract

Array = jax.Array
DType = Any


class Affine(nn.Module):
  """Contracts the last axes of the input with `kernel` [*inner, *features] and adds `bias` [*features].

  flax.linen.DenseGeneral leaves the gradient of the kernel to autodiff, which is slow on a CPU; see `contract`.

  Attributes:
    features: the axes that take the place of the contracted ones.
    num_axes: how many axes are contracted.
    use_bias: whether there is a bias.
    kernel_init: initialiser, called with the flattened shape [inner, features].
    bias_init: initialiser, called with the flattened shape.
    dtype: compute dtype.
    param_dtype: dtype of the parameters.
  """

  features: tuple[int, ...]
  num_axes: int = 1
  use_bias: bool = True
  kernel_init: Any = nn.initializers.xavier_uniform()
  bias_init: Any = nn.initializers.zeros
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns [..., *features] of `dtype` from [..., *inner]."""
    inner = x.shape[x.ndim - self.num_axes :]
    kernel = self.param('kernel', self._init_kernel, (*inner, *self.features), self.param_dtype)
    y = contract(x.astype(self.dtype), kernel.astype(self.dtype), self.num_axes)
    if not self.use_bias:
      return y
    bias = self.param('bias', self._init_bias, self.features, self.param_dtype).astype(self.dtype)
    return y + jnp.expand_dims(bias, tuple(range(x.ndim - self.num_axes)))

  def _init_kernel(self, key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    flat = (math.prod(shape[: self.num_axes]), math.prod(self.features))
    return self.kernel_init(key, flat, dtype).reshape(shape)

  def _init_bias(self, key: Array, shape: tuple[int, ...], dtype: DType) -> Array:
    return self.bias_init(key, (math.prod(shape),), dtype).reshape(shape)
