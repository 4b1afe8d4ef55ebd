"""The transformer encoder: blocks in a loop or a scan, positions, stochastic depth, rematerialisation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTSize
from vitjax.models.attention import MultiHeadDotProductAttention
from vitjax.models.dense import Affine
from vitjax.models.embeddings import PositionTable
from vitjax.models.norm import LayerNorm
from vitjax.models.sizes import num_prefix_tokens
from vitjax.ops.gelu import gelu_tanh
from vitjax.ops.naflex import Places
from vitjax.ops.patches import drop_patches
from vitjax.ops.positions import Grid
from vitjax.parallel.constrain import constrain
from vitjax.parallel.mesh import BATCH_AXES

Array = jax.Array
DType = Any


class MlpBlock(nn.Module):
  """Dense, GELU, dropout, Dense, dropout.

  Attributes:
    mlp_dim: hidden width.
    gelu: 'tanh' or 'exact'.
    dropout_rate: rate of both dropouts.
    dtype: compute dtype.
    param_dtype: dtype of the parameters.
  """

  mlp_dim: int
  gelu: str
  dropout_rate: float
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Array, *, train: bool = False) -> Array:
    """Returns [n, l, d] from [n, l, d]."""
    dense = functools.partial(
      Affine, bias_init=nn.initializers.normal(1e-6), dtype=self.dtype, param_dtype=self.param_dtype
    )
    width = x.shape[-1]
    x = dense((self.mlp_dim,), name='Dense_0')(x)
    x = gelu_tanh(x) if self.gelu == 'tanh' else nn.gelu(x, approximate=False)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    x = dense((width,), name='Dense_1')(x)
    return nn.Dropout(self.dropout_rate)(x, deterministic=not train)


class LayerScale(nn.Module):
  """Multiplies each feature of a residual branch by a learned gain, `scale` [d].

  Source: CaiT (arXiv 2103.17239).
  """

  initial: float
  dtype: DType
  param_dtype: DType

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns [n, l, d] from [n, l, d]."""
    scale = self.param('scale', nn.initializers.constant(self.initial), (x.shape[-1],), self.param_dtype)
    return x * scale.astype(self.dtype)[None, None]


def drop_branch(key: Array, branch: Array, rate: Array | float) -> Array:
  """Returns a residual branch [n, l, d] with whole examples zeroed at `rate`, others times 1 / (1 - rate).

  Source: stochastic depth (arXiv 1603.09382).
  Differs from source: the scaling stands in training and not in evaluation, as in dropout; the expectation is
  the same.
  """
  keep = 1.0 - jnp.asarray(rate, jnp.float32)
  kept = jax.random.bernoulli(key, keep, (branch.shape[0], 1, 1))
  return branch * (kept / keep).astype(branch.dtype)


def drop_rates(config: ModelConfig, depth: int) -> np.ndarray:
  """Returns each block's stochastic-depth rate, float32 [depth]: linear from 0 to the config's rate."""
  return (config.stochastic_depth_rate * np.arange(depth) / max(depth - 1, 1)).astype(np.float32)


def position_table(
  config: ModelConfig, size: ViTSize, grid: Grid, table_grid: Grid | None = None
) -> PositionTable:
  """Returns the module of one position table; call it inside an @nn.compact method, its parent."""
  return PositionTable(
    kind=config.position,
    grid=grid,
    num_class_tokens=int(config.pool == 'token'),
    num_registers=config.num_registers,
    width=size.width // size.num_heads if config.position == 'relative' else size.width,
    dtype=jnp.dtype(config.dtype),
    param_dtype=jnp.dtype(config.param_dtype),
    table_grid=table_grid,
    name='posembed_input',
  )


def has_tables_per_block(config: ModelConfig) -> bool:
  """Returns whether each block has a position table of its own.

  Relative keys live in attention, not at the stem: the paper lists them once, in the column of its default
  placement, so position_at='stem' means for them what 'every_layer' means.
  """
  if config.position == 'relative':
    return config.position_at != 'every_layer_shared'
  return config.position not in ('none', 'sincos_2d') and config.position_at == 'every_layer'


