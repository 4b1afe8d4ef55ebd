"""Masked patch prediction, the paper's self-supervised pretraining: guess the mean colour of hidden patches."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vitjax.config.schema import DataConfig, ModelConfig, ObjectiveConfig
from vitjax.config.variants import ViTVariant
from vitjax.models.sizes import num_prefix_tokens, resolve_variant
from vitjax.objectives.base import Batch, LossOutput, attention_of
from vitjax.ops.augment import augmented
from vitjax.ops.normalize import normalize

NUM_COLOURS = 512  # three bits per channel
_LEVELS = 8
# Of the corrupted patches: 80 % become the mask token, 10 % another patch, 10 % stay what they are.
_MASK_SHARE, _OTHER_SHARE = 0.8, 0.1


def mean_colours(images: jax.Array, grid: tuple[int, int]) -> jax.Array:
  """Returns the 3-bit mean colour of each patch, int32 [n, h * w] in [0, 512): 64 r + 8 g + b. Traced.

  Args:
    images: uint8 [n, H, W, 3]; H and W are multiples of the grid's sides.
    grid: (h, w) patches.

  Source: ViT (arXiv 2010.11929) B.1.2.
  """
  n, height, width, channels = images.shape
  h, w = grid
  cells = images.astype(jnp.float32).reshape(n, h, height // h, w, width // w, channels)
  levels = jnp.floor(cells.mean(axis=(2, 4)) * (_LEVELS / 256)).astype(jnp.int32)
  colours = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
  return colours.reshape(n, h * w)


def draw_corruption(key: jax.Array, n: int, num_patches: int, rate: float) -> dict[str, jax.Array]:
  """Returns which patches are corrupted and how; exactly round(rate * l) of each image. Traced.

  Args:
    key: PRNG key.
    n: images.
    num_patches: l.
    rate: share of the patches to corrupt, in (0, 1].

  Returns:
    'corrupted' bool [n, l]: the loss looks at these. 'masked' bool [n, l]: these become the mask token.
    'taken_from' int32 [n, l]: the patch of the same image whose embedding stands there; its own number where
    nothing is replaced.
  """
  which, how, others = jax.random.split(key, 3)
  rank = jax.random.uniform(which, (n, num_patches)).argsort(axis=1).argsort(axis=1)
  corrupted = rank < round(rate * num_patches)
  draw = jax.random.uniform(how, (n, num_patches))
  own = jnp.arange(num_patches, dtype=jnp.int32)[None]
  shift = jax.random.randint(others, (n, num_patches), 1, max(num_patches, 2))
  replaced = corrupted & (draw >= _MASK_SHARE) & (draw < _MASK_SHARE + _OTHER_SHARE)
  return {
    'corrupted': corrupted,
    'masked': corrupted & (draw < _MASK_SHARE),
    'taken_from': jnp.where(replaced, (own + shift) % num_patches, own),
  }


@dataclasses.dataclass(frozen=True)
class MaskedPatch:
  """Objective: the 3-bit mean colour of each corrupted patch, from that patch's output token.

  The parameters are the model's, without a head, and under 'objective' what only this objective needs: the
  mask token and the linear layer to 512 colours. Checkpoints keep both; `vitjax.load` and transfer take the
  model's alone.

  Attributes:
    model: a Linen ViT with num_classes 0.
    config: corrupt_rate.
    data: image size and normalisation.
    network: the model's config.

  Source: ViT (arXiv 2010.11929) B.1.2; the shares follow BERT (1810.04805).
  Differs from source: the paper does not say where "a random other patch" comes from; here it is one of the
  same image. Colours are taken after cropping and flipping.
  """

  model: Any
  config: ObjectiveConfig
  data: DataConfig
  network: ModelConfig

  @functools.cached_property
  def grid(self) -> tuple[int, int]:
    """(h, w) patches."""
    variant = resolve_variant(self.network)
    assert isinstance(variant, ViTVariant), 'checked in config/'
    h, w = self.data.image_size
    return h // variant.downsample, w // variant.downsample

  def _decoder(self) -> nn.Dense:
    return nn.Dense(NUM_COLOURS, param_dtype=jnp.dtype(self.network.param_dtype))

  def init(self, key: jax.Array) -> Any:
    """Returns fresh parameters for images of data.image_size."""
    model_key, token_key, decoder_key = jax.random.split(key, 3)
    images = jnp.zeros((1, *self.data.image_size, 3), jnp.float32)
    params = self.model.init({'params': model_key}, images, train=False)['params']
    width = resolve_variant(self.network).size.width
    dtype = jnp.dtype(self.network.param_dtype)
    own = {
      'mask_token': nn.initializers.normal(0.02)(token_key, (1, 1, width), dtype),
      'head': self._decoder().init(decoder_key, jnp.zeros((1, width)))['params'],
    }
    return {**params, 'objective': own}

  def augment(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Batch:
    """Returns 'images' float32, 'colours' int32 [n, l] and the drawn corruption of a raw batch ('image' uint8)."""
    h, w = self.grid
    images = augmented(jax.random.fold_in(key, 1), batch['image'], self.data)
    return {
      'images': normalize(images, self.data.mean, self.data.std),
      'colours': mean_colours(images, self.grid),
      **draw_corruption(key, images.shape[0], h * w, self.config.corrupt_rate),
    }

  def loss(self, params: Any, batch: Batch, key: jax.Array) -> LossOutput:
    """Returns the mean cross-entropy over corrupted patches, and 'loss' and 'patch_accuracy'."""
    own = params['objective']

    def corrupt(patches: jax.Array) -> jax.Array:
      n, h, w, d = patches.shape
      flat = jnp.take_along_axis(patches.reshape(n, h * w, d), batch['taken_from'][..., None], axis=1)
      flat = jnp.where(batch['masked'][..., None], own['mask_token'].astype(flat.dtype), flat)
      return flat.reshape(n, h, w, d)

    _, out = self.model.apply(
      _of_model(params),
      batch['images'],
      train=True,
      return_features=True,
      edit_patches=corrupt,
      rngs={'dropout': key},
    )
    tokens = out['tokens'][:, num_prefix_tokens(self.network) :].astype(jnp.float32)
    logits = self._decoder().apply({'params': own['head']}, tokens)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['colours'])
    counted = batch['corrupted'].astype(jnp.float32)
    total, weight = (losses * counted).sum(), counted.sum()
    correct = ((logits.argmax(axis=-1) == batch['colours']) * counted).sum()
    return LossOutput(total / weight, {'loss': (total, weight), 'patch_accuracy': (correct, weight)})

  def predict(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns the features: there is no head to score with."""
    return self.features(params, images)

  def features(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns float32 [n, d], the pooled tokens of uint8 images [n, h, w, 3], nothing corrupted."""
    images = normalize(images, self.data.mean, self.data.std)
    return self.model.apply(_of_model(params), images, train=False)

  def attention(self, params: Any, images: jax.Array) -> list[jax.Array]:
    """Returns each block's attention probabilities [n, k, l, l] on uint8 images [n, h, w, 3], nothing corrupted."""
    images = normalize(images, self.data.mean, self.data.std)
    return attention_of(self.model, _of_model(params)['params'], images)


def _of_model(params: Any) -> Any:
  return {'params': {name: value for name, value in params.items() if name != 'objective'}}
