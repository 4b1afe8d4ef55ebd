"""Augmentation of a uint8 batch on the device: what data/randaugment.py does on the host, image by image, under jit.

Each function draws from the same distribution as the one of the same name there, with other numbers, as the generators
are of another kind. Every image has a key of its own, so that neither the mesh nor the number of hosts changes a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.config.augmentation import (
  BLUR_RADII,
  ERASED_AREA,
  ERASED_ASPECT,
  ERASING_TRIES,
  FILL,
  JITTER,
  RANDAUGMENT_OPERATIONS,
  SIGNED_OPERATIONS,
  SOLARIZE_AT,
  strength,
)
from vitjax.config.schema import DataConfig

_ID = {name: number for number, name in enumerate(RANDAUGMENT_OPERATIONS)}
_FIXED = 16  # binary places of the coordinates, as in Pillow
_BLUR_PASSES, _BOX_RADIUS = 3, 2  # a box of 5 pixels holds what a standard deviation of 2 asks for


def _each(function: Callable[..., jax.Array], key: jax.Array, images: jax.Array) -> jax.Array:
  """Returns function(key of this image, image) over a batch."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
  return jax.vmap(function)(keys, images)


def randaugment(key: jax.Array, images: jax.Array, *, layers: int, magnitude: float) -> jax.Array:
  """Returns a batch whose every image went through `layers` operations of its own, of the sixteen. Traced.

  All sixteen are computed as four stages (a table per channel, a blend, a map of coordinates, a square), each of which
  leaves the image where the operation drawn is of another stage; so an image costs the same whatever it drew.

  Args:
    key: PRNG key.
    images: uint8 [n, h, w, 3].
    layers: operations one after the other, drawn with replacement.
    magnitude: level of each, see config/augmentation.py.

  Source: arXiv 1909.13719; pixel by pixel what Pillow makes of it (`operation`).
  """

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    for layer_key in jax.random.split(key, layers):
      which, sign, place = jax.random.split(layer_key, 3)
      number = jax.random.randint(which, (), 0, len(RANDAUGMENT_OPERATIONS))
      centre = jax.random.randint(place, (2,), 0, np.array(image.shape[:2]))
      image = operation(image, number, magnitude, negative=jax.random.bernoulli(sign), centre=centre)
    return image

  return _each(one, key, images)


def operation(
  image: jax.Array, number: jax.Array | int, level: float, *, negative: jax.Array | bool, centre: Any
) -> jax.Array:
  """Returns an image after one of RANDAUGMENT_OPERATIONS. Traced.

  Within one grey level of Pillow's: sums are float32 here. Coordinates are Pillow's fixed-point ones, exactly.

  Args:
    image: uint8 [h, w, 3].
    number: place in RANDAUGMENT_OPERATIONS.
    level: the level, known when traced.
    negative: whether rotation, shear and shift go the other way.
    centre: row and column in the middle of cutout's square.
  """
  pixels = image.astype(jnp.int32)
  pixels = _through_table(pixels, number, level)
  pixels = _blended(pixels, number, level)
  maps = jnp.asarray(_coordinate_maps(image.shape[:2], level))
  pixels = _moved(pixels, maps[number, jnp.asarray(negative, jnp.int32)])
  half = jnp.where(number == _ID['cutout'], int(strength('cutout', level)), 0)
  return _with_square(pixels, centre, half).astype(jnp.uint8)


