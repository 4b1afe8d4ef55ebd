import json
import re

import numpy as np
import pytest

from vitjax.config.schema import SourceConfig
from vitjax.data import check_same_classes, counts_per_class, open_source
from vitjax.data.decode import UnreadableError
from vitjax.errors import DataError


def test_image_folder(image_folder, tools):
  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  assert source.class_names == ('cat', 'Äpfel rot', '猫')
  assert counts_per_class(source) == {'cat': 4, 'Äpfel rot': 4, '猫': 4}
  assert sorted(source.class_names[source[i]['label']] for i in range(3)) == sorted(source.class_names)
  found = {source.name_of(i): i for i in range(12)}
  i = found[str(image_folder / 'cat' / '1 ü.png')]
  np.testing.assert_array_equal(source.load(i)[0], tools.photo(11))
  assert isinstance(source[i]['image'], bytes)
  assert len(source.notes) == 1
  assert 'notes.txt' in source.notes[0]
  assert '.DS_Store' not in source.notes[0]


def test_image_folder_with_splits(image_folder, tmp_path):
  root = tmp_path / 'split'
  for split in ('train', 'validation'):
    (root / split).mkdir(parents=True)
    for folder in image_folder.iterdir():
      if not folder.name.startswith('.'):
        (root / split / folder.name).mkdir()
        for file in folder.glob('*[0-9] ü*'):
          (root / split / folder.name / file.name).write_bytes(file.read_bytes())
  for file in (root / 'validation' / 'cat').iterdir():
    file.unlink()
  config = {'kind': 'image_folder', 'path': str(root)}
  train = open_source(SourceConfig(**config))
  val = open_source(SourceConfig(**config, split='val'))
  assert (len(train), len(val)) == (12, 8)
  assert train.class_names == val.class_names
  assert 'cat' in val.notes[0]
  assert len(open_source(SourceConfig(**config, split='validation'))) == 8
  assert len(open_source(SourceConfig(**config, split='all'))) == 20
  check_same_classes(train, val)
  with pytest.raises(DataError, match=r"split = 'test': expected one of train, val, all"):
    open_source(SourceConfig(**config, split='test'))


def test_classes_named_like_a_split_are_classes(image_folder):
  (image_folder / 'cat').rename(image_folder / 'train')
  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  assert source.class_names == ('train', 'Äpfel rot', '猫')


def test_image_folder_slices_hold_every_class(image_folder):
  config = {'kind': 'image_folder', 'path': str(image_folder)}
  head = open_source(SourceConfig(**config, split='train[:75%]'))
  tail = open_source(SourceConfig(**config, split='train[75%:]'))
  assert list(counts_per_class(head).values()) == [3, 3, 3]
  assert list(counts_per_class(tail).values()) == [1, 1, 1]
  names = {source.name_of(i) for source in (head, tail) for i in range(len(source))}
  assert len(names) == 12


def test_image_folder_problems(image_folder, tmp_path):
  (image_folder / 'empty one').mkdir()
  (image_folder / 'only text').mkdir()
  (image_folder / 'only text' / 'a.txt').write_text('x')
  with pytest.raises(DataError) as caught:
    open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  assert [problem.where for problem in caught.value.problems] == [
    str(image_folder / 'empty one'),
    str(image_folder / 'only text'),
  ]
  with pytest.raises(DataError, match='no such folder'):
    open_source(SourceConfig(kind='image_folder', path=str(tmp_path / 'nowhere')))
  with pytest.raises(DataError, match='one folder per class'):
    open_source(SourceConfig(kind='image_folder', path=str(image_folder / 'cat')))
  (image_folder / 'empty one').rmdir()
  with pytest.raises(
    DataError, match=r"evals\.v\.source\.split = 'val': expected one of train, all.* Slice it"
  ):
    open_source(
      SourceConfig(kind='image_folder', path=str(image_folder), split='val'), where='evals.v.source'
    )


def test_a_file_that_vanishes_is_named(image_folder):
  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  (image_folder / 'cat' / '0 ü.jpg').unlink()
  (i,) = [i for i in range(12) if source.name_of(i).endswith('cat/0 ü.jpg')]
  with pytest.raises(UnreadableError, match=r'cat/0 ü\.jpg = No such file'):
    source.load(i)


def test_a_damaged_file_is_named(image_folder):
  file = image_folder / 'cat' / '0 ü.jpg'
  file.write_bytes(file.read_bytes()[:400])
  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  with pytest.raises(UnreadableError, match=re.escape(str(file))):
    for i in range(12):
      source.load(i)


