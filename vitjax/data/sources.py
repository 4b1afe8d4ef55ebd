"""Labelled images with random access: `open_source` turns a SourceConfig into a Source."""

from __future__ import annotations

import copy
import functools
import hashlib
import pathlib
from typing import TypedDict

import numpy as np

from vitjax.config.schema import SourceConfig
from vitjax.data import arrow_sets, embedded, folders, manifests, numbered, records, tfds_sets
from vitjax.data.decode import decode_image
from vitjax.data.readers import ConcatReader, Label, Reader
from vitjax.data.splits import few_per_class, parse_split, stratified_order
from vitjax.errors import ConfigError, DataError, Problem

# Which kinds need a knob; the others refuse it, since an ignored setting is a mistake.
_NEEDS_PATH = (
  'fashion_mnist',
  'image_folder',
  'numbered_folders',
  'manifest',
  'huggingface',
  'array_record',
  'tfrecord',
)
_TAKES_PATH = (*_NEEDS_PATH, 'tfds')
_FINGERPRINT_VERSION = b'vitjax-data-1'


class Record(TypedDict):
  """One labelled image as it is stored: uint8 [h, w, 3] or an encoded file, and its class id (or uint8 [v])."""

  image: np.ndarray | bytes
  label: Label


class Source:
  """A selection of labelled images, by number. Thread-safe and picklable.

  Attributes:
    kind: the reader, as in SourceConfig.kind.
    split: the split expression that was opened.
    class_names: one name per class id; always `num_classes` of them.
    notes: remarks for the log, such as files that were skipped.
    max_corrupt: unreadable records that the pipeline tolerates.
    multi_label: an image may have several classes or none: labels are uint8 [num_classes], zeros and ones.
  """

  def __init__(
    self, config: SourceConfig, reader: Reader, index: np.ndarray, class_names: tuple[str, ...], *, where: str
  ):
    self.kind = config.kind
    self.split = config.split
    self.class_names = class_names
    self.notes = reader.notes
    self.max_corrupt = config.max_corrupt
    self.multi_label = config.multi_label
    self.where = where
    self._reader = reader
    self._index = index

  @property
  def num_classes(self) -> int:
    """Returns the number of classes; labels lie in [0, num_classes)."""
    return len(self.class_names)

  @property
  def no_label(self) -> Label:
    """Returns what stands in a batch where there is no example: 0, or uint8 [num_classes] zeros."""
    return np.zeros(self.num_classes, np.uint8) if self.multi_label else 0

  def __len__(self) -> int:
    return len(self._index)

  def __getitem__(self, i: int) -> Record:
    """Returns {'image': uint8 [h, w, 3] or encoded bytes, 'label': int} of example i in [0, len).

    Raises:
      IndexError: there is no example i.
      UnreadableError: the record is damaged in storage. (Encoded images are not decoded here.)
      DataError: its label is out of range.
    """
    if not 0 <= i < len(self):
      raise IndexError(f'example {i} of {len(self)}')
    image, label = self._reader.read(int(self._index[i]))
    if not self.multi_label and not 0 <= label < self.num_classes:
      raise self._label_error([i], [label])
    return {'image': image, 'label': label}

  def load(self, i: int) -> tuple[np.ndarray, Label]:
    """Returns example i decoded: uint8 [h, w, 3] and label. Raises as [i] does, and for damaged images."""
    record = self[i]
    image = record['image']
    return (image if isinstance(image, np.ndarray) else decode_image(image, name=self.name_of(i))), record[
      'label'
    ]

  def name_of(self, i: int) -> str:
    """Returns what error messages call example i: a file path, 'mnist5k[17]', or 'shard[17]'."""
    return self._reader.name_of(int(self._index[i]))

  def file_name(self, i: int) -> str:
    """Returns the name of the file that example i was made of, as far as the source keeps it; else `name_of`."""
    return self._reader.file_name(int(self._index[i]))

  def labels(self) -> np.ndarray:
    """Returns int64 [n] (multi_label: uint8 [n, v]) of all examples; record files are read through once for it.

    Raises:
      DataError: naming the records whose label is out of range.
    """
    labels = self._reader.labels()[self._index]
    if self.multi_label:
      return labels
    wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
    if len(wrong):
      raise self._label_error([int(i) for i in wrong], labels[wrong].tolist())
    return labels

  def subset(self, examples: np.ndarray) -> Source:
    """Returns a source of some of these examples: number i there is number examples[i] here.

    Args:
      examples: int [m], in [0, len).
    """
    chosen = copy.copy(self)
    chosen.__dict__.pop('fingerprint', None)
    chosen._index = self._index[examples]
    return chosen

  def _label_error(self, examples: list[int], labels: list[int]) -> DataError:
    expected = f'a label from 0 to {self.num_classes - 1}'
    hint = f'Correct the record, or set {self.where}.num_classes'
    problems = [
      Problem(self.name_of(i), f'label {label}', expected, hint)
      for i, label in zip(examples, labels, strict=True)
    ]
    return DataError('labels out of range', folders.limited(problems))

  @functools.cached_property
  def fingerprint(self) -> str:
    """Returns a SHA-256 (hex) of what identifies the data: kind, classes, records, names, sizes, samples.

    It does not depend on where the data lie, and is computed without reading all images, so it notices a
    changed data set, not every changed pixel.
    """
    digest = hashlib.sha256(_FINGERPRINT_VERSION)
    digest.update(repr((self.kind, self.class_names, len(self._reader), len(self))).encode())
    digest.update(self._index.tobytes())
    for part in self._reader.digest_parts():
      digest.update(part)
    return digest.hexdigest()


