"""Labelled images as tf.train.Example messages in shards, read and written without TensorFlow."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vitjax.data.decode import UnreadableError, decode_image
from vitjax.data.readers import Label, Reader, require, spread, unknown_split
from vitjax.data.shards import Shard, make_shards, shards_of_split
from vitjax.errors import DataError, Problem

CLASS_NAMES_FILE = 'class_names.json'
# What `vitjax data prepare` notes beside its shards.
PREPARED_FILE = 'prepared.json'
IMAGE_KEYS = ('image', 'image/encoded')
LABEL_KEYS = ('label', 'image/class/label')
_NUM_SAMPLED = 64

LabelFn = Callable[[Mapping[str, Any]], Label]


class LabelRangeError(ValueError):
  """(what was found, what was expected) of a record whose labels no budget for damage may cover."""


@dataclasses.dataclass(frozen=True)
class LabelFeature:
  """The class id of a record's features that stands in one of them."""

  name: str

  def __call__(self, features: Mapping[str, Any]) -> int:
    return int(features[self.name].int64_list.value[0])


@dataclasses.dataclass(frozen=True)
class LabelList:
  """The classes of a record whose feature lists their ids: uint8 [num_classes], zeros and ones.

  Raises (when called):
    LabelRangeError: an id that is none of the classes.
  """

  key: str
  num_classes: int

  def __call__(self, features: Mapping[str, Any]) -> np.ndarray:
    label = np.zeros(self.num_classes, np.uint8)
    # A list without elements may leave no feature behind.
    ids = [*features[self.key].int64_list.value] if self.key in features else []
    if any(not 0 <= i < self.num_classes for i in ids):
      raise LabelRangeError(f'labels {ids}', f'labels from 0 to {self.num_classes - 1}')
    label[ids] = 1
    return label


class ExampleReader(Reader):
  """Records that are tf.train.Example messages with an encoded image and an integer label.

  Args:
    shards: the files, in order.
    image_key: feature with the encoded image (one bytes value).
    label_of: from {name: Feature} to the label; picklable.
    class_names: one per class id, or ().
    is_binary: pixels are 0 and 1, to be shown as 0 and 255.
    file_key: feature with the name of the file that a record was made of; None: it is not kept.
  """

  def __init__(
    self,
    shards: Sequence[Shard],
    *,
    image_key: str,
    label_of: LabelFn,
    class_names: Sequence[str] = (),
    is_binary: bool = False,
    file_key: str | None = None,
  ):
    self._file_key = file_key
    self._shards = tuple(shards)
    self._ends = np.cumsum([shard.num_records for shard in shards])
    self._image_key = image_key
    self._label_of = label_of
    self._is_binary = is_binary
    self.class_names = tuple(class_names)
    self._labels: np.ndarray | None = None

  def _locate(self, i: int) -> tuple[Shard, int]:
    part = int(np.searchsorted(self._ends, i, side='right'))
    return self._shards[part], i - (int(self._ends[part - 1]) if part else 0)

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, i: int) -> tuple[bytes | np.ndarray, Label]:
    shard, j = self._locate(i)
    try:
      features = parse_example(shard.read(j))
      image = features[self._image_key].bytes_list.value[0]
      return decode_image(image) * np.uint8(255) if self._is_binary else image, self._label_of(features)
    except DataError:
      raise
    except LabelRangeError as error:
      found, expected = error.args
      hint = f'Correct the record, or the names in {CLASS_NAMES_FILE}'
      problem = Problem(self.name_of(i), found, expected, hint)
      raise DataError('labels out of range', [problem]) from error
    except Exception as error:
      # array_record and protobuf have their own error types; all of them mean: damaged.
      reason = f'the record cannot be read ({type(error).__name__}: {error})'
      raise UnreadableError(self.name_of(i), reason) from error

  def labels(self) -> np.ndarray:
    if self._labels is None:
      labels = np.array([self.read(i)[1] for i in range(len(self))])
      self._labels = labels if labels.ndim == 2 else labels.astype(np.int64)
    return self._labels

  def name_of(self, i: int) -> str:
    shard, j = self._locate(i)
    return f'{shard.path}[{j}]'

  def file_name(self, i: int) -> str:
    if self._file_key is None:
      return self.name_of(i)
    shard, j = self._locate(i)
    return parse_example(shard.read(j))[self._file_key].bytes_list.value[0].decode('utf-8', 'surrogateescape')

  def digest_parts(self) -> Iterator[bytes]:
    for shard in self._shards:
      file = pathlib.Path(shard.path)
      yield f'{file.name} {file.stat().st_size} {shard.num_records}\n'.encode()
    for i in spread(len(self), _NUM_SAMPLED):
      try:
        image, label = self.read(int(i))
      except UnreadableError:
        image, label = b'', -1
      yield label.tobytes() if isinstance(label, np.ndarray) else label.to_bytes(8, 'little', signed=True)
      yield image if isinstance(image, bytes) else image.tobytes()


def parse_example(record: bytes):
  """Returns {name: Feature} of a serialised tf.train.Example."""
  proto = require('tensorflow_datasets.proto', 'tensorflow-datasets', where='tf.train.Example records')
  features = proto.tf_example_pb2.Example.FromString(record).features.feature
  return {name: features[name] for name in features}


