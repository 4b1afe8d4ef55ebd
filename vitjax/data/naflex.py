"""Images cut into patches at their own aspect ratio (NaFlex), on the host: uint8 in, uint8 patches out."""

from __future__ import annotations

import dataclasses

import numpy as np

from vitjax.config.naflex import NUM_PLACE_BYTES, NativePatches
from vitjax.config.schema import DataConfig
from vitjax.data.transforms import Augment, resize
from vitjax.errors import ConfigError, Problem


def cut(pixels: np.ndarray, native: NativePatches, *, out: np.ndarray | None = None) -> np.ndarray:
  """Returns the patches of an image, row by row, each with its place behind its pixels; then padding, zeros.

  Args:
    pixels: uint8 [rows * p, columns * p, 3], as `native.resized` says.
    native: patch size p and the number of patches l.
    out: contiguous uint8 [l, p * p * 3 + 4] to write to and return.
  """
  out = np.empty(native.shape, np.uint8) if out is None else out
  p = native.patch_size
  rows, columns = pixels.shape[0] // p, pixels.shape[1] // p
  filled = rows * columns
  patches = pixels.reshape(rows, p, columns, p, 3).swapaxes(1, 2)
  out[:filled, :-NUM_PLACE_BYTES] = patches.reshape(filled, -1)
  out[:filled, -4], out[:filled, -3] = np.divmod(np.arange(filled), columns)
  out[:filled, -2], out[:filled, -1] = rows, columns
  out[filled:] = 0
  return out


def resize_and_cut(image: np.ndarray, native: NativePatches, method: str) -> np.ndarray:
  """Returns a whole image, uint8 [h, w, 3], as patches; see `cut`. `method` as of `transforms.resize`."""
  return cut(resize(image, native.resized(image.shape[0], image.shape[1]), method), native)


class _Crop(Augment):
  """Augment whose boxes vary around the image's own aspect ratio: crop_ratio is relative to it."""

  def _ratio(self, size: tuple[int, int]) -> tuple[float, float]:
    own = size[1] / size[0]
    return self.crop_ratio[0] * own, self.crop_ratio[1] * own


@dataclasses.dataclass(frozen=True)
class NativeAugment:
  """The training transform of one image that keeps its aspect ratio: that of its crop, where there is one.

  Attributes:
    augment: everything but the size, which follows from each image.
    native: how many patches of which size.

  Source: NaViT (arXiv 2307.06304); timm's NaFlex transforms, which draw a crop's ratio around the image's own, too.
  """

  augment: Augment
  native: NativePatches

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape of the result."""
    return self.native.shape

  def __call__(
    self, image: np.ndarray | bytes, rng: np.random.Generator, *, out: np.ndarray | None = None
  ) -> np.ndarray:
    """Returns the augmented image as patches, uint8 [l, p * p * 3 + 4], see `cut`; the rest as of `Augment`."""
    crop = self.augment.crop_of(image, rng)
    rest = 'shift' if self.augment.crop == 'shift' else 'resize'
    sized = dataclasses.replace(
      self.augment, image_size=self.native.resized(crop.shape[0], crop.shape[1]), crop=rest
    )
    return cut(sized(crop, rng), self.native, out=out)


def training_transform(config: DataConfig, native: NativePatches | None) -> Augment | NativeAugment:
  """Returns the training transform that a recipe's data section describes.

  Args:
    config: the section.
    native: max_tokens with the model's patch size; None without max_tokens.

  Raises:
    ConfigError: there is a max_tokens, and the caller knows images of one size alone.
  """
  check_native(config, native)
  return Augment.from_config(config) if native is None else NativeAugment(_Crop.from_config(config), native)


def check_native(config: DataConfig, native: NativePatches | None) -> None:
  """Raises ConfigError for a max_tokens that the caller would ignore."""
  if config.max_tokens is not None and native is None:
    problem = Problem(
      'data.max_tokens', str(config.max_tokens), 'None: this shows or times images of one size alone',
      'Add --config.data.max_tokens=None',
    )  # fmt: skip
    raise ConfigError('images at their own aspect ratio do not fit here', [problem])
