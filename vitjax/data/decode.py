"""Encoded image files to uint8 RGB: bounded memory, a rule per colour mode, errors that name the file."""

from __future__ import annotations

import io
import threading

import numpy as np
import simplejpeg
from PIL import Image

from vitjax.errors import DataError, Problem

try:
  from vitjax.data import _jpeg_region as jpeg_region
except ImportError:  # vitjax was installed without a C compiler, or is used from a source tree
  jpeg_region = None

# An image may have this many pixels (3 bytes each once decoded); the header is read before anything is
# decoded.
MAX_PIXELS = 178_000_000

# Formats that are read. EPS, PDF and the like are left out on purpose: they start other programs or render at
# any size.
FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG2000')

_ORIENTATION_TAG = 0x0112
_NEXT_STEP = 'Replace or remove it; max_corrupt of a training source tolerates some'


class UnreadableError(DataError):
  """A record whose image cannot be read; max_corrupt of its source says how many of them are tolerated.

  Args:
    name: the file, or the record's name such as 'mnist5k[17]'.
    reason: what is wrong with it, in a few words.
  """

  def __init__(self, name: str, reason: str):
    super().__init__('an image cannot be read', [Problem(name, reason, 'a readable image', _NEXT_STEP)])
    self.name = name
    self.reason = reason

  def __reduce__(self):
    return type(self), (self.name, self.reason)


def decode_image(data: bytes, *, name: str = 'image') -> np.ndarray:
  """Returns the pixels of an encoded image as uint8 [h, w, 3], RGB, upright.

  The EXIF orientation is applied. Transparent pixels are composited on white. 16-bit channels keep their high
  byte. CMYK, palette, grey and 1-bit images become RGB. Of an animation the first frame is taken.

  Args:
    data: the bytes of a JPEG, PNG, WebP, BMP, GIF, TIFF, PPM or JPEG 2000 file; the file's name does not
      matter.
    name: what error messages call it.

  Raises:
    UnreadableError: the bytes are damaged, truncated, not an image, or more than MAX_PIXELS pixels.
  """
  if not data:
    raise UnreadableError(name, '0 bytes')
  try:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
      num_pixels = image.width * image.height
      if num_pixels > MAX_PIXELS:
        raise UnreadableError(name, f'{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}')
      pixels = _jpeg_pixels(data) if image.format in ('JPEG', 'MPO') and image.mode in ('RGB', 'L') else None
      if pixels is None:
        pixels = to_rgb(image)
      return _upright(pixels, _orientation(image))
  except UnreadableError:
    raise
  except Image.UnidentifiedImageError:
    raise UnreadableError(name, f'{len(data)} bytes that are no image ({", ".join(FORMATS)})') from None
  except (
    Exception
  ) as error:  # Decoders raise almost any type on damaged bytes; each of them means: unreadable.
    raise UnreadableError(name, f'{type(error).__name__}: {error}') from error


def jpeg_size(data: bytes) -> tuple[int, int] | None:
  """Returns (height, width) of a JPEG that `decode_box` need not decode as a whole, None for any other file.

  Those are upright baseline JPEGs, which is most of them, where vitjax's compiled part is installed.
  """
  found = None if jpeg_region is None else jpeg_region.size(data)
  if found is None:
    return None
  height, width, has_exif = found
  if height * width > MAX_PIXELS or (has_exif and _orientation_of(data) != 1):
    return None
  return height, width


def decode_box(data: bytes, box: tuple[int, int, int, int]) -> np.ndarray:
  """Returns a rectangle of an encoded image, uint8 [height, width, 3]: the same pixels as in `decode_image`.

  Unlike there, damage below the rectangle may go unnoticed, except for a file that was cut off.

  Args:
    data: a file for which `jpeg_size` gives a size.
    box: (top, left, height, width) in pixels, within that size.

  Returns:
    An array that this thread's next call overwrites.

  Raises:
    UnreadableError: as in `decode_image`.
  """
  top, left, height, width = box
  num_bytes = height * width * 3
  if jpeg_region is not None:
    scratch = _scratch_of_thread(num_bytes)
    if jpeg_region.read(data, box, scratch):
      return scratch[:num_bytes].reshape(height, width, 3)
  return decode_image(data)[top : top + height, left : left + width]


_per_thread = threading.local()
# A giant among the images should not occupy memory for good.
_KEPT_BYTES = 1 << 24


def _scratch_of_thread(num_bytes: int) -> np.ndarray:
  """Returns uint8 [at least num_bytes], which this thread keeps: fresh memory for each image costs page faults."""
  if num_bytes > _KEPT_BYTES:
    return np.empty(num_bytes, np.uint8)
  if not hasattr(_per_thread, 'scratch') or len(_per_thread.scratch) < num_bytes:
    _per_thread.scratch = np.empty(num_bytes, np.uint8)
  return _per_thread.scratch


def to_rgb(image: Image.Image) -> np.ndarray:
  """Returns a PIL image as uint8 [h, w, 3], by the rules of `decode_image`, without the EXIF orientation.

  Raises:
    ValueError: the mode holds no displayable range (32-bit integers or floats).
  """
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format == 'PNG'):
    # PIL's own conversion clips at 255, which turns most 16-bit images white.
    grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
  if image.mode in ('I', 'F'):
    raise ValueError(f'pixels of mode {image.mode} have no agreed range; save the image with 8 or 16 bits')
  if image.has_transparency_data:
    colours = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', colours.size, (255, 255, 255, 255)), colours)
  return np.array(image.convert('RGB'))


def _jpeg_pixels(data: bytes) -> np.ndarray | None:
  """Returns the pixels of a JPEG by libjpeg-turbo, or None when it finds anything odd: PIL then decides.

  Same library and settings as PIL's decoder, hence the same pixels, in two thirds of the time.
  """
  try:
    return simplejpeg.decode_jpeg(data, 'RGB')
  except ValueError:
    return None


def _orientation_of(data: bytes) -> int:
  """Returns the EXIF orientation of a JPEG; 0 when PIL does not open it, which `decode_image` then reports."""
  try:
    with Image.open(io.BytesIO(data), formats=('JPEG', 'MPO')) as image:
      return _orientation(image)
  except Exception:  # noqa: BLE001 - decoders raise almost any type on damaged bytes
    return 0


def _orientation(image: Image.Image) -> int:
  """Returns the EXIF orientation 1 to 8; 1 when there is none, or the EXIF block is damaged."""
  try:
    value = image.getexif().get(_ORIENTATION_TAG)
  except Exception:  # noqa: BLE001 - a damaged EXIF block, of whatever error, leaves the pixels readable
    return 1
  return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Returns the pixels [h, w, 3] as a viewer shows them under an EXIF orientation."""
  if orientation >= 5:
    pixels = pixels.transpose(1, 0, 2)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return np.ascontiguousarray(pixels)
