"""Distillation: a student learns what a fixed teacher says of the same images."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitjax.objectives.base import Batch, LossOutput
from vitjax.objectives.classification import Classification


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A network whose weights never change; they travel beside the student's, as `frozen`.

  Attributes:
    model: a Linen module, images float [n, h, w, 3] -> logits float32 [n, v].
    mean, std: its own normalisation of [0, 1] pixels.
  """

  model: Any
  mean: tuple[float, float, float]
  std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
  """Objective: the teacher's probabilities of each image, at a temperature; labels are looked at by metrics alone.

  Teacher and student see the same pixels: the same crop, flip, augmentation and mixup, in the student's resolution,
  each in its own normalisation. With mixup this is the paper's function matching.

  Attributes:
    temperature: divides both logits; the loss is multiplied by its square, which keeps the size of gradients.
    num_chunks: parts that a batch is cut into for the teacher, whose activations are then as many times smaller.
    teacher: None where only the student is asked for (evaluation, planning): targets are then the labels'.

  Source: "Knowledge distillation: a good teacher is patient and consistent" (arXiv 2106.05237), section 2; the
  temperature as in Hinton et al. (1503.02531).
  Differs from source: mixup has one ratio per batch, as everywhere here.
  """

  temperature: float
  num_chunks: int = 1
  teacher: Teacher | None = None

  def augment(self, key: jax.Array, batch: Batch, frozen: Any = None) -> Batch:
    """Returns 'images', 'label' and in 'targets' the teacher's softmax(logits / temperature) [n, v].

    Args:
      key: PRNG key of augmentation and mixup.
      batch: 'image' uint8 [n, h, w, 3], 'label' int32 [n].
      frozen: the teacher's parameters.
    """
    augmented = super().augment(key, batch)
    if self.teacher is None:
      return augmented
    with jax.named_scope('teacher'):
      logits = self.ask(self.teacher, frozen, augmented['images'])
    return {**augmented, 'targets': jax.nn.softmax(logits / self.temperature)}

  def ask(self, teacher: Teacher, params: Any, images: jax.Array) -> jax.Array:
    """Returns the teacher's logits float32 [n, v] of images in the student's normalisation."""

    def logits(images: jax.Array) -> jax.Array:
      return teacher.model.apply({'params': params}, self._renormalized(images, teacher), train=False)

    if self.num_chunks == 1:
      return logits(images)
    # Strided, as micro-batches are: every row stays on the device that holds it.
    chunks = images.reshape(-1, self.num_chunks, *images.shape[1:]).swapaxes(0, 1)
    found = jax.lax.map(logits, chunks)
    return found.swapaxes(0, 1).reshape(images.shape[0], -1)

  def _renormalized(self, images: jax.Array, teacher: Teacher) -> jax.Array:
    """Returns images in the teacher's normalisation; themselves where it is the student's."""
    if (teacher.mean, teacher.std) == (self.data.mean, self.data.std):
      return images
    own_mean, own_std, mean, std = (
      jnp.asarray(x, jnp.float32)[None, None, None]
      for x in (self.data.mean, self.data.std, teacher.mean, teacher.std)
    )
    return (images * own_std + own_mean - mean) / std

  def loss(self, params: Any, batch: Batch, key: jax.Array) -> LossOutput:
    """Returns the mean of temperature^2 KL(teacher, student) [nats]; metrics 'loss', 'accuracy_top1', 'agreement'.

    'accuracy_top1' is the student's against the unmixed label, 'agreement' how often both prefer the same class.
    """
    logits = self.model.apply({'params': params}, batch['images'], train=True, rngs={'dropout': key})
    targets, preferred = batch['targets'], logits.argmax(axis=-1)
    losses = self.temperature**2 * optax.losses.kl_divergence(
      jax.nn.log_softmax(logits / self.temperature), targets
    )
    correct = (preferred == batch['label']).astype(jnp.float32)
    agreeing = (preferred == targets.argmax(axis=-1)).astype(jnp.float32)
    weight = jnp.float32(losses.shape[0])
    metrics = {
      'loss': (losses.sum(), weight),
      'accuracy_top1': (correct.sum(), weight),
      'agreement': (agreeing.sum(), weight),
    }
    return LossOutput(losses.mean(), metrics)
