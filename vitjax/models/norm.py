"""LayerNorm with the parameters and names of flax.linen's."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.ops.norm import layer_norm


class LayerNorm(nn.Module):
  """Normalises the last axis, times `scale` [d], plus `bias` [d].

  flax.linen.LayerNorm leaves the gradients to autodiff, which keeps more and is slower on a CPU; see `layer_norm`.

  Attributes:
    epsilon: added to the variance.
    use_bias: whether there is a bias.
    dtype: of the result; the arithmetic is float32.
    param_dtype: dtype of the parameters.
  """

  epsilon: float = 1e-6
  use_bias: bool = True
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns [..., d] of `dtype` from [..., d]."""
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],), self.param_dtype)
    bias = None
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
    return layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)
