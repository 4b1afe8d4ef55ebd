import numpy as np
import pytest
from PIL import Image

from vitjax.config.schema import DataConfig, SourceConfig
from vitjax.data import augmentation_page, contact_sheet, open_source, train_batches
from vitjax.errors import ConfigError, DataError


def test_sheet_shows_the_first_batch(tmp_path):
  source = open_source(SourceConfig(kind='synthetic'))
  config = DataConfig(batch_size=6, image_size=(32, 32), num_threads=1)
  path = contact_sheet(config, source, tmp_path / 'new' / 'sheet.png', seed=3, rows=2, columns=3)
  with Image.open(path) as opened:
    sheet = np.asarray(opened)
  with train_batches(config, source, seed=3) as batches:
    images = next(batches)['image']
  # Cells are 128 pixels wide with 10 between them; the first row starts 58 pixels down.
  for row in range(2):
    for column in range(3):
      top, left = 58 + row * 160, 10 + column * 138
      shown = sheet[top + 2 : top + 128 : 4, left + 2 : left + 128 : 4]
      np.testing.assert_array_equal(shown, images[row * 3 + column])
      label = sheet[top + 130 : top + 148, left : left + 128]
      assert label.min() < 60


def test_sheet_takes_large_images_and_long_names(tmp_path, image_folder):
  (image_folder / 'cat').rename(image_folder / ('a very long class name ' * 4))
  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  config = DataConfig(image_size=(300, 200))
  path = contact_sheet(config, source, tmp_path / 'sheet.png', rows=1, columns=4)
  with Image.open(path) as sheet:
    assert sheet.size == (4 * 138 + 10, 58 + 160)


def test_sheet_is_a_png(tmp_path):
  with pytest.raises(ConfigError, match=r'\.png'):
    contact_sheet(DataConfig(), open_source(SourceConfig(kind='synthetic')), tmp_path / 'sheet.jpg')


def test_sheet_shows_what_the_device_does_and_names_it(tmp_path, monkeypatch):
  source = open_source(SourceConfig(kind='synthetic'))
  sheets = []
  for knobs in ({}, {'color_jitter': 0.9}, {'color_jitter': 0.9, 'augment_on': 'device'}):
    config = DataConfig(image_size=(32, 32), crop='resize', flip=False, **knobs)
    sheets.append(
      np.asarray(Image.open(contact_sheet(config, source, tmp_path / 'x.png', rows=1, columns=8)))
    )
  plain, workers, device = (sheet[60:180] for sheet in sheets)
  assert (plain != workers).any()
  assert (plain != device).any()
  assert (sheets[0][30:55] != sheets[1][30:55]).any(), 'the heading names the jitter'


def test_page_of_augmentations(tmp_path):
  source = open_source(SourceConfig(kind='synthetic'))
  boxes = augmentation_page(DataConfig(image_size=(32, 32)), source, tmp_path / 'boxes.png')
  everything = DataConfig(
    image_size=(32, 32),
    crop='resize',
    randaugment_layers=2,
    three_augment=True,
    color_jitter=0.3,
    erasing_rate=0.2,
  )
  page = augmentation_page(everything, source, tmp_path / 'new' / 'page.png')
  with Image.open(boxes) as short, Image.open(page) as long:
    assert short.size[0] == long.size[0]
    assert long.size[1] > 5 * short.size[1]
  with pytest.raises(ConfigError, match='nothing to show'):
    augmentation_page(DataConfig(crop='resize'), source, tmp_path / 'page.png')
  with pytest.raises(ConfigError, match=r'\.png'):
    augmentation_page(DataConfig(), source, tmp_path / 'page.jpg')


def test_a_damaged_image_is_replaced_as_in_training(tmp_path, image_folder):
  (image_folder / 'cat' / '1 ü.png').write_bytes(b'\x89PNG broken')
  config = DataConfig(image_size=(16, 16))
  for budget, shown in ((1, True), (0, False)):
    source = open_source(SourceConfig(kind='image_folder', path=str(image_folder), max_corrupt=budget))
    if shown:
      assert contact_sheet(config, source, tmp_path / 'sheet.png', rows=3, columns=4).is_file()
    else:
      with pytest.raises(DataError, match=r'1 ü\.png'):
        contact_sheet(config, source, tmp_path / 'none.png', rows=3, columns=4)