class EncoderBlock(nn.Module):
  """One pre-norm transformer block, sequential or (ViT-22B) with attention and MLP side by side.

    sequential  x + attention(norm(x)), then x + mlp(norm(x))
    parallel    x + attention(y) + mlp(y) with one y = norm(x)

  Attributes:
    config: dropout, LayerScale, positions, dtypes.
    size: transformer dimensions and the block's form.
    grid: (h, w) patches.
    train: apply dropout and stochastic depth.
    return_tokens: put out the tokens a second time, for a scan to stack.
    num_tokens: how many of the tokens are no padding; None: all.
    table_grid: as PositionTable's.

  Source: ViT (arXiv 2010.11929) eq. 2-3; parallel: ViT-22B (2302.05442) section 2.
  Differs from source: ViT-22B's LayerNorms have neither bias nor centring; here they have no bias.
  """

  config: ModelConfig
  size: ViTSize
  grid: Grid
  train: bool
  return_tokens: bool = False
  num_tokens: int | None = None
  table_grid: Grid | None = None

  @nn.compact
  def __call__(
    self, x: Array, rate: Array, shared: Array | None, lengths: Array | None
  ) -> tuple[Array, Array | None]:
    """Returns (tokens, tokens or None).

    Args:
      x: tokens [n, l, d].
      rate: this block's stochastic-depth rate, a float32 scalar.
      shared: what PositionTable returns, when all blocks share it; it is added to `x`, or for relative
        positions handed to attention. None: the block has its own, or there is nothing to do here.
      lengths: int32 [n], how many of each example's tokens are no padding; None: num_tokens of all.
    """
    config = self.config
    positions = shared
    if has_tables_per_block(config):
      positions = position_table(config, self.size, self.grid, self.table_grid)()
    # Without a hint the compiler may gather the batch and split the features over fsdp instead.
    x = constrain(x, BATCH_AXES)
    relative = positions if config.position == 'relative' else None
    if positions is not None and relative is None:
      x = x + positions
    if self.size.parallel_blocks:
      y = self._norm()(x)
      x = x + self._drop(self._attention(y, relative, lengths) + self._mlp(y), rate)
    else:
      x = x + self._drop(self._attention(self._norm()(x), relative, lengths), rate)
      x = x + self._drop(self._mlp(self._norm()(x)), rate)
    x = constrain(x, BATCH_AXES)
    return x, x if self.return_tokens else None

  def _dtypes(self) -> dict[str, DType]:
    return {'dtype': jnp.dtype(self.config.dtype), 'param_dtype': jnp.dtype(self.config.param_dtype)}

  def _norm(self) -> LayerNorm:
    return LayerNorm(epsilon=self.config.norm_eps, use_bias=self.size.use_norm_bias, **self._dtypes())

  def _attention(self, y: Array, relative: Array | None, lengths: Array | None) -> Array:
    """Returns the attention branch of normalised tokens y, with its dropout and gain."""
    attention = MultiHeadDotProductAttention(
      self.size.num_heads,
      qk_norm=self.size.qk_norm,
      use_qkv_bias=self.size.use_qkv_bias,
      norm_eps=self.config.norm_eps,
      dropout_rate=self.config.attention_dropout_rate,
      implementation=self.config.attention,
      **self._dtypes(),
    )
    y = attention(y, y, relative, train=self.train, num_tokens=self.num_tokens, lengths=lengths)
    return self._gain(nn.Dropout(self.config.dropout_rate)(y, deterministic=not self.train))

  def _mlp(self, y: Array) -> Array:
    """Returns the MLP branch of normalised tokens y, with its gain."""
    mlp = MlpBlock(self.size.mlp_dim, self.config.gelu, self.config.dropout_rate, **self._dtypes())
    return self._gain(mlp(y, train=self.train))

  def _gain(self, branch: Array) -> Array:
    if self.config.layer_scale_init is None:
      return branch
    return LayerScale(self.config.layer_scale_init, **self._dtypes())(branch)

  def _drop(self, branch: Array, rate: Array) -> Array:
    if not self.train or self.config.stochastic_depth_rate == 0:
      return branch
    return drop_branch(self.make_rng('dropout'), branch, rate)


def _rematerialised(block: Any, config: ModelConfig) -> Any:
  """Returns the block class, wrapped so that its backward pass recomputes what config.remat says.

  'dots' keeps the outputs of the projections and the MLP, which are costly to make, and recomputes the
  attention matrix, which is large to keep (products without batch axes are saved, others are not).
  """
  if config.remat == 'none':
    return block
  policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if config.remat == 'dots' else None
  return nn.remat(block, policy=policy, prevent_cse=config.layers == 'loop')


