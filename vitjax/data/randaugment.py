"""RandAugment and its neighbours on one uint8 image: Pillow's operations, with the generator given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vitjax.config.augmentation import (
  BLUR_RADII,
  ERASED_AREA,
  ERASED_ASPECT,
  ERASING_TRIES,
  FILL,
  JITTER,
  RANDAUGMENT_OPERATIONS,
  SOLARIZE_AT,
  strength,
)

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _enhance(name: str, kind: type) -> Operation:
  return lambda image, level, rng: kind(image).enhance(strength(name, level))


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
  return image.transform(
    image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(FILL, FILL, FILL)
  )


def _signed(rng: np.random.Generator, value: float) -> float:
  return -value if rng.random() < 0.5 else value


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  angle = _signed(rng, strength('rotate', level))
  return image.rotate(angle, Image.Resampling.NEAREST, fillcolor=(FILL, FILL, FILL))


def _shear_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, _signed(rng, strength('shear_x', level)), 0, 0, 1, 0))


def _shear_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, 0, 0, _signed(rng, strength('shear_y', level)), 1, 0))


def _shift_x(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, 0, _signed(rng, strength('shift_x', level)), 0, 1, 0))


def _shift_y(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return _affine(image, (1, 0, 0, 0, 1, _signed(rng, strength('shift_y', level))))


def _posterize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  # Not ImageOps.posterize, which refuses to keep no bit at all: what levels below 2.5 ask for.
  dropped = 8 - min(int(strength('posterize', level)), 8)
  return image.point([value >> dropped << dropped for value in range(256)] * 3)


def _solarize(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  return ImageOps.solarize(image, int(strength('solarize', level)))


def _solarize_add(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  added = int(strength('solarize_add', level))
  return image.point([min(v + added, 255) if v < 128 else v for v in range(256)] * 3)


def _cutout(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
  half = int(strength('cutout', level))
  pixels = np.array(image)
  y, x = rng.integers(0, pixels.shape[0]), rng.integers(0, pixels.shape[1])
  pixels[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = FILL
  return Image.fromarray(pixels)


OPERATIONS: dict[str, Operation] = {
  'autocontrast': lambda image, level, rng: ImageOps.autocontrast(image),
  'equalize': lambda image, level, rng: ImageOps.equalize(image),
  'invert': lambda image, level, rng: ImageOps.invert(image),
  'rotate': _rotate,
  'posterize': _posterize,
  'solarize': _solarize,
  'solarize_add': _solarize_add,
  'color': _enhance('color', ImageEnhance.Color),
  'contrast': _enhance('contrast', ImageEnhance.Contrast),
  'brightness': _enhance('brightness', ImageEnhance.Brightness),
  'sharpness': _enhance('sharpness', ImageEnhance.Sharpness),
  'cutout': _cutout,
  'shear_x': _shear_x,
  'shear_y': _shear_y,
  'shift_x': _shift_x,
  'shift_y': _shift_y,
}


def randaugment(image: np.ndarray, rng: np.random.Generator, *, layers: int, magnitude: float) -> np.ndarray:
  """Returns an image after `layers` operations drawn from the sixteen, with replacement.

  Args:
    image: uint8 [h, w, 3].
    rng: generator of this example.
    layers: operations one after the other.
    magnitude: level of each, 10 being the scale of its constants. At 0 colour, contrast, brightness and sharpness keep
      a tenth, and posterize makes black: low magnitudes are not weak ones for every operation.

  Source: arXiv 1909.13719, with the sixteen operations and constants of AugReg's code (2106.10270).
  Differs from source: contrast and solarize as Pillow defines them; that code's contrast took the mean of a
    histogram over H*W/256, and its solarize overflowed.
  """
  picture = Image.fromarray(image)
  for _ in range(layers):
    name = RANDAUGMENT_OPERATIONS[int(rng.integers(len(RANDAUGMENT_OPERATIONS)))]
    picture = OPERATIONS[name](picture, magnitude, rng)
  return np.array(picture)


def three_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns an image made grey, solarized or blurred (each with probability 1/3), then colour-jittered.

  Args:
    image: uint8 [h, w, 3].
    rng: generator of this example.

  Source: DeiT-III (arXiv 2204.07118) section 3, "3-Augment"; blur radius uniform in [0.1, 2], solarize at 128.
  """
  picture = Image.fromarray(image)
  choice = int(rng.integers(3))
  if choice == 0:
    picture = ImageOps.grayscale(picture).convert('RGB')
  elif choice == 1:
    picture = ImageOps.solarize(picture, SOLARIZE_AT)
  else:
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADII)))
  return color_jitter(np.array(picture), rng, strength=JITTER)


def color_jitter(image: np.ndarray, rng: np.random.Generator, *, strength: float) -> np.ndarray:
  """Returns an image with brightness, contrast and saturation scaled, each by uniform [1 - strength, 1 + strength].

  The three come in random order, as in torchvision's ColorJitter without hue.

  Args:
    image: uint8 [h, w, 3].
    rng: generator of this example.
    strength: in (0, 1].
  """
  picture = Image.fromarray(image)
  kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
  for i in rng.permutation(3):
    picture = kinds[i](picture).enhance(rng.uniform(1 - strength, 1 + strength))
  return np.array(picture)


def random_erasing(image: np.ndarray, rng: np.random.Generator, *, rate: float) -> np.ndarray:
  """Returns an image in which, with probability `rate`, a box is filled with noise, uniform per pixel and channel.

  The box takes a share of the area uniform in [0.02, 1/3] and has an aspect log-uniform in [0.3, 1/0.3]; after ten
  boxes that do not fit, the image stays whole.

  Args:
    image: uint8 [h, w, 3]; not changed.
    rng: generator of this example.
    rate: probability.

  Source: arXiv 1708.04896.
  Differs from source: its aspect is uniform on each side of 1; here log-uniform, as in timm.
  """
  if rng.random() >= rate:
    return image
  h, w = image.shape[:2]
  for _ in range(ERASING_TRIES):
    area, aspect = rng.uniform(*ERASED_AREA) * h * w, np.exp(rng.uniform(*np.log(ERASED_ASPECT)))
    height, width = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
    if 0 < height < h and 0 < width < w:
      top, left = rng.integers(0, h - height + 1), rng.integers(0, w - width + 1)
      image = image.copy()
      image[top : top + height, left : left + width] = rng.integers(0, 256, (height, width, 3), np.uint8)
      return image
  return image
