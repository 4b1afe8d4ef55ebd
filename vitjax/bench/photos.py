"""JPEG files of the size that ImageNet's have, made of scikit-learn's two photographs: a real decoding load."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

_SIZE = (375, 500)
_NUM_BYTES = (56_000, 84_000)


def write_photos(folder: pathlib.Path, count: int, *, seed: int = 0) -> list[pathlib.Path]:
  """Writes an image folder of two classes: crops of two photographs at 500 x 375 pixels, 56 to 84 kB each.

  Every file shows another part at another scale, and is compressed to a size drawn from that range.

  Args:
    folder: gets china/ and flower/.
    count: files in all.
    seed: of crops and sizes.

  Returns:
    The files.
  """
  rng = np.random.default_rng(seed)
  photos = {'china': Image.fromarray(load_sample_images().images[0])}
  photos['flower'] = Image.fromarray(load_sample_images().images[1])
  files = []
  for i in range(count):
    name = ('china', 'flower')[i % 2]
    (folder / name).mkdir(parents=True, exist_ok=True)
    files.append(folder / name / f'{i:05d}.jpg')
    files[-1].write_bytes(_compressed(_part(photos[name], rng), rng.uniform(*_NUM_BYTES)))
  return files


def _part(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
  height = int(photo.height * rng.uniform(0.6, 1))
  width = height * _SIZE[1] // _SIZE[0]
  top, left = int(rng.integers(0, photo.height - height + 1)), int(rng.integers(0, photo.width - width + 1))
  part = photo.resize((_SIZE[1], _SIZE[0]), Image.Resampling.LANCZOS, (left, top, left + width, top + height))
  return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _compressed(image: Image.Image, num_bytes: float) -> bytes:
  """Returns the JPEG of the highest quality that has at most about `num_bytes`."""
  low, high = 60, 98
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if len(_encoded(image, middle)) < num_bytes else (low, middle)
  return _encoded(image, low)


def _encoded(image: Image.Image, quality: int) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=quality)
  return buffer.getvalue()