class Encoder(nn.Module):
  """Positions, dropout, blocks and the final norm.

  Attributes:
    config: the model's config.
    size: transformer dimensions.
    grid: (h, w) patches.
    train: apply dropout and stochastic depth.
    return_features: collect each block's output.
    table_grid: as PositionTable's.

  Parameters: posembed_input/..., encoder_norm/..., and encoderblock_{i}/..., or for layers='scan' all blocks
  stacked on axis 0 in encoderblock/... Dropout of the tokens comes once, on entry: after the positions when
  those are added at the stem. Then, in training, a share config.token_drop_rate of the patches is left out.
  """

  config: ModelConfig
  size: ViTSize
  grid: Grid
  train: bool
  return_features: bool
  table_grid: Grid | None = None

  @nn.compact
  def __call__(self, x: Array, places: Places | None = None) -> tuple[Array, dict[str, Array]]:
    """Returns the tokens [n, l, d] and {'block00': [n, l, d], ...}, {} unless return_features.

    Args:
      x: tokens [n, l, d].
      places: of the patches among them, when images keep their own aspect ratios; the rest is then padding, whose
        results hold no meaning. None: all images make `grid`.

    The tokens are normalised unless config.final_norm says that the pooled vector is, later.
    """
    config = self.config
    shared = None
    if config.position != 'none' and not has_tables_per_block(config):
      shared = position_table(config, self.size, self.grid, self.table_grid)(places)
      if config.position_at == 'stem':
        x, shared = x + shared, None
    x = nn.Dropout(config.dropout_rate)(x, deterministic=not self.train)
    if self.train and config.token_drop_rate > 0:
      num_prefix = num_prefix_tokens(config)
      key = self.make_rng('dropout')
      x = drop_patches(key, x, num_prefix=num_prefix, drop_rate=config.token_drop_rate)
    num_tokens = x.shape[1]
    if config.attention == 'cudnn' and num_tokens % 2 and shared is None and not has_tables_per_block(config):
      x = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))  # once here, or in every block
    lengths = None if places is None else num_prefix_tokens(config) + places.lengths()
    run = self._scan if config.layers == 'scan' else self._loop
    x, features = run(x, drop_rates(config, self.size.depth), shared, num_tokens, lengths)
    x = x[:, :num_tokens]
    features = {f'block{i:02d}': tokens[:, :num_tokens] for i, tokens in enumerate(features)}
    if config.final_norm == 'pooled':
      return x, features
    norm = LayerNorm(
      epsilon=config.norm_eps,
      use_bias=self.size.use_norm_bias,
      dtype=jnp.dtype(config.dtype),
      param_dtype=jnp.dtype(config.param_dtype),
      name='encoder_norm',
    )
    return norm(x), features

  def _block(self, wrap: Callable[[Any], Any], num_tokens: int, name: str) -> Any:
    block = wrap(_rematerialised(EncoderBlock, self.config))
    return block(
      self.config,
      self.size,
      self.grid,
      self.train,
      self.return_features,
      num_tokens,
      self.table_grid,
      name=name,
    )

  def _loop(
    self, x: Array, rates: np.ndarray, shared: Array | None, num_tokens: int, lengths: Array | None
  ) -> tuple[Array, list[Array]]:
    features = []
    for i, rate in enumerate(rates):
      x, tokens = self._block(lambda block: block, num_tokens, f'encoderblock_{i}')(x, rate, shared, lengths)
      features += [tokens] if self.return_features else []
    return x, features

  def _scan(
    self, x: Array, rates: np.ndarray, shared: Array | None, num_tokens: int, lengths: Array | None
  ) -> tuple[Array, list[Array]]:
    lift: Any = nn.scan  # its annotations do not allow nn.broadcast inside in_axes
    scan = functools.partial(
      lift,
      variable_axes={'params': 0, 'intermediates': 0, 'perturbations': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=self.size.depth,
    )
    x, tokens = self._block(scan, num_tokens, 'encoderblock')(x, jnp.asarray(rates), shared, lengths)
    return x, list(tokens) if self.return_features else []