def manifest(folder, name, rows):
  path = folder / name
  if name.endswith('.jsonl'):
    path.write_text('\n'.join(json.dumps(row) for row in rows) + '\n', encoding='utf-8')
  else:
    comma = '\t' if name.endswith('.tsv') else ','
    lines = [comma.join(rows[0])] + [comma.join(f'"{value}"' for value in row.values()) for row in rows]
    path.write_text('\n'.join(lines), encoding='utf-8-sig')
  return str(path)


@pytest.mark.parametrize('name', ['list.csv', 'list.tsv', 'list.jsonl'])
@pytest.mark.parametrize('numbers', [False, True])
def test_manifest(image_folder, tools, name, numbers):
  files = ['cat/1 ü.png', '猫/1 ü.png', str(image_folder / 'Äpfel rot' / '1 ü.png'), 'cat/3 ü.bmp']
  labels = [0, 2, 1, 0] if numbers else ['cat', 'neko, 猫', 'apple', 'cat']
  rows = [{'note': 'x', 'image': file, 'label': label} for file, label in zip(files, labels, strict=True)]
  source = open_source(SourceConfig(kind='manifest', path=manifest(image_folder, name, rows)))
  assert source.class_names == (('0', '1', '2') if numbers else ('apple', 'cat', 'neko, 猫'))
  assert source.labels().tolist() == ([0, 2, 1, 0] if numbers else [1, 2, 0, 1])
  np.testing.assert_array_equal(source.load(1)[0], tools.photo(21))
  np.testing.assert_array_equal(source.load(2)[0], tools.photo(1))
  assert source.name_of(0) == str(image_folder / 'cat' / '1 ü.png')


def test_manifest_reports_every_bad_row(image_folder):
  rows = [
    {'image': 'cat/1 ü.png', 'label': '0'},
    {'image': 'gone.png', 'label': '1'},
    {'image': 'cat/1 ü.png', 'label': '7'},
  ]
  path = manifest(image_folder, 'list.csv', rows)
  with pytest.raises(DataError) as caught:
    open_source(SourceConfig(kind='manifest', path=path, num_classes=5))
  text = str(caught.value)
  assert f'{path}:4 = 7: expected a label from 0 to 4' in text
  assert f'{path}:3 = gone.png: expected an existing file' in text
  assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('a.csv', 'file,class\nx,y\n', r'a\.csv:1: expected a header with the columns image and label'),
    ('a.csv', 'image,label\n', '0 rows'),
    ('a.csv', 'image,label\nx.png\n', r'a\.csv:2: expected a label'),
    ('a.jsonl', '{"image": "x.png"}\n', r'a\.jsonl:1: expected a JSON object with the keys'),
    ('a.jsonl', '\n{oops\n', r'a\.jsonl:2: expected a JSON object'),
    ('a.jsonl', '{"image": "x.png", "label": 1.5}\n', 'whole number'),
    ('a.xlsx', 'image,label\n', r'\.csv, \.tsv or \.jsonl'),
  ],
)
def test_unreadable_manifests(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  with pytest.raises(DataError, match=message):
    open_source(SourceConfig(kind='manifest', path=str(tmp_path / name)))
  with pytest.raises(DataError, match='no such file'):
    open_source(SourceConfig(kind='manifest', path=str(tmp_path / 'other.csv')))


def test_classes_file_keeps_two_manifests_alike(image_folder):
  train = manifest(
    image_folder, 'train.csv', [{'image': 'cat/1 ü.png', 'label': name} for name in ('a', 'b', 'c')]
  )
  val = manifest(image_folder, 'val.csv', [{'image': 'cat/1 ü.png', 'label': name} for name in ('c', 'a')])
  sources = [open_source(SourceConfig(kind='manifest', path=path)) for path in (train, val)]
  with pytest.raises(DataError, match='2 classes: expected 3 classes') as caught:
    check_same_classes(*sources)
  assert "class 1 = 'c': expected 'b'" in str(caught.value)
  (image_folder / 'classes.txt').write_text('c\nb\na\n')
  sources = [open_source(SourceConfig(kind='manifest', path=path)) for path in (train, val)]
  check_same_classes(*sources)
  assert sources[1].labels().tolist() == [0, 2]
  (image_folder / 'classes.txt').write_text('c\nb\n')
  with pytest.raises(DataError, match=r"train\.csv:2 = 'a': expected one of the 2 names in classes\.txt"):
    open_source(SourceConfig(kind='manifest', path=train))
