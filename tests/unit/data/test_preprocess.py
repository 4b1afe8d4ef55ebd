import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from vitjax.config.schema import DataConfig
from vitjax.data import Preprocess
from vitjax.data.decode import UnreadableError
from vitjax.errors import ConfigError, DataError


def test_every_form_of_an_image_gives_the_same(tools, tmp_path):
  image = tools.photo(3, (40, 60))
  data = tools.encode(image)
  file = tmp_path / 'ä b.png'
  file.write_bytes(data)
  preprocess = Preprocess(image_size=(16, 16))
  expected = preprocess(image)
  assert expected.shape == (16, 16, 3)
  assert expected.dtype == np.uint8
  for form in (
    file,
    str(file),
    data,
    Image.open(io.BytesIO(data)),
    np.dstack([image, np.full((40, 60), 255, np.uint8)]),
  ):
    np.testing.assert_array_equal(preprocess(form), expected)
  grey = image[..., 0]
  np.testing.assert_array_equal(preprocess(grey), preprocess(np.repeat(grey[..., None], 3, axis=-1)))
  np.testing.assert_array_equal(preprocess(grey[..., None]), preprocess(grey))


def test_unchanged_size_returns_the_pixels(tools):
  image = tools.photo(3, (16, 20))
  np.testing.assert_array_equal(Preprocess(image_size=(16, 20))(image), image)


def test_exif_of_pil_images_is_applied(tools):
  exif = Image.Exif()
  exif[0x0112] = 6
  data = tools.encode(Image.fromarray(tools.photo(5)), 'PNG', exif=exif)
  preprocess = Preprocess(image_size=(8, 8))
  np.testing.assert_array_equal(preprocess(Image.open(io.BytesIO(data))), preprocess(data))


def test_resize_short_takes_the_centre():
  image = np.zeros((10, 40, 3), np.uint8)
  image[:, 15:25] = 200  # the middle square
  result = Preprocess(image_size=(20, 20), resize_short=20, interpolation='nearest')(image)
  assert (result == 200).all()
  image = np.arange(60, dtype=np.uint8).repeat(3).reshape(1, 60, 3).repeat(50, axis=0)
  result = Preprocess(image_size=(30, 30), resize_short=50)(image)
  assert result[0, :, 0].tolist() == list(range(15, 45))


def test_resize_short_keeps_the_aspect(tools):
  preprocess = Preprocess(image_size=(224, 224), resize_short=256, interpolation='area')
  for size in ((500, 375), (375, 500), (256, 256), (64, 48)):
    assert preprocess(tools.photo(1, size)).shape == (224, 224, 3)


def test_extreme_shapes_stay_small():
  preprocess = Preprocess(image_size=(224, 224), resize_short=256)
  for size in ((1, 100_000), (100_000, 1), (1, 1)):
    assert preprocess(np.full((*size, 3), 9, np.uint8)).tolist() == [[[9] * 3] * 224] * 224
  assert Preprocess(image_size=(32, 32))(np.zeros((3, 90_000, 3), np.uint8)).shape == (32, 32, 3)


def test_json_round_trip():
  preprocess = Preprocess((384, 256), (0.1, 0.2, 0.3), (0.5, 0.25, 1.0), 'bicubic', 400)
  again = Preprocess.from_json(preprocess.to_json())
  assert again == preprocess
  assert hash(again) == hash(preprocess)
  assert json.loads(preprocess.to_json())['image_size'] == [384, 256]
  for text in ('', '[1]', '{"image_size": [1, 1]}', preprocess.to_json().replace('bicubic', 'magic')):
    with pytest.raises(ConfigError):
      Preprocess.from_json(text)


def test_from_config():
  config = DataConfig(image_size=(32, 48), mean=(0.1, 0.2, 0.3), interpolation='area')
  expected = Preprocess((32, 48), (0.1, 0.2, 0.3), (0.5, 0.5, 0.5), 'area', 64)
  assert Preprocess.from_config(config, resize_short=64) == expected


def test_inconsistent_preprocessing_is_refused():
  with pytest.raises(ConfigError) as caught:
    Preprocess((224, 256), std=(0.5, 0.0, 0.5), interpolation='lanczos', resize_short=240)
  assert [problem.where for problem in caught.value.problems] == ['resize_short', 'interpolation', 'std']


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((4, 4, 3)),
    np.zeros((4, 4, 2), np.uint8),
    np.zeros((0, 4, 3), np.uint8),
    np.zeros(4, np.uint8),
    None,
    3,
  ],
)
def test_what_is_not_an_image_is_refused(image):
  with pytest.raises(DataError, match='expected a path, bytes, a PIL image, or a uint8 array'):
    Preprocess((8, 8))(image)


def test_bad_files_are_named(tmp_path, tools):
  preprocess = Preprocess((8, 8))
  with pytest.raises(UnreadableError, match=r'gone\.jpg = No such file'):
    preprocess(tmp_path / 'gone.jpg')
  bad = tmp_path / 'bad.jpg'
  bad.write_bytes(tools.encode(tools.photo(1), 'JPEG')[:500])
  with pytest.raises(UnreadableError, match=r'bad\.jpg'):
    preprocess(str(bad))
  with pytest.raises(UnreadableError):
    preprocess(Image.open(io.BytesIO(tools.encode(tools.photo(1))[:300])))
  with pytest.raises(UnreadableError, match=str(pathlib.Path(tmp_path.name))):
    preprocess(tmp_path)