def open_source(config: SourceConfig, *, where: str = 'data.source') -> Source:
  """Returns the labelled images that a SourceConfig describes. Decodes none yet, never loads TensorFlow.

  Args:
    config: kind, place, split and selection.
    where: the config's dotted path, for messages ('data.source', 'evals.val.source').

  Raises:
    ConfigError: knobs are missing, or do not apply to this kind.
    DataError: files, splits, classes or labels are missing or wrong; all problems of one sort at once.
  """
  _check_knobs(config, where)
  parts = parse_split(config.split, where=f'{where}.split')
  names = list(dict.fromkeys(part.name for part in parts))
  readers = {name: _open_reader(config, name, where=where) for name in names}
  starts = dict(zip(names, np.cumsum([0, *(len(readers[name]) for name in names)]), strict=False))
  ranges = []
  for part in parts:
    low, high = part.bounds(len(readers[part.name]))
    ranges.append(_order(config, readers[part.name])[low:high] + starts[part.name])
  index = np.concatenate(ranges)
  if not len(index):
    sizes = ', '.join(f'{name} has {len(readers[name])}' for name in names)
    raise DataError(
      'no examples', [Problem(f'{where}.split', repr(config.split), f'a slice with examples ({sizes})')]
    )
  if len(np.unique(index)) < len(index):
    raise ConfigError(
      'examples would count twice',
      [Problem(f'{where}.split', repr(config.split), 'slices that do not overlap')],
    )
  reader = readers[names[0]] if len(names) == 1 else ConcatReader([readers[name] for name in names])
  source = Source(config, reader, index, _class_names(config, reader, where), where=where)
  return source if config.examples_per_class is None else _subset(config, source, reader, index, where)


def _order(config: SourceConfig, reader: Reader) -> np.ndarray:
  """Returns int64 [n], the reader's records in the order that split bounds count in."""
  if config.split_seed is None:
    return np.arange(len(reader), dtype=np.int64)
  labels = reader.labels()
  strata = np.zeros(len(labels), np.int64) if config.multi_label else labels
  return stratified_order(strata, seed=config.split_seed)


def _check_knobs(config: SourceConfig, where: str) -> None:
  problems = []
  if config.kind in _NEEDS_PATH and config.path is None:
    problems.append(Problem(f'{where}.path', 'None', f'the folder or file that kind {config.kind!r} opens'))
  if config.kind not in _TAKES_PATH and config.path is not None:
    problems.append(
      Problem(f'{where}.path', repr(config.path), f'None, since kind {config.kind!r} opens no files')
    )
  if (config.kind == 'tfds') != (config.name is not None):
    expected = (
      'a TFDS name such as "cifar10"'
      if config.kind == 'tfds'
      else f'None, since kind {config.kind!r} has no names'
    )
    problems.append(Problem(f'{where}.name', repr(config.name), expected))
  if problems:
    raise ConfigError('the source is not described completely', problems)


