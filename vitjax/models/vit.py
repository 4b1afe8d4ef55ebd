"""The Vision Transformer, plain and hybrid, as a pure function of its parameters.

  images -> (ResNet stem) -> patches -> class token, registers, patches -> encoder -> pool -> (tanh) -> head

Axis letters: n batch, h w grid, c channels, l tokens, d width, k heads, e head dim, v classes; images NHWC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.models.embeddings import ResizedPatchEmbedding, check_channels, check_images, check_patches
from vitjax.models.encoder import Encoder
from vitjax.models.heads import apply_head, pool_tokens
from vitjax.models.resnet import apply_hybrid_stem
from vitjax.ops.attention import fused_attend_fits
from vitjax.ops.naflex import NativeImages
from vitjax.ops.positions import Grid
from vitjax.parallel.constrain import constrain
from vitjax.parallel.mesh import BATCH_AXES
from vitjax.parallel.tuning import attention_for

Array = jax.Array


class VisionTransformer(nn.Module):
  """A Vision Transformer; build it with `create_model` or `build_model`, which check the config.

  Top-level parameters, by the names of the official checkpoints: embedding, cls (pool='token'), registers,
  Transformer, MAPHead_0 (pool='map'), pool_norm (final_norm='pooled'), pre_logits, head; a hybrid adds
  conv_root, gn_root, block1, block2, ... Position tables take the grid of the images given to `init`.

  Attributes:
    config: every knob.
    variant: the sizes that `config` resolves to.
    num_classes: outputs; 0: no head.
    device_class: the devices it will run on, as parallel.tuning names them, to choose between forms of the same
      function; None: those that jax would use.
    patch_size: side of the patches it cuts; the kernel, stored for variant.patch_size, is resized to it. None: that.
    table_grid: (h, w) patches that the position tables are stored for; they are resized to the grid of the images.
      None: the images must make that grid.

  Source: ViT (arXiv 2010.11929); `Encoder`, `PositionTable`, `MAPHead` name theirs. patch_size, table_grid: FlexiViT
  (2212.08013).
  """

  config: ModelConfig
  variant: ViTVariant
  num_classes: int
  device_class: str | None = None
  patch_size: int | None = None
  table_grid: Grid | None = None

  @nn.compact
  def __call__(
    self,
    images: Array | NativeImages,
    *,
    train: bool = False,
    return_features: bool = False,
    edit_patches: Callable[[Array], Array] | None = None,
  ) -> Array | tuple[Array, dict[str, Array]]:
    """Returns the logits of normalised images. Traced; images may be local or global.

    Args:
      images: float [n, h, w, c], h and w multiples of the patch size; they need not be equal. Or images at their own
        aspect ratios, of one patch size; the model then needs a table_grid (`models.resized_model`).
      train: apply dropout and stochastic depth, which draw from rngs={'dropout': key}.
      return_features: return (logits, out) instead.
      edit_patches: applied to the embedded patches [n, h, w, d] before positions are added, as for masking.

    Returns:
      float32 [n, v]; with num_classes 0 the features that a head would see. `out` holds 'block00' ... (each
      block's tokens [n, l, d]) and 'tokens' [n, l, d] after the final norm (before it with
      final_norm='pooled'), both in the compute dtype; 'pooled' [n, d] and 'pre_logits' [n, r] in float32.
      Tokens stand in the order class token, registers, patches row by row; with config.token_drop_rate, `train`
      leaves patches out. Of images at their own aspect ratios those behind the last patch hold no meaning.

    Raises:
      DataError: images of a shape, dtype or size that does not fit the model or its position table.
    """
    config = dataclasses.replace(self.config, attention=self._attention(train))
    dtype, param_dtype = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype)
    images, places = images if isinstance(images, NativeImages) else (images, None)
    patches = self._patches(images, dtype, param_dtype)
    if edit_patches is not None:
      patches = edit_patches(patches)
    n, h, w, d = patches.shape
    tokens = patches.reshape(n, h * w, d)
    prefix = []
    if config.pool == 'token':
      prefix.append(self.param('cls', nn.initializers.zeros, (1, 1, d), param_dtype))
    if config.num_registers:
      prefix.append(
        self.param('registers', nn.initializers.normal(0.02), (1, config.num_registers, d), param_dtype)
      )
    prefix = [jnp.broadcast_to(p.astype(dtype), (n, *p.shape[1:])) for p in prefix]
    tokens = jnp.concatenate([*prefix, tokens], axis=1)
    encoder = Encoder(
      config, self.variant.size, (h, w), train, return_features, self.table_grid, name='Transformer'
    )
    tokens, out = encoder(tokens, places)
    num_patches = None if places is None else places.lengths()
    pooled = pool_tokens(tokens, config, self.variant.size, num_patches)
    logits, pre_logits = apply_head(pooled, config, self.num_classes)
    if return_features:
      return logits, {**out, 'tokens': tokens, 'pooled': pooled, 'pre_logits': pre_logits}
    return logits

  def _attention(self, train: bool) -> str:
    """Returns 'cudnn' where the devices have it and nothing needs the probabilities themselves, else 'plain'."""
    config, size = self.config, self.variant.size
    needed = (
      config.position == 'relative'
      or (train and config.attention_dropout_rate > 0)
      or self.is_mutable_collection('intermediates')
      or 'perturbations' in self.variables
    )
    if needed or not fused_attend_fits(jnp.dtype(config.dtype), size.width // size.num_heads):
      return 'plain'
    return attention_for(config, self.device_class)

  def _patches(self, images: Array, dtype: jnp.dtype, param_dtype: jnp.dtype) -> Array:
    """Returns the embedded patches [n, h, w, d] of images (or of a hybrid's feature map)."""
    check_images(images)
    units, size = self.variant.stem_units, self.variant.patch_size
    first = 'conv_root' if units else 'embedding'
    if self.has_variable('params', first):
      check_channels(f'{first}/kernel', self.get_variable('params', first)['kernel'], images)
    x = images.astype(dtype)
    if units:
      x = apply_hybrid_stem(x, units, dtype=dtype, param_dtype=param_dtype)
    cut = size if self.patch_size is None else self.patch_size
    check_patches(x.shape[1:3], cut, images.shape[1:3], hybrid=bool(units))
    dtypes = {'dtype': dtype, 'param_dtype': param_dtype}
    width = self.variant.size.width
    if cut != size:
      embedding: nn.Module = ResizedPatchEmbedding(width, size, cut, **dtypes, name='embedding')
    else:
      embedding = nn.Conv(
        width, (size, size), strides=(size, size), padding='VALID', **dtypes, name='embedding'
      )
    return constrain(embedding(x), BATCH_AXES)
