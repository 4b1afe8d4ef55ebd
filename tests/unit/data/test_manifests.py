"""Manifests with a split column and with several classes per image; Hugging Face folders; seeded splits."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitjax.config.schema import SourceConfig
from vitjax.data.manifests import manifest_facts
from vitjax.data.sources import open_source
from vitjax.errors import DataError


@pytest.fixture
def pictures(tmp_path, tools):
  for i in range(6):
    (tmp_path / f'{i} ü.png').write_bytes(tools.encode(tools.photo(i)))
  return tmp_path


def labels_of(**knobs):
  return open_source(SourceConfig(**knobs)).labels().tolist()


def test_a_column_split_makes_splits_and_one_numbering(pictures):
  rows = ['image,label,split', '0 ü.png,b,train', '1 ü.png,c,validation', '2 ü.png,a,train']
  (pictures / 'm.csv').write_text('\n'.join(rows))
  path = str(pictures / 'm.csv')
  assert manifest_facts(path).splits == ('train', 'val')
  assert labels_of(kind='manifest', path=path, split='train') == [1, 0]
  assert labels_of(kind='manifest', path=path, split='val') == [2]
  assert labels_of(kind='manifest', path=path, split='all') == [1, 2, 0]
  with pytest.raises(DataError, match='split does not exist'):
    labels_of(kind='manifest', path=path, split='test')


@pytest.mark.parametrize('suffix', ['csv', 'jsonl'])
def test_several_classes_per_image(pictures, suffix):
  texts = {
    'csv': 'image,labels\n0 ü.png,b|a\n1 ü.png,c\n',
    'jsonl': '{"image": "0 ü.png", "labels": ["b", "a"]}\n{"image": "1 ü.png", "labels": ["c"]}\n',
  }
  path = pictures / f'm.{suffix}'
  path.write_text(texts[suffix])
  assert manifest_facts(str(path)).multi_label
  assert labels_of(kind='manifest', path=str(path), multi_label=True) == [[1, 1, 0], [0, 0, 1]]
  with pytest.raises(DataError) as caught:
    labels_of(kind='manifest', path=str(path))
  assert 'multi_label = True' in caught.value.problems[0].hint


def test_rows_without_a_split_beside_rows_with_one_are_refused(pictures):
  (pictures / 'm.jsonl').write_text(
    '{"image": "0 ü.png", "label": "a", "split": "train"}\n{"image": "1 ü.png", "label": "a"}'
  )
  with pytest.raises(DataError, match='problems in the manifest'):
    labels_of(kind='manifest', path=str(pictures / 'm.jsonl'))


def test_a_seed_deals_a_sorted_manifest_into_equal_shares(tmp_path, tools):
  (tmp_path / 'x.png').write_bytes(tools.encode(tools.photo(0)))
  rows = [f'x.png,{label}' for label in [0] * 50 + [1] * 50 + [2]]
  (tmp_path / 'm.csv').write_text('\n'.join(['image,label', *rows]))
  knobs = {'kind': 'manifest', 'path': str(tmp_path / 'm.csv')}
  sizes = []
  for seed in (0, 1):
    train = open_source(SourceConfig(**knobs, split='all[:80%]', split_seed=seed))
    val = open_source(SourceConfig(**knobs, split='all[80%:]', split_seed=seed))
    assert np.bincount(val.labels()).tolist() == [10, 10]  # the single image of class 2 trains
    assert len(train) + len(val) == 101
    sizes.append((train.fingerprint, val.fingerprint))
  assert sizes[0] != sizes[1]


def write_arrow(folder, images, labels, feature, storage):
  features = {'image': {'_type': 'Image'}, 'label': feature}
  table = pa.table(
    {
      'image': pa.array(
        [{'bytes': image, 'path': None} for image in images],
        pa.struct([('bytes', pa.binary()), ('path', pa.string())]),
      ),
      'label': pa.array(labels, storage),
    }
  )
  table = table.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': features}})})
  folder.mkdir(parents=True)
  return table


def test_what_save_to_disk_wrote(tmp_path, tools):
  images = [tools.encode(tools.photo(i)) for i in range(4)]
  feature = {'_type': 'ClassLabel', 'names': ['ja', 'nein']}
  root = tmp_path / 'saved'
  for split in ('train', 'test'):
    table = write_arrow(root / split, images, [0, 1, 1, 0], feature, pa.int64())
    with (
      pa.OSFile(str(root / split / 'data-00000-of-00001.arrow'), 'wb') as file,
      pa.ipc.new_stream(file, table.schema) as writer,
    ):
      writer.write_table(table, max_chunksize=3)
    (root / split / 'state.json').write_text(
      json.dumps({'_data_files': [{'filename': 'data-00000-of-00001.arrow'}]})
    )
  (root / 'dataset_dict.json').write_text('{"splits": ["train", "test"]}')
  source = open_source(SourceConfig(kind='huggingface', path=str(root), split='test'))
  assert source.class_names == ('ja', 'nein')
  assert [source[i]['label'] for i in range(4)] == [0, 1, 1, 0]
  assert [source[i]['image'] for i in range(4)] == images
  assert len(open_source(SourceConfig(kind='huggingface', path=str(root), split='all'))) == 8


def test_parquet_files_with_lists_of_classes(tmp_path, tools):
  images = [tools.encode(tools.photo(i)) for i in range(3)]
  feature = {'_type': 'Sequence', 'feature': {'_type': 'ClassLabel', 'names': ['x', 'y', 'z']}}
  table = write_arrow(tmp_path / 'data', images, [[0, 2], [], [1]], feature, pa.list_(pa.int64()))
  pq.write_table(table, tmp_path / 'data' / 'train-00000-of-00001-0123abcd.parquet')
  source = open_source(SourceConfig(kind='huggingface', path=str(tmp_path), split='train', multi_label=True))
  assert source.labels().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
  assert source.load(2)[0].shape == (24, 32, 3)
  with pytest.raises(DataError, match='another form'):
    open_source(SourceConfig(kind='huggingface', path=str(tmp_path), split='train'))


def test_a_folder_of_something_else_is_refused(tmp_path):
  with pytest.raises(DataError, match='no Hugging Face data set'):
    open_source(SourceConfig(kind='huggingface', path=str(tmp_path), split='train'))


def test_a_class_folder_without_images_is_left_out_on_request(image_folder):
  (image_folder / 'nothing yet').mkdir()
  with pytest.raises(DataError, match='without images'):
    open_source(SourceConfig(kind='image_folder', path=str(image_folder), split='all'))
  source = open_source(
    SourceConfig(kind='image_folder', path=str(image_folder), split='all', empty_classes='leave_out')
  )
  assert 'nothing yet' not in source.class_names
  assert any('nothing yet' in note for note in source.notes)