def _open_reader(config: SourceConfig, split: str, *, where: str) -> Reader:
  path = config.path if config.path is None else str(pathlib.Path(config.path).expanduser())
  if config.kind in ('mnist5k', 'digits'):
    return embedded.open_digits(config.kind, split, where=where)
  if config.kind == 'synthetic':
    return embedded.open_synthetic(config.num_examples, config.num_classes, split, where=where)
  if config.kind == 'tfds':
    assert config.name is not None
    return tfds_sets.open_tfds(config.name, path, split, label=config.label, where=where)
  assert path is not None
  if config.kind == 'fashion_mnist':
    return embedded.open_fashion_mnist(path, split, where=where)
  if config.kind == 'image_folder':
    return folders.open_image_folder(path, split, where=where, empty_classes=config.empty_classes)
  if config.kind == 'numbered_folders':
    return numbered.open_numbered_folders(path, split, num_classes=config.num_classes, where=where)
  if config.kind == 'manifest':
    return manifests.open_manifest(
      path, split, num_classes=config.num_classes, where=where, multi_label=config.multi_label
    )
  if config.kind == 'huggingface':
    return arrow_sets.open_huggingface(path, split, where=where, multi_label=config.multi_label)
  if (pathlib.Path(path) / 'dataset_info.json').is_file():
    if config.multi_label:
      problem = Problem(f'{where}.multi_label', 'True', 'False: TFDS data are read with one class per image')
      raise DataError('labels of another form', [problem])
    return tfds_sets.open_tfds_folder(path, split, kind=config.kind, where=where)
  return records.open_records(config.kind, path, split, where=where, multi_label=config.multi_label)


def _class_names(config: SourceConfig, reader: Reader, where: str) -> tuple[str, ...]:
  if reader.class_names and config.num_classes is not None and config.num_classes != len(reader.class_names):
    names = ', '.join(reader.class_names[:10]) + (', ...' if len(reader.class_names) > 10 else '')
    expected = f'{len(reader.class_names)}, the classes of the data ({names}), or None'
    raise DataError(
      'the number of classes differs', [Problem(f'{where}.num_classes', str(config.num_classes), expected)]
    )
  if reader.class_names:
    return reader.class_names
  if config.num_classes is None:
    expected = 'the number of classes, since these records have no class names'
    raise ConfigError('the number of classes is unknown', [Problem(f'{where}.num_classes', 'None', expected)])
  return tuple(str(label) for label in range(config.num_classes))


def _subset(config: SourceConfig, source: Source, reader: Reader, index: np.ndarray, where: str) -> Source:
  """Returns the source with examples_per_class examples of each class."""
  per_class = config.examples_per_class
  assert per_class is not None
  chosen, missing = few_per_class(
    source.labels(), per_class=per_class, num_classes=source.num_classes, seed=config.subset_seed
  )
  if missing:
    problems = [
      Problem(
        f'{where}.examples_per_class',
        str(per_class),
        f'at most {count}: class {source.class_names[label]!r} has no more',
      )
      for label, count in missing.items()
    ]
    raise DataError(f'classes have too few examples in split {config.split!r}', folders.limited(problems))
  return Source(config, reader, index[chosen], source.class_names, where=where)


def counts_per_class(source: Source) -> dict[str, int]:
  """Returns {class name: number of examples}, in the order of the class ids."""
  labels = source.labels()
  counts = labels.sum(axis=0) if source.multi_label else np.bincount(labels, minlength=source.num_classes)
  return {name: int(count) for name, count in zip(source.class_names, counts, strict=True)}


def check_same_classes(train: Source, other: Source) -> None:
  """Checks that two sources number their classes alike, so that one can judge a model of the other.

  Numbered folders name no classes: of them only the number of classes is compared.

  Raises:
    DataError: naming the first classes that differ.
  """
  if train.class_names == other.class_names:
    return
  if other.kind == 'numbered_folders' and train.num_classes == other.num_classes:
    return
  pairs = list(zip(train.class_names, other.class_names, strict=False))
  differing = [(i, a, b) for i, (a, b) in enumerate(pairs) if a != b]
  problems = [
    Problem(f'{other.where}: class {i}', repr(b), f'{a!r}, as in {train.where}') for i, a, b in differing
  ]
  if train.num_classes != other.num_classes:
    found = f'{other.num_classes} classes'
    problems.insert(0, Problem(other.where, found, f'{train.num_classes} classes, as in {train.where}'))
  hint = 'use the same class folders, or the same classes.txt beside both manifests'
  raise DataError(f'the sources number their classes differently; {hint}', folders.limited(problems))
