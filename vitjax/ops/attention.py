"""Softmax attention without the probabilities in the result: by hand for any device, or cuDNN's fused kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_vjp
def attend(query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
  """Returns softmax(query key^T / sqrt(e)) value, with gradients written by hand. Traced.

  The sum of the exponentials divides the result, which is small, and not the matrix of probabilities; so there
  and in the gradients every pass over [n, k, q, j] is one that no product can do without. Logits, exponentials'
  sums and the gradient of the softmax are float32 whatever the dtype is.

  Reverse mode alone: jax.jvp through it raises.

  Args:
    query: [n, q, k, e].
    key: [n, j, k, e].
    value: [n, j, k, e].
    lengths: int32 [n], how many of each example's j tokens count, the others being padding behind them; at least 1.
      None: all.

  Returns:
    [n, q, k, e] of the dtype of `value`.

  Source: ViT (arXiv 2010.11929) eq. 5-7; the order of the division as in FlashAttention (2205.14135).
  """
  return _forward(query, key, value, lengths)[0]


def fused_attend(
  query: jax.Array, key: jax.Array, value: jax.Array, num_tokens: int | jax.Array | None = None
) -> jax.Array:
  """Returns the same by cuDNN's fused kernel, which never writes the logits to memory. Traced; NVIDIA GPUs alone.

  The kernel trains on even lengths alone, so other ones are padded here unless the caller has done it for all
  layers at once, which saves the copies.

  Args:
    query: [n, j, k, e] as for `attend`, in bfloat16; see `fused_attend_fits`.
    key: of the same shape.
    value: of the same shape.
    num_tokens: how many of the j tokens count, the others being padding behind them, or int32 [n], how many of each
      example's; None: all.

  Returns:
    [n, j, k, e]; rows of padding hold no meaning, and gradients pass none of them as long as nothing reads them.
  """
  length = query.shape[1]
  if length % 2:
    query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
  lengths = num_tokens if isinstance(num_tokens, jax.Array) else None
  if lengths is None and (counted := length if num_tokens is None else num_tokens) != query.shape[1]:
    lengths = jnp.full((query.shape[0],), counted, jnp.int32)
  out = jax.nn.dot_product_attention(
    query, key, value, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation='cudnn'
  )
  return out[:, :length]


def fused_attend_fits(dtype: jnp.dtype, head_dim: int) -> bool:
  """Returns whether cuDNN's kernel takes this dtype and head dim (multiples of 8 up to 128, for all its GPUs)."""
  return dtype == jnp.bfloat16 and head_dim % 8 == 0 and head_dim <= 128


def hide_padding(logits: jax.Array, lengths: jax.Array) -> jax.Array:
  """Returns float32 logits [n, k, q, j] with those of the keys from lengths [n] on at minus infinity. Traced."""
  real = jnp.arange(logits.shape[-1])[None] < lengths[:, None]
  return jnp.where(real[:, None, None], logits, -jnp.inf)


def _heads_first(x: jax.Array) -> jax.Array:
  return x.swapaxes(1, 2)


def _product(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
  """Returns float32 products over one axis each of a and b, [n, k, ...] both."""
  return jax.lax.dot_general(
    a, b, (((axis_a,), (axis_b,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
  )


def _forward(
  query: jax.Array, key: jax.Array, value: jax.Array, lengths: jax.Array | None = None
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  query = _heads_first(query * query.shape[-1] ** -0.5)
  key, value = _heads_first(key), _heads_first(value)
  logits = _product(query, key, 3, 3)
  if lengths is not None:
    logits = hide_padding(logits, lengths)
  exps = jnp.exp(logits - logits.max(axis=-1, keepdims=True)).astype(value.dtype)
  scale = 1.0 / exps.sum(axis=-1, keepdims=True, dtype=jnp.float32)
  out = (_product(exps, value, 3, 2) * scale).astype(value.dtype)
  return _heads_first(out), (query, key, value, exps, scale, out)


def _backward(saved: tuple[jax.Array, ...], g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
  # What padding has for exponentials is zero, and so is all that comes of it.
  query, key, value, exps, scale, out = saved  # query holds the factor 1/sqrt(e)
  g = (_heads_first(g) * scale).astype(value.dtype)
  mean = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1, keepdims=True)
  d_logits = (exps.astype(jnp.float32) * (_product(g, value, 3, 3) - mean)).astype(value.dtype)
  d_query = _product(d_logits, key, 3, 2) * query.shape[-1] ** -0.5
  d_key = _product(d_logits, query, 2, 2)
  d_value = _product(exps, jax.lax.platform_dependent(g, d_logits, cpu=_after, default=lambda g, _: g), 2, 2)
  d_query, d_key, d_value = (_heads_first(d.astype(value.dtype)) for d in (d_query, d_key, d_value))
  return d_query, d_key, d_value, None


def _after(g: jax.Array, d_logits: jax.Array) -> jax.Array:
  """Returns g, computed after d_logits.

  XLA:CPU runs the products for d_key and d_value on one thread each. Without this d_value comes first, since
  d_logits is then written over the exponentials, and nothing can run beside it; with it, the two run side by side.
  """
  return g + d_logits[..., :1] * 0


attend.defvjp(_forward, _backward)
