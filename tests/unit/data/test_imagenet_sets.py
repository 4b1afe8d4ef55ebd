"""ReaL's labels and ImageNet-v2's folders, in the forms in which they are published."""

import json

import numpy as np
import pytest
from PIL import Image

from vitjax.config.schema import SourceConfig
from vitjax.data.real_labels import read_real_labels
from vitjax.data.sources import check_same_classes, open_source
from vitjax.errors import DataError


def png(path, seed):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.full((4, 6, 3), seed % 256, np.uint8)).save(path)


@pytest.fixture
def numbered(tmp_path):
  for number in range(12):
    for i in range(2):
      png(tmp_path / 'v2' / str(number) / f'{number}_{i}.png', 100 * number + i)
  return tmp_path / 'v2'


def test_numbers_of_folders_are_labels_though_texts_would_sort_otherwise(numbered):
  source = open_source(SourceConfig(kind='numbered_folders', path=str(numbered), split='all'))
  assert source.num_classes == 12
  assert len(source) == 24
  for i in range(24):
    assert source[i]['label'] == int(source.name_of(i).rpartition('/')[2].partition('_')[0])
  assert sorted(source.labels()[:12].tolist()) == list(range(12)), 'a slice holds every class'
  texts = open_source(SourceConfig(kind='image_folder', path=str(numbered), split='all'))
  wrong = [texts[i]['label'] for i in range(24) if '/10_' in texts.name_of(i)]
  assert wrong == [2, 2], 'the trap that this kind is for'


def test_numbered_folders_judge_a_model_of_named_classes_of_the_same_number(numbered, tmp_path):
  for number in range(12):
    png(tmp_path / 'train' / f'n{number:03d}' / 'x.png', number)
  train = open_source(SourceConfig(kind='image_folder', path=str(tmp_path / 'train')))
  source = open_source(SourceConfig(kind='numbered_folders', path=str(numbered), split='all'))
  check_same_classes(train, source)
  more = open_source(SourceConfig(kind='numbered_folders', path=str(numbered), split='all', num_classes=1000))
  assert more.num_classes == 1000
  with pytest.raises(DataError, match='1000 classes'):
    check_same_classes(train, more)


def test_odd_folders_are_all_named(numbered):
  (numbered / '007').mkdir()
  (numbered / 'cat').mkdir()
  with pytest.raises(DataError) as caught:
    open_source(SourceConfig(kind='numbered_folders', path=str(numbered), split='all'))
  assert [p.where.rpartition('/')[2] for p in caught.value.problems] == ['007', 'cat']
  for name in ('007', 'cat'):
    (numbered / name).rmdir()
  with pytest.raises(DataError, match='below'):
    open_source(SourceConfig(kind='numbered_folders', path=str(numbered), split='all', num_classes=11))


@pytest.fixture
def validation(tmp_path):
  """Five validation images in class folders, so in another order than that of their numbers."""
  for number, wnid in ((1, 'n03'), (2, 'n01'), (3, 'n02'), (4, 'n01'), (5, 'n03')):
    png(tmp_path / 'val' / wnid / f'ILSVRC2012_val_{number:08d}.png', number)
  return open_source(SourceConfig(kind='image_folder', path=str(tmp_path / 'val')))


def write(tmp_path, content):
  path = tmp_path / 'real.json'
  path.write_text(json.dumps(content))
  return str(path)


def test_real_labels_follow_the_numbers_in_file_names(validation, tmp_path):
  lists = [[2], [0, 1], [], [0], [2, 1, 0]]
  table = read_real_labels(write(tmp_path, lists), validation, where='evals.real')
  assert table.dtype == np.int32
  for i in range(5):
    number = int(validation.name_of(i)[-12:-4])
    assert [label for label in table[i].tolist() if label >= 0] == lists[number - 1]


@pytest.mark.parametrize(
  ('content', 'part'),
  [
    ([[0]] * 3, '1 to 3'),
    ([[0]] * 4 + [[3]], 'class 3'),
    ([[0]] * 4 + [[-1]], 'class -1'),
    ([0, 1, 2, 0, 1], 'a JSON list with a list'),
    ({'1': [0]}, 'a JSON list with a list'),
  ],
)
def test_real_labels_that_do_not_fit_are_refused(content, part, validation, tmp_path):
  with pytest.raises(DataError, match=part):
    read_real_labels(write(tmp_path, content), validation, where='evals.real')


def test_names_without_numbers_are_refused(numbered, tmp_path):
  source = open_source(SourceConfig(kind='numbered_folders', path=str(numbered), split='all'))
  with pytest.raises(DataError, match='ILSVRC2012_val_00000001'):
    read_real_labels(write(tmp_path, [[0]]), source, where='evals.real')


def test_real_labels_find_the_file_names_of_a_tfds_set(tfds_array_record, tmp_path):
  config = SourceConfig(kind='tfds', name='tiny_shapes', path=str(tfds_array_record), split='train')
  source = open_source(config)
  table = read_real_labels(write(tmp_path, [[i % 3] for i in range(12)]), source, where='evals.real')
  # Example number i of the fixture has class i % 3 and the name of image i + 1.
  np.testing.assert_array_equal(table[:, 0], source.labels())
