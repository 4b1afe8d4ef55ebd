"""Crops decoded on their own are, pixel for pixel, crops of the decoded image; whatever is odd goes another way."""

import importlib.metadata
import io
import shutil

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from vitjax.config.schema import DataConfig
from vitjax.data import decode
from vitjax.data.decode import UnreadableError, decode_box, decode_image, jpeg_size
from vitjax.data.transforms import Augment, example_rng

BUILT = pytest.mark.skipif(decode.jpeg_region is None, reason='vitjax/data/native is not compiled')


def noise(rng, height, width):
  """Returns an image that is half smooth, half noise, so that both kinds of blocks occur."""
  smooth = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height))
  image = np.array(smooth)
  image[:, width // 2 :] = rng.integers(0, 256, (height, width - width // 2, 3), dtype=np.uint8)
  return Image.fromarray(image)


def jpeg(image, **options):
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', **options)
  return buffer.getvalue()


def boxes(rng, height, width, count):
  yield 0, 0, height, width
  yield height - 1, width - 1, 1, 1
  for _ in range(count):
    h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    yield int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w


def test_it_is_compiled_where_vitjax_was_installed_with_a_compiler():
  try:
    importlib.metadata.distribution('vitjax')
  except importlib.metadata.PackageNotFoundError:
    pytest.skip('vitjax is used from its source tree')
  if shutil.which('cc') is None:
    pytest.skip('no C compiler')
  assert decode.jpeg_region is not None


@BUILT
@pytest.mark.parametrize('sampling', [0, 1, 2, 'grey'])
def test_every_box_has_the_pixels_of_the_whole_image(sampling):
  rng = np.random.default_rng(0)
  seen = 0
  for trial in range(40):
    height, width = (int(side) for side in rng.integers(1, 70, 2))
    image = noise(rng, height, width)
    options = {'quality': int(rng.integers(5, 101)), 'optimize': bool(trial % 2)}
    if sampling == 'grey':
      data = jpeg(image.convert('L'), **options)
    else:
      data = jpeg(image, subsampling=sampling, **options)
    whole = simplejpeg.decode_jpeg(data)
    if jpeg_size(data) is None:
      assert width <= 4  # too narrow for filtered chroma
      continue
    assert jpeg_size(data) == (height, width)
    out = np.empty(whole.size, np.uint8)
    for top, left, h, w in boxes(rng, height, width, 6):
      if decode.jpeg_region.read(data, (top, left, h, w), out):
        seen += 1
        np.testing.assert_array_equal(
          out[: h * w * 3].reshape(h, w, 3), whole[top : top + h, left : left + w], f'{(top, left, h, w)}'
        )
  assert seen > 200


@BUILT
def test_what_it_does_not_read_is_left_to_the_library(tools):
  image = noise(np.random.default_rng(1), 40, 56)
  plain = jpeg(image)
  assert jpeg_size(plain) == (40, 56)
  for data in (
    jpeg(image, progressive=True),
    jpeg(image.convert('CMYK')),
    jpeg(image, restart_marker_rows=1),
    simplejpeg.encode_jpeg(np.asarray(image), colorsubsampling='440'),
    plain[:-2],  # cut off
    plain[: len(plain) // 2],
    plain[:100],
    tools.encode(np.asarray(image)),
    b'',
  ):
    assert jpeg_size(data) is None


@BUILT
@pytest.mark.parametrize('orientation', [1, 3, 6])
def test_a_turned_photograph_is_cropped_after_it_was_turned(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = jpeg(noise(np.random.default_rng(2), 40, 56), exif=exif)
  assert (jpeg_size(data) is not None) == (orientation == 1)
  augment = Augment.from_config(DataConfig(image_size=(16, 16)))
  for seed in range(4):
    expected = augment(decode_image(data), example_rng(seed, 0))
    np.testing.assert_array_equal(augment(data, example_rng(seed, 0)), expected)


@pytest.mark.parametrize('interpolation', ['bilinear', 'area', 'bicubic_antialias'])
def test_augmentation_is_the_same_without_the_compiled_part(interpolation, monkeypatch):
  data = jpeg(noise(np.random.default_rng(3), 80, 96), quality=90)
  augment = Augment.from_config(DataConfig(image_size=(24, 32), interpolation=interpolation))
  found = [augment(data, example_rng(seed, 0)) for seed in range(8)]
  monkeypatch.setattr(decode, 'jpeg_region', None)
  for seed, image in enumerate(found):
    np.testing.assert_array_equal(augment(data, example_rng(seed, 0)), image)


@BUILT
def test_flipped_bits_never_change_the_verdict_of_the_library():
  """Either both read the crop, with the same pixels, or the file counts as unreadable in both."""
  rng = np.random.default_rng(4)
  plain = jpeg(noise(rng, 48, 64), quality=85)
  outcomes = {'same': 0, 'unreadable': 0}
  for _ in range(300):
    data = bytearray(plain)
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
      data[place] ^= 1 << int(rng.integers(8))
    size = jpeg_size(bytes(data))
    if size is None:
      continue
    box = (size[0] // 2, 0, size[0] - size[0] // 2, size[1])  # to the last row: all data count
    try:
      whole = decode_image(bytes(data))
    except UnreadableError:
      with pytest.raises(UnreadableError):
        decode_box(bytes(data), box)
      outcomes['unreadable'] += 1
      continue
    np.testing.assert_array_equal(decode_box(bytes(data), box), whole[box[0] :])
    outcomes['same'] += 1
  assert outcomes['same'] > 100


@BUILT
def test_a_box_outside_the_image_or_a_short_buffer_is_refused():
  data = jpeg(noise(np.random.default_rng(5), 20, 20))
  out = np.empty(20 * 20 * 3, np.uint8)
  for box in ((0, 0, 21, 5), (0, 16, 5, 5), (-1, 0, 5, 5)):
    assert not decode.jpeg_region.read(data, box, out)
  with pytest.raises(ValueError, match='smaller'):
    decode.jpeg_region.read(data, (0, 0, 20, 20), out[:-1])
