"""From tokens to logits: pooling, the optional tanh layer, the linear head."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTSize
from vitjax.models.attention import MultiHeadDotProductAttention
from vitjax.models.encoder import MlpBlock
from vitjax.models.norm import LayerNorm
from vitjax.models.sizes import num_prefix_tokens
from vitjax.ops.naflex import masked_mean
from vitjax.parallel.constrain import constrain
from vitjax.parallel.mesh import BATCH_AXES

Array = jax.Array


class MAPHead(nn.Module):
  """Multi-head attention pooling: a learned query, `probe`, gathers the tokens, then a residual MLP.

  Attributes:
    config: dtypes and the GELU form.
    size: MLP width and heads.

  Source: scaling ViT (arXiv 2106.04560) 3.2; names as in the released models.
  Differs from source: none; there is no dropout in the head.
  """

  config: ModelConfig
  size: ViTSize

  @nn.compact
  def __call__(self, tokens: Array, lengths: Array | None = None) -> Array:
    """Returns [n, d] from tokens [n, l, d], of each example the first lengths [n] of them; None: all."""
    n, _, d = tokens.shape
    dtype, param_dtype = jnp.dtype(self.config.dtype), jnp.dtype(self.config.param_dtype)
    probe = self.param('probe', nn.initializers.xavier_uniform(), (1, 1, d), param_dtype)
    probe = jnp.broadcast_to(probe.astype(dtype), (n, 1, d))
    attention = MultiHeadDotProductAttention(self.size.num_heads, dtype=dtype, param_dtype=param_dtype)
    x = attention(probe, tokens, lengths=lengths)
    y = LayerNorm(epsilon=self.config.norm_eps, dtype=dtype, param_dtype=param_dtype)(x)
    x = x + MlpBlock(self.size.mlp_dim, self.config.gelu, 0.0, dtype, param_dtype)(y)
    return x[:, 0]


def pool_tokens(tokens: Array, config: ModelConfig, size: ViTSize, num_patches: Array | None = None) -> Array:
  """Returns float32 [n, d], what the head sees of tokens [n, l, d]; call it inside an @nn.compact method.

  'token': the class token. 'gap': the mean of the patch tokens, in float32. 'map': MAPHead over the patch
  tokens. Registers are left out of all three, and so is padding behind the first num_patches [n] patches (None: there
  is none). With config.final_norm='pooled' a LayerNorm, `pool_norm`, follows.
  """
  pooled = _pool(tokens, config, size, num_patches)
  if config.final_norm == 'tokens':
    return pooled
  norm = LayerNorm(
    epsilon=config.norm_eps,
    use_bias=size.use_norm_bias,
    dtype=jnp.float32,
    param_dtype=jnp.dtype(config.param_dtype),
    name='pool_norm',
  )
  return norm(pooled)


def _pool(tokens: Array, config: ModelConfig, size: ViTSize, num_patches: Array | None) -> Array:
  """Returns float32 [n, d] before any further norm; see pool_tokens."""
  if config.pool == 'token':
    return tokens[:, 0].astype(jnp.float32)
  patches = tokens[:, num_prefix_tokens(config) :]
  if config.pool == 'gap' and num_patches is not None:
    return masked_mean(patches, num_patches)
  if config.pool == 'gap':
    return patches.mean(axis=1, dtype=jnp.float32)
  return MAPHead(config, size, name='MAPHead_0')(patches, num_patches).astype(jnp.float32)


def apply_head(pooled: Array, config: ModelConfig, num_classes: int) -> tuple[Array, Array]:
  """Returns (logits [n, v], pre_logits [n, r]), float32; call it inside an @nn.compact method.

  A function and not a module, because the released models keep `pre_logits` and `head` at the top level of
  the tree. Both layers run in float32 whatever the compute dtype is: they are small, and the loss sees them.

  Args:
    pooled: float32 [n, d].
    config: representation_size (None: pre_logits is `pooled` itself), head_bias_init, param_dtype.
    num_classes: v; 0: no head, the logits are pre_logits.

  Source: ViT (arXiv 2010.11929) 3.1; the head's kernel starts at zero.
  """
  param_dtype = jnp.dtype(config.param_dtype)
  # Without hints the gradients of these two kernels gather the whole batch and split the features instead.
  hidden = pooled = constrain(pooled, BATCH_AXES)
  if config.representation_size is not None:
    hidden = nn.Dense(
      config.representation_size, dtype=jnp.float32, param_dtype=param_dtype, name='pre_logits'
    )(pooled)
    hidden = constrain(jnp.tanh(hidden), BATCH_AXES)
  if num_classes == 0:
    return hidden, hidden
  head = nn.Dense(
    num_classes,
    kernel_init=nn.initializers.zeros,
    bias_init=nn.initializers.constant(config.head_bias_init),
    dtype=jnp.float32,
    param_dtype=param_dtype,
    name='head',
  )
  return constrain(head(hidden), BATCH_AXES, 'model'), hidden
