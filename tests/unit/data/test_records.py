"""Labelled images in shards: what is written is read, by name, folder, file or glob, and damage is named."""

import pickle

import numpy as np
import pytest

from vitjax.config.schema import SourceConfig
from vitjax.data import counts_per_class, open_source, write_array_record
from vitjax.data.decode import UnreadableError
from vitjax.errors import ConfigError, DataError


def open_kind(kind, path, **knobs):
  return open_source(SourceConfig(kind=kind, path=str(path), **knobs))


@pytest.fixture
def shards(tmp_path, tools):
  folder = tmp_path / 'records'
  examples = [(tools.photo(i), i % 3) for i in range(10)]
  write_array_record(folder, examples, num_shards=3, class_names=('a', 'b', 'ç'))
  write_array_record(folder, [(tools.encode(tools.photo(90), 'JPEG'), 2)], split='val')
  return folder


def test_array_record_round_trip(shards, tools):
  train, val = open_kind('array_record', shards), open_kind('array_record', shards, split='val')
  assert (len(train), len(val), len(open_kind('array_record', shards, split='all'))) == (10, 1, 11)
  assert train.class_names == ('a', 'b', 'ç')
  order = [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]
  for i, number in enumerate(order):
    pixels, label = train.load(i)
    np.testing.assert_array_equal(pixels, tools.photo(number))
    assert label == number % 3
  assert train.name_of(5).endswith('train-00001-of-00003.array_record[1]')
  assert isinstance(val[0]['image'], bytes)
  assert counts_per_class(train) == {'a': 4, 'b': 3, 'ç': 3}
  copy = pickle.loads(pickle.dumps(train))
  assert copy[7]['label'] == train[7]['label']
  assert copy.fingerprint == train.fingerprint


def test_array_record_by_glob_and_file(shards):
  assert len(open_kind('array_record', shards / 'train-*')) == 10
  assert len(open_kind('array_record', shards / 'train-00000-of-00003.array_record')) == 4
  with pytest.raises(DataError, match='folder of all shards'):
    open_kind('array_record', shards / 'train-*', split='val')
  with pytest.raises(DataError, match='a folder, a file or a glob'):
    open_kind('array_record', shards / 'nothing-*')


def test_missing_and_damaged_shards_are_named(shards):
  (shards / 'train-00001-of-00003.array_record').unlink()
  with pytest.raises(DataError, match="shard 1 of 3 of split 'train' is missing"):
    open_kind('array_record', shards)
  (shards / 'val-00000-of-00001.array_record').write_bytes(b'damaged' * 20_000)
  with pytest.raises(DataError, match=r'val-00000-of-00001\.array_record'):
    open_kind('array_record', shards, split='val')
  with pytest.raises(DataError, match='expected one of train, val, all'):
    open_kind('array_record', shards, split='test')


def test_flipped_bytes_in_array_record_are_found(shards):
  file = shards / 'train-00002-of-00003.array_record'
  data = bytearray(file.read_bytes())
  source = open_kind('array_record', shards)
  image = source[8]['image']
  at = bytes(data).find(image[60:100])
  assert at > 0
  data[at] ^= 0xFF
  file.write_bytes(bytes(data))
  source = open_kind('array_record', shards)
  source.load(0)
  with pytest.raises(UnreadableError, match=r'train-00002-of-00003\.array_record\[1\]'):
    source.load(8)


def test_labels_out_of_range_name_the_records(tmp_path, tools):
  write_array_record(tmp_path, [(tools.photo(i), label) for i, label in enumerate((0, 5, 1, -1))])
  with pytest.raises(ConfigError, match=r'num_classes = None'):
    open_kind('array_record', tmp_path)
  source = open_kind('array_record', tmp_path, num_classes=2)
  assert source[2]['label'] == 1
  with pytest.raises(DataError, match=r'array_record\[1\] = label 5: expected a label from 0 to 1'):
    source[1]
  with pytest.raises(DataError) as caught:
    source.labels()
  assert [problem.found for problem in caught.value.problems] == ['label 5', 'label -1']


@pytest.mark.parametrize('labels', [np.array([1, 0, 0, 1]), -1])
def test_lists_of_labels_out_of_range_name_the_record(tmp_path, tools, labels):
  examples = [(tools.photo(0), np.array([1, 0, 1])), (tools.photo(1), labels)]
  write_array_record(tmp_path, examples, class_names=('a', 'b', 'c'))
  source = open_kind('array_record', tmp_path, multi_label=True)
  assert source[0]['label'].tolist() == [1, 0, 1]
  with pytest.raises(DataError, match=r'array_record\[1\] = labels (.|\n)*expected labels from 0 to 2'):
    source[1]


