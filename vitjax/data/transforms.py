"""Training augmentation on the host: crop, resize, flip. uint8 in, uint8 out; the generator is given."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
from PIL import Image

from vitjax.config.schema import DataConfig
from vitjax.data.decode import decode_box, decode_image, jpeg_size
from vitjax.data.randaugment import color_jitter, randaugment, random_erasing, three_augment

# The pipeline runs many images at once; OpenCV's own threads would only compete with its threads.
cv2.setNumThreads(1)

CROP_ATTEMPTS = 100
_RESIZED_CROP_ATTEMPTS = 10
_CV2_METHOD = {'nearest': cv2.INTER_NEAREST_EXACT, 'bilinear': cv2.INTER_LINEAR, 'bicubic': cv2.INTER_CUBIC}
_PIL_METHOD = {
  'bilinear_antialias': Image.Resampling.BILINEAR,
  'bicubic_antialias': Image.Resampling.BICUBIC,
}


def example_rng(seed: int, position: int) -> np.random.Generator:
  """Returns the generator of one example, a function of the run's seed and its place in the stream alone.

  Whichever host, worker or thread makes the example, it draws the same numbers.

  Args:
    seed: the run's seed, in [0, 2**64).
    position: global example index counted from step 0, over all hosts and epochs.
  """
  return np.random.Generator(np.random.Philox(key=np.array([seed, position], np.uint64)))


def resize(
  image: np.ndarray, size: tuple[int, int], method: str, *, out: np.ndarray | None = None
) -> np.ndarray:
  """Returns uint8 [h, w, 3] resized to `size` (height, width), with half-pixel centres.

  'bilinear' and 'bicubic' do not antialias (as TF's resize by default): shrinking by much aliases. 'area'
  averages over source pixels, so it antialiases, and is the better choice for shrinking; where an axis grows,
  it means 'bilinear'. 'bilinear_antialias' and 'bicubic_antialias' are Pillow's filters, wider the more an
  image shrinks: what timm, transformers and torchvision evaluate with.

  Args:
    image: uint8 [h, w, 3].
    method: one of config.schema.INTERPOLATIONS.
    out: contiguous uint8 [*size, 3] that the result may be written to, which saves an allocation. Look at what is
      returned: an image of that size comes back as it is.
  """
  height, width = size
  if image.shape[:2] == (height, width):
    return image
  if method in _PIL_METHOD:
    return np.asarray(Image.fromarray(image).resize((width, height), _PIL_METHOD[method]))
  if method == 'area':
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    filtered = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  else:
    filtered = _CV2_METHOD[method]
  return cv2.resize(image, (width, height), dst=out, interpolation=filtered)


def sample_crop(
  rng: np.random.Generator, size: tuple[int, int], *, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
  """Returns a random box (top, left, height, width) as TensorFlow draws it; the whole image after 100 failed tries.

  Per try: ratio ~ uniform(ratio), linear; the height is uniform over the whole numbers whose box has an area
  within the range and fits into the image; width = round(height * ratio); the place is uniform over all that
  fit.

  Args:
    size: height and width of the image, pixels.
    area: smallest and largest share of the image.
    ratio: smallest and largest width / height, in pixels.

  Source: "Inception crop", tf.image.sample_distorted_bounding_box with the whole image as its only box.
  Differs from source: boxes may touch the bottom and right edge (TensorFlow leaves one pixel). `sample_resized_crop`
    is another distribution.
  """
  height, width = size
  least, most = area[0] * height * width, area[1] * height * width
  for _ in range(CROP_ATTEMPTS):
    aspect = rng.uniform(ratio[0], ratio[1])
    tallest = min(_nearest(math.sqrt(most / aspect)), height)
    if _nearest(tallest * aspect) > width:
      tallest = int((width + 0.5 - 1e-7) / aspect)
    lowest = min(_nearest(math.sqrt(least / aspect)), tallest)
    box_height = int(rng.integers(lowest, tallest + 1))
    box_width = _nearest(box_height * aspect)
    # Rounding may leave the range by a row.
    if box_height * box_width < least:
      box_height += 1
      box_width = _nearest(box_height * aspect)
    if box_height * box_width > most:
      box_height -= 1
      box_width = _nearest(box_height * aspect)
    fits = 0 < box_height <= height and 0 < box_width <= width
    if fits and least <= box_height * box_width <= most:
      top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
      return int(top), int(left), box_height, box_width
  return 0, 0, height, width


def sample_resized_crop(
  rng: np.random.Generator, size: tuple[int, int], *, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
  """Returns a random box (top, left, height, width) as torchvision's RandomResizedCrop draws it.

  Per try: the area is uniform, the ratio log-uniform, both sides are rounded, and the place is uniform over all that
  fit; after ten tries the largest box in the middle whose ratio lies within the range.

  Args:
    size: height and width of the image, pixels.
    area: smallest and largest share of the image.
    ratio: smallest and largest width / height, in pixels.

  Source: torchvision.transforms.RandomResizedCrop; timm and DeiT train with it.
  """
  height, width = size
  for _ in range(_RESIZED_CROP_ATTEMPTS):
    target = rng.uniform(*area) * height * width
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    box_width, box_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
    if 0 < box_width <= width and 0 < box_height <= height:
      top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
      return int(top), int(left), box_height, box_width
  box_width = min(width, round(height * ratio[1]))
  box_height = min(height, round(width / ratio[0]))
  return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


# crop -> how its box is drawn.
BOXES = {'inception': sample_crop, 'random_resized': sample_resized_crop}


def _nearest(value: float) -> int:
  return math.floor(value + 0.5)


def shift_image(image: np.ndarray, down: int, right: int) -> np.ndarray:
  """Returns uint8 [h, w, 3] moved by whole pixels (negative: up, left); black comes in from outside."""
  height, width = image.shape[:2]
  down, right = max(-height, min(down, height)), max(-width, min(right, width))
  moved = np.zeros_like(image)
  moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = image[
    max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
  ]
  return moved


@dataclasses.dataclass(frozen=True)
class Augment:
  """The training transform of one image; see DataConfig for the knobs.

  Attributes:
    image_size: output height and width, pixels.
    crop: 'inception' or 'random_resized' (random box, then resize), 'random' (resize to precrop_size, then a box),
      'shift' (resize, then a zero-filled random shift), or 'resize'.
    crop_area: area range of the first two, share of the image.
    crop_ratio: aspect range of the first two, width / height.
    shift: largest shift of 'shift' along each axis, pixels.
    precrop_size: side to which 'random' resizes, pixels; at least image_size.
    flip: mirror left-right with probability 1/2.
    interpolation: method of `resize`.
    three_augment, randaugment_layers, randaugment_magnitude, color_jitter, erasing_rate: see data/randaugment.py; they
      follow the flip in this order.
    augment_on: with 'device' these are left to ops/augment.py.
  """

  image_size: tuple[int, int]
  crop: str
  crop_area: tuple[float, float]
  crop_ratio: tuple[float, float]
  shift: int
  flip: bool
  interpolation: str
  three_augment: bool = False
  randaugment_layers: int = 0
  randaugment_magnitude: float = 10.0
  color_jitter: float = 0.0
  erasing_rate: float = 0.0
  precrop_size: int | None = None
  augment_on: str = 'workers'

  @property
  def shape(self) -> tuple[int, ...]:
    """Returns the shape of the result."""
    return (*self.image_size, 3)

  @classmethod
  def from_config(cls, config: DataConfig) -> Augment:
    """Returns the transform that a recipe's data section describes, of images of one size."""
    return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

  def __call__(
    self, image: np.ndarray | bytes, rng: np.random.Generator, *, out: np.ndarray | None = None
  ) -> np.ndarray:
    """Returns the augmented image, uint8 [image_size, 3].

    Args:
      image: uint8 [h, w, 3] of any size, or an encoded file, of which only the crop is decoded where that is
        possible. The result is the same.
      rng: generator of this example (`example_rng`); crop numbers are drawn first, then the shift, then the flip.
      out: contiguous uint8 [image_size, 3] to write to and return.

    Raises:
      UnreadableError: the encoded image is damaged in a part that the crop needs.
    """
    out = np.empty((*self.image_size, 3), np.uint8) if out is None else out
    image = self.crop_of(image, rng)
    down, right = rng.integers(-self.shift, self.shift + 1, 2) if self.crop == 'shift' else (0, 0)
    flip = self.flip and rng.random() < 0.5
    image = resize(image, self.image_size, self.interpolation, out=None if flip else out)
    if down or right:
      image = shift_image(image, int(down), int(right))
    if flip:
      cv2.flip(image, 1, dst=out)
    elif image is not out:
      np.copyto(out, image)
    distorted = self._distorted(out, rng)
    if distorted is not out:
      np.copyto(out, distorted)
    return out

  def _distorted(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the image after the augmentations of data/randaugment.py; itself when all are off."""
    if self.augment_on == 'device':
      return image
    if self.three_augment:
      image = three_augment(image, rng)
    if self.randaugment_layers:
      image = randaugment(image, rng, layers=self.randaugment_layers, magnitude=self.randaugment_magnitude)
    if self.color_jitter:
      image = color_jitter(image, rng, strength=self.color_jitter)
    return random_erasing(image, rng, rate=self.erasing_rate) if self.erasing_rate else image

  def crop_of(self, image: np.ndarray | bytes, rng: np.random.Generator) -> np.ndarray:
    """Returns the part of the image that will be resized, uint8 [h, w, 3]: the first half of a call.

    An encoded JPEG is decoded there alone, where its size is known beforehand. The result may be overwritten by this
    thread's next call.
    """
    if isinstance(image, bytes):
      size = jpeg_size(image) if self.crop in BOXES else None
      if size is not None:
        return decode_box(image, self._box(rng, size))
      image = decode_image(image)
    if self.crop == 'random':
      assert self.precrop_size is not None, 'config/checks asks for it'
      image = resize(image, (self.precrop_size, self.precrop_size), self.interpolation)
      height, width = self.image_size
      top, left = (int(rng.integers(0, self.precrop_size - side + 1)) for side in self.image_size)
      return image[top : top + height, left : left + width]
    if self.crop not in BOXES:
      return image
    top, left, height, width = self._box(rng, (image.shape[0], image.shape[1]))
    return image[top : top + height, left : left + width]

  def _box(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int, int, int]:
    return BOXES[self.crop](rng, size, area=self.crop_area, ratio=self._ratio(size))

  def _ratio(self, size: tuple[int, int]) -> tuple[float, float]:
    """Returns the aspect range of boxes in an image of this size."""
    del size
    return self.crop_ratio
