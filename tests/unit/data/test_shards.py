"""Files of byte records: checksums, pickling, and what is said of damaged ones."""

import pickle
import struct

import numpy as np
import pytest

from vitjax.config.schema import SourceConfig
from vitjax.data import open_source
from vitjax.data.records import encode_example
from vitjax.data.shards import masked_crc32c
from vitjax.errors import DataError


def test_crc32c_known_values():
  # RFC 3720 B.4: the CRC-32C of 32 zero bytes is 0x8a9136aa; TFRecord rotates it and adds a constant.
  crc = 0x8A9136AA
  assert masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_tfrecord(path, records):
  with path.open('wb') as file:
    for record in records:
      length = struct.pack('<Q', len(record))
      file.write(
        length + struct.pack('<I', masked_crc32c(length)) + record + struct.pack('<I', masked_crc32c(record))
      )


def open_tfrecord(folder):
  return open_source(SourceConfig(kind='tfrecord', path=str(folder), num_classes=2))


@pytest.fixture
def tfrecord(tmp_path, tools):
  path = tmp_path / 'digits-train.tfrecord-00000-of-00001'
  write_tfrecord(path, [encode_example(tools.photo(i), i % 2) for i in range(5)])
  return path


def test_plain_tfrecord(tfrecord, tools):
  source = open_tfrecord(tfrecord.parent)
  assert len(source) == 5
  for i in (4, 0, 2):
    np.testing.assert_array_equal(source.load(i)[0], tools.photo(i))
  assert source.name_of(4) == f'{tfrecord}[4]'
  copy = pickle.loads(pickle.dumps(source))
  assert copy[3]['label'] == 1


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda data: data[:-3], 'truncated within record 4'),
    (lambda data: data[: len(data) // 2], 'truncated within record'),
    (lambda data: b'', 'cannot mmap an empty file'),
    (lambda data: bytes([data[0] ^ 1]) + data[1:], 'record 0 at byte 0 fails its checksum'),
    (lambda data: b'x' * 100, 'checksum'),
  ],
)
def test_damaged_tfrecord_is_named(tfrecord, damage, message):
  tfrecord.write_bytes(damage(tfrecord.read_bytes()))
  with pytest.raises(DataError, match=message) as caught:
    open_tfrecord(tfrecord.parent)
  assert caught.value.problems[0].where == str(tfrecord)
