"""Multi-head attention with the parameter names and shapes of flax.linen's, plus relative keys."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.models.dense import Affine
from vitjax.models.norm import LayerNorm
from vitjax.ops.attention import attend, fused_attend, hide_padding

Array = jax.Array
DType = Any


class MultiHeadDotProductAttention(nn.Module):
  """Softmax attention; parameters {query,key,value}/kernel [d, k, e], out/kernel [k, e, d], as in flax.linen.

  flax.linen's own module does not let queries meet relative keys, nor the softmax run in float32 under
  bfloat16.

  Attributes:
    num_heads: k; must divide the token width.
    qk_norm: LayerNorm without bias over the head dim of queries and keys (query_ln/scale, key_ln/scale [e]).
    use_qkv_bias: biases in the query, key and value projections. The output projection always has one.
    norm_eps: epsilon of the LayerNorms of qk_norm.
    dropout_rate: dropout of attention probabilities.
    implementation: 'plain', or 'cudnn', the fused kernel, for calls that need none of what follows.
    dtype: compute dtype; logits and softmax are float32 all the same.
    param_dtype: dtype of the parameters.

  The probabilities are put together only where something reads them: apply(..., mutable=['intermediates']), which
  finds them under 'attention', perturbations of them, dropout, or relative keys. Otherwise `ops.attention`
  computes the result without them.

  Source: ViT (arXiv 2010.11929) appendix A; qk_norm: ViT-22B (2302.05442) section 2.
  """

  num_heads: int
  qk_norm: bool = False
  use_qkv_bias: bool = True
  norm_eps: float = 1e-6
  dropout_rate: float = 0.0
  implementation: str = 'plain'
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32

  @nn.compact
  def __call__(
    self,
    queries: Array,
    tokens: Array,
    relative_keys: Array | None = None,
    *,
    train: bool = False,
    num_tokens: int | None = None,
    lengths: Array | None = None,
  ) -> Array:
    """Returns what each query token gathers from `tokens`.

    Args:
      queries: [n, l_q, d].
      tokens: [n, l, d], the source of keys and values.
      relative_keys: [l_q, l, e]; its product with the queries is added to the content logits, with the same
        1/sqrt(e) scale. None: content alone.
      train: apply dropout.
      num_tokens: how many of the tokens count, the others being padding behind them; None: all. 'cudnn' alone.
      lengths: int32 [n], the same of each example, in the place of num_tokens; what the others gather holds no
        meaning.

    Returns:
      [n, l_q, d] of `dtype`.

    Two collections concern the probabilities [n, k, l_q, l], and both are asked for by the caller of `apply`:
    mutable=['intermediates'] hands them out; a variable 'perturbations'/attention is added to them, so that a
    gradient with respect to zeros is the gradient with respect to attention.
    """
    width = queries.shape[-1]
    head_dim = width // self.num_heads
    project = functools.partial(
      Affine,
      (self.num_heads, head_dim),
      use_bias=self.use_qkv_bias,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    query, key, value = (
      project(name='query')(queries),
      project(name='key')(tokens),
      project(name='value')(tokens),
    )
    if self.qk_norm:
      norm = functools.partial(
        LayerNorm, epsilon=self.norm_eps, use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype
      )
      query, key = norm(name='query_ln')(query), norm(name='key_ln')(key)
    if self.implementation == 'cudnn':
      gathered = fused_attend(query, key, value, num_tokens if lengths is None else lengths)
    elif (
      relative_keys is not None
      or (train and self.dropout_rate > 0)
      or self.has_variable('perturbations', 'attention')
    ):
      gathered = self._by_probabilities(query, key, value, relative_keys, train, lengths)
    else:
      gathered = attend(query, key, value, lengths)
      if self.is_mutable_collection('intermediates'):
        # Beside the result and not on the way to it, so that handing them out changes no bit of it.
        self.sow('intermediates', 'attention', self._probabilities(query, key, None, lengths))
    return Affine((width,), 2, dtype=self.dtype, param_dtype=self.param_dtype, name='out')(gathered)

  def _by_probabilities(
    self,
    query: Array,
    key: Array,
    value: Array,
    relative_keys: Array | None,
    train: bool,
    lengths: Array | None,
  ) -> Array:
    """Returns [n, l_q, k, e]; the probabilities pass dropout and are sown."""
    weights = self._probabilities(query, key, relative_keys, lengths)
    # Kept only by apply(..., mutable=['intermediates']); otherwise the compiler drops it.
    self.sow('intermediates', 'attention', weights)
    if self.has_variable('perturbations', 'attention'):
      weights += self.get_variable('perturbations', 'attention')
    weights = nn.Dropout(self.dropout_rate)(weights, deterministic=not train).astype(self.dtype)
    return jnp.einsum('nkqj,njke->nqke', weights, value)

  def _probabilities(
    self, query: Array, key: Array, relative_keys: Array | None, lengths: Array | None
  ) -> Array:
    """Returns float32 [n, k, l_q, l], rows sum to 1."""
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum('nqke,njke->nkqj', query, key, preferred_element_type=jnp.float32)
    if relative_keys is not None:
      relative_keys = relative_keys.astype(self.dtype)
      logits += jnp.einsum('nqke,qje->nkqj', query, relative_keys, preferred_element_type=jnp.float32)
    if lengths is not None:
      logits = hide_padding(logits, lengths)
    return jax.nn.softmax(logits, axis=-1)