def test_foreign_record_layouts_are_refused(tmp_path):
  from array_record.python.array_record_module import ArrayRecordWriter

  for name, record in (('a', b'\x00\xff\x12 no proto'), ('b', b'')):
    writer = ArrayRecordWriter(str(tmp_path / f'{name}.array_record'), 'group_size:1')
    writer.write(record)
    writer.close()
    with pytest.raises(DataError, match=rf'layout(.|\n)*{name}\.array_record\[0\]'):
      open_kind('array_record', tmp_path / f'{name}.array_record', num_classes=2)


def test_tfds_array_record_by_name(tfds_array_record):
  config = {'kind': 'tfds', 'name': 'tiny_shapes', 'path': str(tfds_array_record)}
  train = open_source(SourceConfig(**config))
  assert (len(train), train.class_names) == (12, ('square', 'circle', 'star'))
  assert counts_per_class(train) == {'square': 4, 'circle': 4, 'star': 4}
  assert isinstance(train[0]['image'], bytes)
  assert len(open_source(SourceConfig(**config, split='train[:25%]+test'))) == 9
  assert len(open_source(SourceConfig(**config, split='all'))) == 18
  assert (
    len(open_source(SourceConfig(kind='tfds', name='tiny_shapes:1.0.0', path=str(tfds_array_record)))) == 12
  )
  subset = open_source(SourceConfig(**config, examples_per_class=2))
  assert set(counts_per_class(subset).values()) == {2}


def test_tfds_records_equal_those_that_tfds_reads(tfds_array_record):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(tfds_array_record / 'tiny_shapes' / '1.0.0')
  theirs = builder.as_data_source('test')
  ours = open_kind('array_record', tfds_array_record / 'tiny_shapes' / '1.0.0', split='test')
  assert len(theirs) == len(ours) == 6
  for i in range(6):
    pixels, label = ours.load(i)
    np.testing.assert_array_equal(pixels, theirs[i]['image'])
    assert label == theirs[i]['label']


def test_tfds_tfrecord_equals_array_record(tfds_array_record, tfds_tfrecord):
  array_record = open_kind('array_record', tfds_array_record / 'tiny_shapes' / '1.0.0')
  by_folder = open_kind('tfrecord', tfds_tfrecord)
  by_name = open_source(SourceConfig(kind='tfds', name='tiny_shapes', path=str(tfds_tfrecord.parent.parent)))
  assert by_folder.class_names == array_record.class_names
  for i in range(12):
    assert by_folder[i] == by_name[i] == array_record[i]


def test_tfds_problems(tfds_array_record, tfds_tfrecord, tmp_path):
  with pytest.raises(DataError, match=r'not prepared(.|\n)*download_and_prepare'):
    open_source(SourceConfig(kind='tfds', name='cifar10', path=str(tmp_path)))
  with pytest.raises(DataError, match=r'expected one of train, test, all'):
    open_source(SourceConfig(kind='tfds', name='tiny_shapes', path=str(tfds_array_record), split='val'))
  with pytest.raises(DataError, match=r"kind = 'array_record': expected 'tfrecord'"):
    open_kind('array_record', tfds_tfrecord)
  (tmp_path / 'dataset_info.json').write_text('{"name": 3')
  with pytest.raises(DataError, match='TFDS metadata cannot be read'):
    open_kind('tfrecord', tmp_path)


def test_tfds_missing_shard_is_named(tfds_tfrecord, tmp_path):
  for file in tfds_tfrecord.iterdir():
    if 'train' not in file.name:
      (tmp_path / file.name).write_bytes(file.read_bytes())
  with pytest.raises(DataError, match=r'tiny_shapes-train\.tfrecord-00000-of-00001 = no such file'):
    open_kind('tfrecord', tmp_path)
  shorter = (tfds_tfrecord / 'tiny_shapes-test.tfrecord-00000-of-00001').read_bytes()
  (tmp_path / 'tiny_shapes-train.tfrecord-00000-of-00001').write_bytes(shorter)
  with pytest.raises(DataError, match='6 records, not the 12'):
    open_kind('tfrecord', tmp_path)
