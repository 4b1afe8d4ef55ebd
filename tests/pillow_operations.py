"""RandAugment's operations as Pillow makes them and as the device does, side by side."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vitjax.config.augmentation import RANDAUGMENT_OPERATIONS
from vitjax.data.randaugment import OPERATIONS
from vitjax.ops.augment import operation


class Draws:
  """A generator whose every sign is the given one, and whose every place is the middle."""

  def __init__(self, negative: bool):
    self.negative = negative

  def random(self) -> float:
    return 0.1 if self.negative else 0.9

  def integers(self, low: int, high: int) -> int:
    return (low + high) // 2


def by_pillow(name: str, image: np.ndarray, level: float, *, negative: bool = False) -> np.ndarray:
  """Returns an image uint8 [h, w, 3] after an operation in the input workers."""
  return np.asarray(OPERATIONS[name](Image.fromarray(image), level, Draws(negative)))


def both_ways(images: np.ndarray, level: float) -> Iterator[tuple[str, bool, np.ndarray, np.ndarray]]:
  """Yields (operation, sign, by the device, by Pillow) of the sixteen with both signs; batches are int64 [n, h, w, 3].

  Args:
    images: uint8 [n, h, w, 3].
    level: RandAugment's magnitude.
  """
  centre = (images.shape[1] // 2, images.shape[2] // 2)

  def one(image: jax.Array, number: jax.Array, negative: jax.Array) -> jax.Array:
    return operation(image, number, level, negative=negative, centre=centre)

  on_device = jax.jit(jax.vmap(one, (0, None, None)))
  for number, name in enumerate(RANDAUGMENT_OPERATIONS):
    for negative in (False, True):
      ours = np.asarray(on_device(jnp.asarray(images), number, negative)).astype(int)
      pillows = np.stack([by_pillow(name, image, level, negative=negative) for image in images]).astype(int)
      yield name, negative, ours, pillows