def _through_table(pixels: jax.Array, number: jax.Array | int, level: float) -> jax.Array:
  """Returns the pixels of the operations that map each value of a channel to another; otherwise as they were."""
  values = jnp.arange(256)
  counts = jnp.zeros((3, 256), jnp.int32).at[jnp.arange(3), pixels.reshape(-1, 3)].add(1)
  low, high = pixels.min((0, 1)).reshape(3, 1), pixels.max((0, 1)).reshape(3, 1)
  stretched = jnp.clip((values.reshape(1, 256) - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
  # Equalisation leaves out the brightest value, so that it stays white.
  below = jnp.cumsum(counts, axis=1) - counts
  share = (below[:, -1:] + counts[:, -1:] - jnp.take_along_axis(counts, high, axis=1)) // 255
  equal = jnp.minimum((below + share // 2) // jnp.maximum(share, 1), 255)
  dropped = 8 - min(int(strength('posterize', level)), 8)
  threshold, added = int(strength('solarize', level)), int(strength('solarize_add', level))
  tables = {
    'autocontrast': jnp.where(high > low, stretched, values.reshape(1, 256)),
    'equalize': jnp.where(share > 0, equal, values.reshape(1, 256)),
    'invert': 255 - values,
    'posterize': (values >> dropped) << dropped,
    'solarize': jnp.where(values < threshold, values, 255 - values),
    'solarize_add': jnp.where(values < 128, jnp.minimum(values + added, 255), values),
  }
  table = jnp.broadcast_to(values.reshape(1, 256), (3, 256))
  for name, candidate in tables.items():
    table = jnp.where(number == _ID[name], candidate.reshape(-1, 256), table)
  return table[jnp.arange(3), pixels]


def _grey(pixels: jax.Array) -> jax.Array:
  """Returns int32 [h, w, 1]: luma by ITU-R 601-2, rounded, as in Pillow."""
  weights = jnp.array([19595, 38470, 7471])  # in 1 / 65536
  return ((pixels * weights.reshape(1, 1, 3)).sum(-1, keepdims=True) + 0x8000) >> 16


def _smooth(pixels: jax.Array) -> jax.Array:
  """Returns the 3 x 3 mean in which the middle counts five times; the outermost pixels stay."""
  h, w = pixels.shape[:2]
  if h < 3 or w < 3:
    return pixels
  total = sum(pixels[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3))
  inner = (2 * (total + 4 * pixels[1:-1, 1:-1]) + 13) // 26
  return pixels.at[1:-1, 1:-1].set(inner)


def _mix(base: jax.Array, pixels: jax.Array, factor: jax.Array | float) -> jax.Array:
  """Returns base + factor * (pixels - base), cut to whole numbers in 0..255."""
  mixed = base + factor * (pixels - base).astype(jnp.float32)
  return jnp.clip(mixed, 0, 255).astype(jnp.int32)


def _mean_grey(pixels: jax.Array) -> jax.Array:
  """Returns int32 [1, 1, 1]: the mean luma, rounded to a grey."""
  mean = _grey(pixels).astype(jnp.float32).mean() + 0.5
  return mean.astype(jnp.int32).reshape(1, 1, 1)


def _blended(pixels: jax.Array, number: jax.Array | int, level: float) -> jax.Array:
  """Returns the pixels of the four operations that move an image from or to its plain form."""
  base = jnp.where(number == _ID['sharpness'], _smooth(pixels), pixels)
  base = jnp.where(number == _ID['color'], _grey(pixels), base)
  base = jnp.where(number == _ID['contrast'], _mean_grey(pixels), base)
  base = jnp.where(number == _ID['brightness'], 0, base)
  return _mix(base, pixels, strength('brightness', level))  # one formula for all four


def _coordinate_maps(size: tuple[int, ...], level: float) -> np.ndarray:
  """Returns int32 [operations, 2, 2, 3]: where an output pixel is taken from, for both signs, in fixed-point numbers.

  Rows are x and y; columns: per column, per row, and the middle of the first pixel.
  """
  height, width = size
  maps = np.zeros((len(RANDAUGMENT_OPERATIONS), 2, 2, 3))
  maps[:, :, 0, 0] = maps[:, :, 1, 1] = 1
  for name in SIGNED_OPERATIONS:
    for side, value in enumerate((strength(name, level), -strength(name, level))):
      here = maps[_ID[name], side]
      if name == 'rotate':
        # As Pillow has it: degrees against the clock, about the middle, the sines to 15 places.
        angle = -math.radians(value % 360)
        cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
        x, y = width / 2, height / 2
        here[:] = [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]]
      else:
        axis = 'xy'.index(name[-1])
        here[axis, 1 - axis if name.startswith('shear') else 2] = value
  maps[..., 2] += maps[..., :2].sum(-1) / 2
  return np.floor(maps * 2**_FIXED + 0.5).astype(np.int32)


def _moved(pixels: jax.Array, coordinates: jax.Array) -> jax.Array:
  """Returns the nearest pixels at affine coordinates, int32 [2, 3] as from `_coordinate_maps`; grey from outside."""
  h, w = pixels.shape[:2]
  rows, columns = jnp.arange(h).reshape(h, 1), jnp.arange(w).reshape(1, w)
  x, y = ((c[0] * columns + c[1] * rows + c[2]) >> _FIXED for c in coordinates)
  inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
  taken = pixels[jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)]
  return jnp.where(inside[..., None], taken, FILL)


def _with_square(pixels: jax.Array, centre: Any, half: jax.Array | int) -> jax.Array:
  h, w = pixels.shape[:2]
  rows, columns = jnp.arange(h).reshape(h, 1, 1) - centre[0], jnp.arange(w).reshape(1, w, 1) - centre[1]
  inside = (rows >= -half) & (rows < half) & (columns >= -half) & (columns < half)
  return jnp.where(inside, FILL, pixels)


def three_augment(key: jax.Array, images: jax.Array) -> jax.Array:
  """Returns a batch whose images are made grey, solarized or blurred (each with probability 1/3), then jittered.

  Traced; uint8 [n, h, w, 3]. Source: DeiT-III (arXiv 2204.07118), "3-Augment".
  """

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    which, radius = jax.random.split(key)
    number = jax.random.randint(which, (), 0, 3)
    pixels = image.astype(jnp.int32)
    blurred = _blur(pixels, jax.random.uniform(radius, minval=BLUR_RADII[0], maxval=BLUR_RADII[1]))
    solarized = jnp.where(pixels < SOLARIZE_AT, pixels, 255 - pixels)
    chosen = jnp.where(number == 0, _grey(pixels), jnp.where(number == 1, solarized, blurred))
    return chosen.astype(jnp.uint8)

  first, second = jax.random.split(key)
  return color_jitter(second, _each(one, first, images), strength=JITTER)


def _blur(pixels: jax.Array, deviation: jax.Array) -> jax.Array:
  """Returns int32 [h, w, 3] after a Gaussian of this standard deviation in pixels, at most 2; edges repeat.

  Three passes of a box whose outermost weights are fractions, so that the variance is right: as in Pillow.

  Source: Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering".
  """
  variance = deviation**2 / _BLUR_PASSES
  whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
  part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
  radius = whole + part
  offsets = np.arange(-_BOX_RADIUS, _BOX_RADIUS + 1)
  weights = jnp.clip(radius + 1 - np.abs(offsets), 0, 1) / (2 * radius + 1)
  blurred = pixels.astype(jnp.float32)
  for axis in (0, 1) * _BLUR_PASSES:
    padding = [(_BOX_RADIUS, _BOX_RADIUS) if a == axis else (0, 0) for a in range(3)]
    padded = jnp.pad(blurred, padding, mode='edge')
    parts = (jax.lax.slice_in_dim(padded, i, i + pixels.shape[axis], axis=axis) for i in range(len(offsets)))
    blurred = sum(weight * part for weight, part in zip(weights, parts, strict=True))
  return jnp.round(blurred).astype(jnp.int32)


def color_jitter(key: jax.Array, images: jax.Array, *, strength: float) -> jax.Array:
  """Returns a batch with brightness, contrast and saturation scaled in random order. Traced; uint8 [n, h, w, 3].

  Args:
    key: PRNG key.
    images: the batch.
    strength: in (0, 1]; the factors are uniform in [1 - strength, 1 + strength].
  """
  bases = (lambda x: jnp.zeros_like(x), lambda x: jnp.broadcast_to(_mean_grey(x), x.shape),
           lambda x: jnp.broadcast_to(_grey(x), x.shape))  # fmt: skip

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    order, factor = jax.random.split(key)
    factors = jax.random.uniform(factor, (3,), minval=1 - strength, maxval=1 + strength)
    pixels = image.astype(jnp.int32)
    for i, number in enumerate(jax.random.permutation(order, 3)):
      base = jnp.select([number == kind for kind in range(3)], [base(pixels) for base in bases])
      pixels = _mix(base, pixels, factors[i])
    return pixels.astype(jnp.uint8)

  return _each(one, key, images)


def random_erasing(key: jax.Array, images: jax.Array, *, rate: float) -> jax.Array:
  """Returns a batch in which, with probability `rate`, a box of an image is noise. Traced; uint8 [n, h, w, 3].

  Area, aspect and tries as in data.randaugment.random_erasing. Source: arXiv 1708.04896.
  """
  h, w = images.shape[1:3]

  def one(key: jax.Array, image: jax.Array) -> jax.Array:
    chance, area, aspect, place, noise = jax.random.split(key, 5)
    tries, (shortest, tallest) = (ERASING_TRIES,), map(math.log, ERASED_ASPECT)
    areas = jax.random.uniform(area, tries, minval=ERASED_AREA[0], maxval=ERASED_AREA[1]) * h * w
    aspects = jnp.exp(jax.random.uniform(aspect, tries, minval=shortest, maxval=tallest))
    heights, widths = jnp.round(jnp.sqrt(areas * aspects)), jnp.round(jnp.sqrt(areas / aspects))
    fits = (heights > 0) & (heights < h) & (widths > 0) & (widths < w)
    first = jnp.argmax(fits)
    height, width = heights[first].astype(jnp.int32), widths[first].astype(jnp.int32)
    top, left = jax.random.randint(place, (2,), 0, jnp.stack([h - height + 1, w - width + 1]))
    rows, columns = jnp.arange(h).reshape(h, 1, 1), jnp.arange(w).reshape(1, w, 1)
    inside = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    erased = fits.any() & jax.random.bernoulli(chance, rate)
    return jnp.where(inside & erased, jax.random.bits(noise, image.shape, jnp.uint8), image)

  return _each(one, key, images)


def augmented(key: jax.Array, images: jax.Array, config: DataConfig) -> jax.Array:
  """Returns a batch after what a recipe's data section leaves to the device (augment_on); itself when that is nothing.

  Traced. In the order of data.transforms.Augment.

  Args:
    key: PRNG key.
    images: uint8 [n, h, w, 3], cropped and mirrored.
    config: the data section.
  """
  if config.augment_on != 'device':
    return images
  keys = jax.random.split(key, 4)
  if config.three_augment:
    images = three_augment(keys[0], images)
  if config.randaugment_layers:
    images = randaugment(
      keys[1], images, layers=config.randaugment_layers, magnitude=config.randaugment_magnitude
    )
  if config.color_jitter:
    images = color_jitter(keys[2], images, strength=config.color_jitter)
  return random_erasing(keys[3], images, rate=config.erasing_rate) if config.erasing_rate else images
