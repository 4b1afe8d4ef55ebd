"""Small real data sets on disk, made once per test session."""

from __future__ import annotations

import io
import json
import pathlib
import struct

import numpy as np
import pytest
from PIL import Image


def photo(seed: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
  """Returns a smooth colour image, uint8 [h, w, 3], that survives JPEG well."""
  y, x = np.mgrid[: size[0], : size[1]] / 8
  phase = np.array([0, 1, 2]) + seed
  return (127 + 120 * np.sin(x[..., None] + y[..., None] * 0.5 + phase)).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, file_format: str = 'PNG', **options: object) -> bytes:
  buffer = io.BytesIO()
  (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
  return buffer.getvalue()


@pytest.fixture(scope='session')
def tools():
  """Returns the image makers of this file."""

  class Tools:
    photo = staticmethod(photo)
    encode = staticmethod(encode)

  return Tools


@pytest.fixture
def image_folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Returns a folder of 3 classes with 4 images each, in several formats, hidden and foreign files among them."""
  root = tmp_path / 'my images'
  suffixes = ('jpg', 'png', 'webp', 'bmp')
  for label, name in enumerate(('Äpfel rot', 'cat', '猫')):
    (root / name).mkdir(parents=True)
    for i, suffix in enumerate(suffixes):
      file_format = {'jpg': 'JPEG'}[suffix] if suffix == 'jpg' else suffix.upper()
      (root / name / f'{i} ü.{suffix}').write_bytes(encode(photo(10 * label + i), file_format))
  (root / 'cat' / '.DS_Store').write_bytes(b'x')
  (root / 'cat' / 'notes.txt').write_text('not an image')
  (root / '.hidden').mkdir()
  return root


@pytest.fixture(scope='session')
def tfds_array_record(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns a TFDS data_dir that holds `tiny_shapes` 1.0.0 as ArrayRecord: 12 train and 6 test images, 3 classes."""
  import tensorflow_datasets as tfds

  class TinyShapes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    code_path = None  # its look-up wants another package

    def _info(self):
      names = ['square', 'circle', 'star']
      features = {
        'image': tfds.features.Image(),
        'label': tfds.features.ClassLabel(names=names),
        'file_name': tfds.features.Text(),
      }
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(0, 12), 'test': self._generate_examples(50, 6)}

    def _generate_examples(self, first, count):
      for i in range(count):
        name = f'ILSVRC2012_val_{first + i + 1:08d}.JPEG'
        image = io.BytesIO(encode(photo(first + i)))
        yield i, {'image': image, 'label': i % 3, 'file_name': name}

  data_dir = tmp_path_factory.mktemp('tfds')
  TinyShapes(data_dir=str(data_dir), file_format='array_record').download_and_prepare()
  return data_dir


@pytest.fixture(scope='session')
def tfds_tfrecord(tfds_array_record: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Returns the version folder of the same data set as TFRecord files, their framing written by hand."""
  from array_record.python.array_record_data_source import ArrayRecordDataSource

  from vitjax.data.shards import masked_crc32c

  source = tfds_array_record / 'tiny_shapes' / '1.0.0'
  target = tmp_path_factory.mktemp('tfrecord') / 'tiny_shapes' / '1.0.0'
  target.mkdir(parents=True)
  for file in source.iterdir():
    if 'array_record' in file.name:
      records = ArrayRecordDataSource([str(file)])
      with (target / file.name.replace('array_record', 'tfrecord')).open('wb') as out:
        for record in (records[i] for i in range(len(records))):
          length = struct.pack('<Q', len(record))
          out.write(length + struct.pack('<I', masked_crc32c(length)))
          out.write(record + struct.pack('<I', masked_crc32c(record)))
    elif file.name == 'dataset_info.json':
      info = json.loads(file.read_text())
      info['fileFormat'] = 'tfrecord'
      for split in info['splits']:
        split['filepathTemplate'] = split['filepathTemplate'].replace('array_record', 'tfrecord')
      (target / file.name).write_text(json.dumps(info))
    else:
      (target / file.name).write_bytes(file.read_bytes())
  return target
