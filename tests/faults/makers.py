"""What unit tests make and the cases use too: their modules, loaded by path, and about sixty odd images."""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from types import ModuleType

import numpy as np
from PIL import Image

UNIT = pathlib.Path(__file__).parents[1] / 'unit'


@functools.cache
def unit_module(name: str) -> ModuleType:
  """Returns a module of tests/unit, such as 'data/test_decode'."""
  spec = importlib.util.spec_from_file_location(name.replace('/', '_'), UNIT / f'{name}.py')
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def sound_images() -> dict[str, tuple[bytes, tuple[int, int]]]:
  """Returns {name: (file, (height, width) that it must decode to)} of odd files that are images all the same."""
  tools = unit_module('data/conftest')
  photo, encode = tools.photo(1), tools.encode
  grey, whole = photo[..., 0], Image.fromarray(photo)
  rgba = np.concatenate([photo, grey[..., None]], axis=-1)
  grey_alpha = Image.fromarray(np.stack([grey, grey], axis=-1), 'LA')
  frames = [Image.fromarray(tools.photo(i)) for i in range(3)]
  files = {
    'plain.jpg': encode(photo, 'JPEG'), 'progressive.jpg': encode(photo, 'JPEG', progressive=True),
    '444.jpg': encode(photo, 'JPEG', subsampling=0), 'grey.jpg': encode(grey, 'JPEG'),
    'cmyk.jpg': encode(whole.convert('CMYK'), 'JPEG'), 'plain.png': encode(photo), 'grey.png': encode(grey),
    'grey_alpha.png': encode(grey_alpha), 'rgba.png': encode(Image.fromarray(rgba)),
    'sixteen_bits.png': encode(grey.astype(np.uint16) * 257), 'palette.png': encode(whole.convert('P')),
    'palette_transparent.png': encode(whole.convert('P'), 'PNG', transparency=1),
    'one_bit.png': encode(whole.convert('1')), 'gif_named.jpg': encode(whole, 'GIF'),
    'animated.gif': encode(frames[0], 'GIF', save_all=True, append_images=frames[1:]),
    'png_named.jpg': encode(photo), 'jpeg_named.png': encode(photo, 'JPEG'), 'plain.bmp': encode(photo, 'BMP'),
    'plain.tiff': encode(photo, 'TIFF'), 'lzw.tiff': encode(whole, 'TIFF', compression='tiff_lzw'),
    'plain.webp': encode(photo, 'WEBP'), 'lossless.webp': encode(photo, 'WEBP', lossless=True),
    'alpha.webp': encode(Image.fromarray(rgba), 'WEBP'), 'plain.ppm': encode(photo, 'PPM'),
    'two_pictures.jpg': encode(whole, 'MPO', save_all=True, append_images=frames[1:]),
    'bytes_after_it.jpg': encode(photo, 'JPEG') + b'x' * 100,
  }  # fmt: skip
  found = {name: (data, (24, 32)) for name, data in files.items()}
  for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    size = (32, 24) if orientation >= 5 else (24, 32)
    found[f'exif_{orientation}.jpg'] = (encode(whole, 'JPEG', exif=exif), size)
  for form in ('PNG', 'JPEG', 'GIF', 'WEBP'):
    found[f'one_pixel.{form.lower()}'] = (encode(photo[:1, :1], form), (1, 1))
  found['strip.png'] = (encode(np.zeros((1, 500, 3), np.uint8)), (1, 500))
  return found


def damaged_images() -> dict[str, tuple[bytes, str]]:
  """Returns {name: (file, part of the reason)} of files that must be refused."""

  class Tools:
    photo = staticmethod(unit_module('data/conftest').photo)
    encode = staticmethod(unit_module('data/conftest').encode)

  return unit_module('data/test_decode').damaged(Tools)