def open_records(kind: str, path: str, split: str, *, where: str, multi_label: bool = False) -> Reader:
  """Returns the records of ArrayRecord or TFRecord files.

  Record layout: a serialised tf.train.Example with the encoded image (JPEG, PNG, ...) under `image` and its
  class id under `label` (or under ImageNet's names `image/encoded` and `image/class/label`). Class names come
  from a file class_names.json (a list of names) in the same folder. `write_array_record` writes this layout.

  Args:
    path: a folder of shards, whose names hold the split ('train-00000-of-00002.array_record',
      'mnist-train.tfrecord-00000-of-00001'), or a glob pattern or a file, which are one split, 'train' alias
      'all'.

  Raises:
    DataError: nothing matches, shards are missing or damaged, or the first record has another layout.
  """
  location = pathlib.Path(path).expanduser()
  if location.is_dir():
    paths = shards_of_split(kind, location, split, where=where)
  else:
    paths = sorted(str(file) for file in location.parent.glob(location.name) if file.is_file())
    if not paths:
      raise DataError(
        'no shards', [Problem(f'{where}.path', repr(path), 'a folder, a file or a glob of shards')]
      )
    if split not in ('train', 'all'):
      raise unknown_split(
        where, split, ('all', 'train'), 'A file or glob is one split; give the folder of all shards instead'
      )
  shards = make_shards(kind, paths)
  first = shards[0]
  try:
    features = parse_example(first.read(0))
  except DataError:
    raise
  except Exception as error:
    expected = 'a tf.train.Example'
    raise DataError(
      'the record layout is unknown', [Problem(f'{first.path}[0]', str(error), expected)]
    ) from error
  keys = [next((key for key in known if key in features), None) for known in (IMAGE_KEYS, LABEL_KEYS)]
  image_key, label_key = keys
  if image_key is None or label_key is None:
    expected = f'one of {", ".join(IMAGE_KEYS)} and one of {", ".join(LABEL_KEYS)}'
    raise DataError(
      'the record layout is unknown', [Problem(f'{first.path}[0]', f'features {sorted(features)}', expected)]
    )
  names = _class_names(pathlib.Path(paths[0]).parent / CLASS_NAMES_FILE)
  if multi_label and not names:
    problem = Problem(
      paths[0], '', f'a file {CLASS_NAMES_FILE} beside the shards, since records list their classes'
    )
    raise DataError('the classes are unknown', [problem])
  label_of = LabelList(label_key, len(names)) if multi_label else LabelFeature(label_key)
  return ExampleReader(shards, image_key=image_key, label_of=label_of, class_names=names)


def are_multi_label(folder: pathlib.Path) -> bool:
  """Returns whether records list their classes, as `vitjax data prepare` has noted beside them."""
  note = folder / PREPARED_FILE
  return note.is_file() and bool(json.loads(note.read_text(encoding='utf-8'))['multi_label'])


def _class_names(path: pathlib.Path) -> tuple[str, ...]:
  if not path.is_file():
    return ()
  try:
    names = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise DataError(
      'class names cannot be read', [Problem(str(path), str(error), 'a JSON list of names')]
    ) from error
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise DataError('class names cannot be read', [Problem(str(path), '', 'a JSON list of names')])
  return tuple(names)


def write_array_record(
  folder: str | os.PathLike[str],
  examples: Iterable[tuple[bytes | np.ndarray, Label]],
  *,
  split: str = 'train',
  num_shards: int = 1,
  class_names: Sequence[str] = (),
) -> list[pathlib.Path]:
  """Writes labelled images as ArrayRecord shards that `open_records` reads; returns the files.

  Args:
    folder: made when it does not exist; class_names.json is written beside the shards when names are given.
    examples: (encoded image, or uint8 [h, w, 3] or [h, w] to be stored as PNG; class id).
    num_shards: record i goes to shard i modulo num_shards.
  """
  target = pathlib.Path(folder)
  target.mkdir(parents=True, exist_ok=True)
  module = require('array_record.python.array_record_module', 'array-record', where=str(target))
  paths = [target / f'{split}-{i:05d}-of-{num_shards:05d}.array_record' for i in range(num_shards)]
  writers = [module.ArrayRecordWriter(str(path), 'group_size:1') for path in paths]
  for i, (image, label) in enumerate(examples):
    writers[i % num_shards].write(encode_example(image, label))
  for writer in writers:
    writer.close()
  if class_names:
    write_class_names(target, class_names)
  return paths


def write_class_names(folder: pathlib.Path, names: Sequence[str]) -> None:
  """Writes the names of the class ids beside a folder's shards, where `open_records` looks for them."""
  text = json.dumps(list(names), ensure_ascii=False)
  (folder / CLASS_NAMES_FILE).write_text(text, encoding='utf-8')


def encode_example(image: bytes | np.ndarray, label: Label) -> bytes:
  """Returns one labelled image as a serialised tf.train.Example; arrays are stored as PNG, uint8 [v] as lists."""
  if isinstance(image, np.ndarray):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, 'PNG')
    image = buffer.getvalue()
  proto = require('tensorflow_datasets.proto', 'tensorflow-datasets', where='tf.train.Example records')
  example = proto.tf_example_pb2.Example()
  example.features.feature['image'].bytes_list.value.append(image)
  ids = np.flatnonzero(label).tolist() if isinstance(label, np.ndarray) else [int(label)]
  example.features.feature['label'].int64_list.value.extend(ids)
  return example.SerializeToString(deterministic=True)
