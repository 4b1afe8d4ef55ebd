"""A table of ordinary, odd and damaged images: the right pixels, or an error that names the file. Never a crash."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from vitjax.data import decode
from vitjax.data.decode import UnreadableError, decode_image


def png_of_size(width, height):
  """Returns a PNG whose header promises width x height grey pixels, its data being a run of zeros."""

  def chunk(tag, data):
    return struct.pack('>I', len(data)) + tag + data + struct.pack('>I', zlib.crc32(tag + data))

  compressor = zlib.compressobj(9)
  rows = [compressor.compress(bytes(width + 1)) for _ in range(height)]
  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  data = b''.join([*rows, compressor.flush()])
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data) + chunk(b'IEND', b'')


def test_jpeg_equals_pil_bit_for_bit(tools):
  for options in ({'quality': 85}, {'quality': 95, 'subsampling': 0}, {'progressive': True}):
    data = tools.encode(tools.photo(1, (37, 51)), 'JPEG', **options)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize('file_format', ['PNG', 'BMP', 'TIFF', 'PPM'])
def test_lossless_formats_return_their_pixels(tools, file_format):
  image = tools.photo(2)
  np.testing.assert_array_equal(decode_image(tools.encode(image, file_format)), image)


def test_lossless_webp(tools):
  image = tools.photo(2)
  np.testing.assert_array_equal(decode_image(tools.encode(image, 'WEBP', lossless=True)), image)


def test_grey_modes_are_repeated(tools):
  grey = tools.photo(3)[..., 0]
  expected = np.repeat(grey[..., None], 3, axis=-1)
  np.testing.assert_array_equal(decode_image(tools.encode(grey)), expected)
  jpeg = decode_image(tools.encode(grey, 'JPEG', quality=95))
  assert jpeg.shape == expected.shape
  assert np.abs(jpeg.astype(int) - expected).max() < 12


def test_sixteen_bits_keep_the_high_byte(tools):
  values = (np.arange(24 * 32).reshape(24, 32) * 85).astype(np.uint16)
  decoded = decode_image(tools.encode(values))
  np.testing.assert_array_equal(decoded[..., 0], values >> 8)
  assert decoded.max() > 200
  assert decoded.min() < 10


def test_transparency_is_composited_on_white(tools):
  rgba = np.zeros((2, 2, 4), np.uint8)
  rgba[0, 0] = (255, 0, 0, 255)
  rgba[0, 1] = (255, 0, 0, 0)
  rgba[1, 0] = (0, 0, 0, 128)
  pixels = decode_image(tools.encode(Image.fromarray(rgba)))
  assert pixels[0, 0].tolist() == [255, 0, 0]
  assert pixels[0, 1].tolist() == [255, 255, 255]
  assert abs(int(pixels[1, 0, 0]) - 127) <= 1
  grey_alpha = np.stack([np.full((2, 2), 10), [[255, 0], [0, 255]]], axis=-1).astype(np.uint8)
  pixels = decode_image(tools.encode(Image.fromarray(grey_alpha, 'LA')))
  assert pixels[..., 0].tolist() == [[10, 255], [255, 10]]


def test_palette_with_transparent_colour(tools):
  image = Image.new('P', (2, 1))
  image.putpalette([0, 0, 255, 9, 9, 9])
  image.putpixel((1, 0), 1)
  pixels = decode_image(tools.encode(image, 'PNG', transparency=1))
  assert pixels.tolist() == [[[0, 0, 255], [255, 255, 255]]]
  assert decode_image(tools.encode(image, 'PNG')).tolist() == [[[0, 0, 255], [9, 9, 9]]]


def test_cmyk_jpeg_becomes_rgb(tools):
  image = Image.new('RGB', (16, 16), (200, 30, 60)).convert('CMYK')
  pixels = decode_image(tools.encode(image, 'JPEG', quality=95))
  assert np.abs(pixels.astype(int) - [200, 30, 60]).max() <= 6


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('file_format', ['PNG', 'JPEG'])
def test_exif_orientation_is_applied(tools, orientation, file_format):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = tools.encode(Image.fromarray(tools.photo(5)), file_format, exif=exif)
  expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
  np.testing.assert_array_equal(decode_image(data), expected)
  assert decode_image(data).shape == ((32, 24, 3) if orientation >= 5 else (24, 32, 3))


def test_one_pixel_one_bit_and_first_frame(tools):
  assert decode_image(tools.encode(np.full((1, 1, 3), 7, np.uint8))).tolist() == [[[7, 7, 7]]]
  assert decode_image(tools.encode(Image.new('1', (3, 2), 1))).tolist() == [[[255] * 3] * 3] * 2
  frames = [Image.new('RGB', (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
  gif = tools.encode(frames[0], 'GIF', save_all=True, append_images=frames[1:])
  assert decode_image(gif)[0, 0].tolist() == [250, 0, 0]


def test_two_pictures_in_one_jpeg_give_the_first(tools):
  first, second = tools.photo(1), tools.photo(8)
  data = tools.encode(Image.fromarray(first), 'MPO', save_all=True, append_images=[Image.fromarray(second)])
  assert np.abs(decode_image(data).astype(int) - first).mean() < 5


def damaged(tools):
  """Returns {case: (bytes, text in the reason)}."""
  image = tools.photo(9, (64, 64))
  jpeg, png = tools.encode(image, 'JPEG'), tools.encode(image)
  gif, webp = tools.encode(Image.fromarray(image), 'GIF'), tools.encode(image, 'WEBP')
  bmp, tiff = tools.encode(image, 'BMP'), tools.encode(image, 'TIFF')
  broken_png = bytearray(png)
  broken_png[len(png) // 2] ^= 0xFF
  return {
    'empty': (b'', '0 bytes'),
    'one byte': (b'\xff', 'no image'),
    'text': (b'<html>404 Not Found</html>' * 20, 'no image'),
    'svg': (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', 'no image'),
    'eps': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n', 'no image'),
    'pdf': (b'%PDF-1.4\n%\xe2\xe3\xcf\xd3\n', 'no image'),
    'zeros': (bytes(1000), 'no image'),
    'jpeg header only': (jpeg[:20], ''),
    'jpeg cut at a third': (jpeg[: len(jpeg) // 3], ''),
    'jpeg cut at 90 %': (jpeg[: len(jpeg) * 9 // 10], 'truncated'),
    'jpeg zeroed tail': (jpeg[: len(jpeg) // 2] + bytes(10), 'truncated'),
    'png header only': (png[:33], ''),
    'png cut in half': (png[: len(png) // 2], ''),
    'png flipped byte': (bytes(broken_png), ''),
    'gif header only': (gif[:6], ''),
    'gif cut in half': (gif[: len(gif) // 2], ''),
    'webp cut in half': (webp[: len(webp) // 2], ''),
    'bmp cut in half': (bmp[: len(bmp) // 2], 'truncated'),
    'tiff cut in half': (tiff[: len(tiff) // 2], ''),
    'float tiff': (tools.encode(Image.new('F', (4, 4)), 'TIFF'), 'mode F'),
    'size zero': (b'P6\n0 0\n255\n', ''),
    'bomb 14k x 14k': (png_of_size(14_000, 14_000), ''),
    'bomb 100k x 100k': (png_of_size(100_000, 3)[:16] + struct.pack('>II', 100_000, 100_000), ''),
  }


def test_damaged_files_are_refused_with_their_name(tools):
  outcomes = {}
  for case, (data, reason) in damaged(tools).items():
    with pytest.raises(UnreadableError) as caught:
      decode_image(data, name=f'data/{case}.jpg')
    outcomes[case] = str(caught.value)
    assert f'data/{case}.jpg' in str(caught.value)
    assert reason in caught.value.reason, case
    assert 'max_corrupt' in str(caught.value)
  assert len(outcomes) >= 20


def test_a_pixel_bomb_costs_no_memory():
  data = png_of_size(14_000, 14_000)
  assert len(data) < 250_000
  tracemalloc.start()
  with pytest.raises(UnreadableError, match='pixel'):
    decode_image(data)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5_000_000


def test_own_pixel_limit_is_enforced_before_decoding(tools, monkeypatch):
  monkeypatch.setattr(decode, 'MAX_PIXELS', 100)
  assert decode_image(tools.encode(np.zeros((10, 10, 3), np.uint8))).shape == (10, 10, 3)
  with pytest.raises(UnreadableError, match='11 x 10 pixels, more than 100'):
    decode_image(tools.encode(np.zeros((10, 11, 3), np.uint8)))


def test_random_damage_never_escapes_as_another_error(tools):
  rng = np.random.default_rng(0)
  originals = [
    tools.encode(tools.photo(1), file_format) for file_format in ('JPEG', 'PNG', 'GIF', 'WEBP', 'TIFF')
  ]
  refused = 0
  for trial in range(200):
    data = bytearray(originals[trial % len(originals)])
    for position in rng.integers(0, len(data), 4):
      data[position] = rng.integers(256)
    try:
      pixels = decode_image(bytes(data))
      assert pixels.dtype == np.uint8
      assert pixels.ndim == 3
      assert pixels.shape[-1] == 3
    except UnreadableError:
      refused += 1
  assert 20 < refused < 200


def test_error_survives_pickling():
  error = pickle.loads(pickle.dumps(UnreadableError('a.jpg', '0 bytes')))
  assert (error.name, error.reason) == ('a.jpg', '0 bytes')
  assert 'a.jpg = 0 bytes' in str(error)
