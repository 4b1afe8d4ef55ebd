"""Supervised classification with softmax or sigmoid cross-entropy."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitjax.config.schema import DataConfig, ObjectiveConfig
from vitjax.objectives.base import Batch, LossOutput, attention_of
from vitjax.ops.augment import augmented
from vitjax.ops.cutmix import cutmix
from vitjax.ops.mixup import mixup
from vitjax.ops.naflex import model_inputs


def classification_loss(logits: jax.Array, targets: jax.Array, kind: str) -> jax.Array:
  """Returns the per-example loss [n] of float32 logits [n, v] against targets [n, v].

  'softmax' is cross-entropy over classes. 'sigmoid' is binary cross-entropy summed over classes, as in the
  pretraining on ImageNet-21k and JFT (ViT code).
  """
  if kind == 'softmax':
    return optax.softmax_cross_entropy(logits, targets)
  return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class Classification:
  """Objective: one label per image, or several of them with the sigmoid loss.

  Attributes:
    model: a Linen module, images float [n, h, w, 3] -> logits float32 [n, v].
    num_classes: v.
    config: loss and label smoothing.
    data: image size, normalisation, mixup, and the augmentations left to the device.
  """

  model: Any
  num_classes: int
  config: ObjectiveConfig
  data: DataConfig

  def init(self, key: jax.Array) -> Any:
    """Returns fresh parameters for images of data.image_size."""
    images = jnp.zeros((1, *self.data.image_size, 3), jnp.float32)
    return self.model.init({'params': key}, images, train=False)['params']

  def augment(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Batch:
    """Returns 'images' float32 [n, h, w, 3] (or NativeImages) and 'targets' [n, v] of a raw batch.

    Args:
      key: of mixup and cutmix.
      batch: 'image' uint8 [n, h, w, 3] (with data.max_tokens patches, see `ops.naflex`), 'label' int32 [n], or [n, v]
        with zeros and ones.
      frozen: of other objectives.
    """
    del frozen
    label = batch['label']
    targets = jax.nn.one_hot(label, self.num_classes) if label.ndim == 1 else label.astype(jnp.float32)
    targets = optax.smooth_labels(targets, self.config.label_smoothing)
    images = augmented(jax.random.fold_in(key, 1), batch['image'], self.data)
    images = model_inputs(images, self.data.mean, self.data.std)
    images, targets = self._mix(key, images, targets)
    return {'images': images, 'targets': targets, 'label': batch['label']}

  def _mix(self, key: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns images and targets after mixup or cutmix; with both on, a coin per batch decides."""
    mixes = [
      functools.partial(mix, alpha=alpha)
      for mix, alpha in ((mixup, self.data.mixup_alpha), (cutmix, self.data.cutmix_alpha))
      if alpha > 0
    ]
    if len(mixes) == 2:
      coin, key = jax.random.split(key)
      return jax.lax.cond(jax.random.bernoulli(coin), *mixes, key, images, targets)
    return mixes[0](key, images, targets) if mixes else (images, targets)

  def loss(self, params: Any, batch: Batch, key: jax.Array) -> LossOutput:
    """Returns the mean loss and the metrics 'loss' and, of images with one label, 'accuracy_top1' (unmixed)."""
    logits = self.model.apply({'params': params}, batch['images'], train=True, rngs={'dropout': key})
    losses = classification_loss(logits, batch['targets'], self.config.loss)
    weight = jnp.float32(losses.shape[0])
    metrics = {'loss': (losses.sum(), weight)}
    if batch['label'].ndim == 1:
      correct = (logits.argmax(axis=-1) == batch['label']).astype(jnp.float32)
      metrics['accuracy_top1'] = (correct.sum(), weight)
    return LossOutput(losses.mean(), metrics)

  def predict(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns logits float32 [n, v] of uint8 images [n, h, w, 3], or of patches as `augment` takes them."""
    images = model_inputs(images, self.data.mean, self.data.std)
    return self.model.apply({'params': params}, images, train=False)

  def features(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns `pre_logits` float32 [n, d] of uint8 images [n, h, w, 3]: the input of the last linear layer.

    That is the tanh layer where model.representation_size sets one, else the pooled tokens themselves.
    """
    images = model_inputs(images, self.data.mean, self.data.std)
    _, out = self.model.apply({'params': params}, images, train=False, return_features=True)
    return out['pre_logits']

  def attention(self, params: Any, images: jax.Array) -> list[jax.Array]:
    """Returns each block's attention probabilities [n, k, l, l] on uint8 images [n, h, w, 3]."""
    return attention_of(self.model, params, model_inputs(images, self.data.mean, self.data.std))
