"""LayerNorm that keeps its input and two numbers a row for the backward pass, which is written by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float) -> jax.Array:
  """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis. Traced.

  Statistics and arithmetic are float32 whatever the dtypes are. Autodiff would keep several arrays of the size of `x`;
  here the backward pass normalises once more. On a CPU its sums are products with vectors: XLA:CPU hands a sum
  to a library and first writes out what is to be added, a product it does not.

  Reverse mode alone: jax.jvp through it raises.

  Args:
    x: [..., d].
    scale: [d].
    bias: [d], or None for none.
    epsilon: added to the variance, positive.

  Returns:
    [..., d] in float32.

  Source: arXiv 1607.06450.
  Differs from source: the variance is the mean square minus the squared mean, at least 0.
  """
  return _forward(x, scale, bias, epsilon)[0]


def _forward(
  x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
  wide = x.astype(jnp.float32)
  mean = wide.mean(axis=-1, keepdims=True)
  variance = jnp.maximum((wide * wide).mean(axis=-1, keepdims=True) - mean * mean, 0.0)
  inverse = jax.lax.rsqrt(variance + epsilon)
  y = (wide - mean) * (inverse * _row(scale, x.ndim))
  if bias is not None:
    y += _row(bias, x.ndim)
  return y, (x, scale, bias, mean, inverse)


def _row(vector: jax.Array, ndim: int) -> jax.Array:
  return vector.astype(jnp.float32).reshape((1,) * (ndim - 1) + vector.shape)


def _backward(
  epsilon: float, saved: tuple[jax.Array, ...], g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Returns the gradients of x, scale and bias for the cotangent g [..., d]."""
  del epsilon
  x, scale, bias, mean, inverse = saved
  normed = (x.astype(jnp.float32) - mean) * inverse
  dx, d_scale, d_bias = jax.lax.platform_dependent(
    g.astype(jnp.float32), normed, scale.astype(jnp.float32), cpu=_sums_by_products, default=_sums
  )
  dx = (dx * inverse).astype(x.dtype)
  return dx, d_scale.astype(scale.dtype), None if bias is None else d_bias.astype(bias.dtype)


def _sums(g: jax.Array, normed: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the gradients of x (yet to be divided by the deviation), scale and bias."""
  rows = tuple(range(g.ndim - 1))
  scaled = g * _row(scale, g.ndim)
  along = (scaled * normed).mean(axis=-1, keepdims=True)
  dx = scaled - scaled.mean(axis=-1, keepdims=True) - normed * along
  return dx, (g * normed).sum(axis=rows), g.sum(axis=rows)


def _sums_by_products(
  g: jax.Array, normed: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the same as `_sums`; axes are not merged, since the partitioner would then gather what is sharded."""
  num_rows = g.ndim - 1
  both = g * normed
  weights = scale / scale.shape[0]

  def along(x: jax.Array) -> jax.Array:
    return jnp.tensordot(x, weights, 1)[..., None]

  def down(x: jax.Array) -> jax.Array:
    return jnp.tensordot(jnp.ones(x.shape[:-1], x.dtype), x, num_rows)

  return g * _row(scale, g.ndim) - along(g) - normed * along(both), down(both), down(g)


layer_norm.defvjp(_forward, _backward)
