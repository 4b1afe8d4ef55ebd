"""The deterministic preparation of one image, the same code in evaluation and prediction."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

from vitjax.config.naflex import NativePatches
from vitjax.config.schema import INTERPOLATIONS, DataConfig
from vitjax.data.decode import MAX_PIXELS, UnreadableError, decode_image, to_rgb
from vitjax.data.naflex import resize_and_cut
from vitjax.data.transforms import resize
from vitjax.errors import ConfigError, DataError, Problem

# Before a resize of the short side, the long side is cut to this many times the short one: the crop takes the
# middle anyway, and a 1 x 100,000 image would otherwise be blown up to gigabytes.
_MAX_ELONGATION = 8


@dataclasses.dataclass(frozen=True)
class Preprocess:
  """Any image to the uint8 array that a model was evaluated with; travels with the weights as JSON.

  Attributes:
    image_size: output height and width, pixels.
    mean: per channel, in [0, 1] pixel units; what the device subtracts (vitjax.ops.normalize).
    std: per channel, what the device divides by.
    interpolation: method of `vitjax.data.transforms.resize`.
    resize_short: the short side is resized to this many pixels, the long one in proportion (rounded down, as in
      torchvision), and the centre taken; None: plain resize.
    native: each image keeps its aspect ratio and becomes patches, uint8 [l, p * p * 3 + 4]; image_size is then the
      size that the model's positions are stored for. None: all images become image_size.
  """

  image_size: tuple[int, int]
  mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
  std: tuple[float, float, float] = (0.5, 0.5, 0.5)
  interpolation: str = 'bilinear'
  resize_short: int | None = None
  native: NativePatches | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape of the result."""
    return (*self.image_size, 3) if self.native is None else self.native.shape

  def __post_init__(self) -> None:
    problems = []
    if min(self.image_size) < 1:
      problems.append(Problem('image_size', str(self.image_size), 'at least 1 pixel'))
    elif self.resize_short is not None and self.resize_short < max(self.image_size):
      expected = f'at least the larger side of image_size {self.image_size}, which is cut out of it'
      problems.append(Problem('resize_short', str(self.resize_short), expected))
    if self.interpolation not in INTERPOLATIONS:
      problems.append(
        Problem('interpolation', repr(self.interpolation), f'one of {", ".join(INTERPOLATIONS)}')
      )
    if min(self.std) <= 0:
      problems.append(Problem('std', str(self.std), 'positive numbers'))
    if problems:
      raise ConfigError('the preprocessing is not consistent', problems)

  def resized(self, image_size: tuple[int, int]) -> Preprocess:
    """Returns the same preparation for another image size; resize_short keeps its ratio to the larger side."""
    if image_size == self.image_size:
      return self
    assert self.native is None, 'images at their own aspect ratio have no size to change'
    short = self.resize_short
    if short is not None:
      short = max(round(short * max(image_size) / max(self.image_size)), max(image_size))
    return dataclasses.replace(self, image_size=image_size, resize_short=short)

  def at_one_size(self) -> Preprocess:
    """Returns the same preparation with every image squashed to image_size."""
    return dataclasses.replace(self, native=None)

  @classmethod
  def from_config(
    cls, config: DataConfig, *, resize_short: int | None = None, native: NativePatches | None = None
  ) -> Preprocess:
    """Returns the preprocessing of a recipe's data section (and of an EvalConfig's resize_short)."""
    return cls(config.image_size, config.mean, config.std, config.interpolation, resize_short, native)

  def to_json(self) -> str:
    """Returns all fields as a JSON object; without `native` where it is None, as earlier versions wrote it."""
    values = dataclasses.asdict(self)
    if self.native is None:
      del values['native']
    return json.dumps(values)

  @classmethod
  def from_json(cls, text: str) -> Preprocess:
    """Returns the Preprocess that `to_json` wrote.

    Raises:
      ConfigError: `text` is not such an object.
    """
    try:
      values = {'native': None} | json.loads(text)
      if values['native'] is not None:
        values['native'] = NativePatches(**values['native'])
      names = {field.name for field in dataclasses.fields(cls)}
      if set(values) != names:
        raise ValueError(f'keys {sorted(values)} instead of {sorted(names)}')
      tuples = {name: tuple(values.pop(name)) for name in ('image_size', 'mean', 'std')}
      return cls(**tuples, **values)
    except (ValueError, TypeError) as error:
      if isinstance(error, ConfigError):
        raise
      raise ConfigError(
        'the preprocessing cannot be read', [Problem('preprocess', text[:200], str(error))]
      ) from error

  def __call__(self, image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> np.ndarray:
    """Returns the image as the model expects it before normalisation: uint8 `shape`, RGB.

    Args:
      image: a path, an encoded file's bytes, a PIL image, or a uint8 array [h, w], [h, w, 1], [h, w, 3] or
        [h, w, 4] (alpha is composited on white).

    Raises:
      UnreadableError: the file is missing or damaged.
      DataError: the array has another dtype or shape.
    """
    pixels = to_pixels(image)
    if self.native is not None:
      return resize_and_cut(pixels, self.native, self.interpolation)
    if self.resize_short is None:
      return np.ascontiguousarray(resize(pixels, self.image_size, self.interpolation))
    pixels = _centre(
      pixels, tuple(min(side, _MAX_ELONGATION * min(pixels.shape[:2])) for side in pixels.shape[:2])
    )
    short = min(pixels.shape[:2])
    height, width = (side * self.resize_short // short for side in pixels.shape[:2])
    return np.ascontiguousarray(_centre(resize(pixels, (height, width), self.interpolation), self.image_size))


def to_pixels(image: str | os.PathLike[str] | bytes | Image.Image | np.ndarray) -> np.ndarray:
  """Returns any accepted form of an image as uint8 [h, w, 3], RGB, upright; raises like `Preprocess`."""
  if isinstance(image, str | os.PathLike):
    try:
      return decode_image(pathlib.Path(image).read_bytes(), name=str(image))
    except OSError as error:
      raise UnreadableError(str(image), error.strerror or str(error)) from error
  if isinstance(image, bytes):
    return decode_image(image)
  if isinstance(image, Image.Image):
    if image.width * image.height > MAX_PIXELS:
      raise UnreadableError('PIL image', f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
    try:
      return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Lazily opened images decode here, with any error type.
      raise UnreadableError('PIL image', f'{type(error).__name__}: {error}') from error
  if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
    if image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 1):
      return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=-1)
    if image.ndim == 3 and image.shape[-1] == 3:
      return image
    if image.ndim == 3 and image.shape[-1] == 4:
      return to_rgb(Image.fromarray(image))
  found = f'{image.dtype} {list(image.shape)}' if isinstance(image, np.ndarray) else type(image).__name__
  expected = 'a path, bytes, a PIL image, or a uint8 array [h, w, 3] with values 0..255'
  raise DataError(
    'not an image',
    [Problem('image', found, expected, 'For floats in [0, 1]: (x * 255).round().astype(np.uint8)')],
  )


def _centre(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
  """Returns the middle of [h, w, 3]; half a pixel goes to the even side, as in torchvision."""
  top, left = round((pixels.shape[0] - size[0]) / 2), round((pixels.shape[1] - size[1]) / 2)
  return pixels[top : top + size[0], left : left + size[1]]
