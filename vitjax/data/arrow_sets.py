"""Data sets in Hugging Face's forms: what `datasets` wrote with save_to_disk (Arrow), and folders of Parquet files.

Read with pyarrow alone: nothing is downloaded and no code of a data set runs.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitjax.data.decode import UnreadableError
from vitjax.data.folders import canonical_split, limited
from vitjax.data.readers import ConcatReader, Label, Reader, as_label, require, spread, unknown_split
from vitjax.errors import DataError, Problem

_DICT, _STATE, _INFO = 'dataset_dict.json', 'state.json', 'dataset_info.json'
_PARQUET = re.compile(r'(?P<split>[A-Za-z]\w*?)(?:-\d+-of-\d+)?(?:-[0-9a-f]+)?\.parquet')
_NUM_SAMPLED = 64
_LISTS = ('Sequence', 'List', 'LargeList')


def is_huggingface(path: str) -> bool:
  """Returns whether a folder looks like a Hugging Face data set: from save_to_disk, or with Parquet files."""
  root = pathlib.Path(path).expanduser()
  marked = (root / _DICT).is_file() or (root / _STATE).is_file()
  return marked or any(root.glob('*.parquet')) or any(root.glob('*/*.parquet'))


def huggingface_splits(path: str) -> dict[str, tuple[pathlib.Path, ...]]:
  """Returns {split: its files} of a folder that `datasets` wrote, or that holds Parquet files; 'train' where the folder
  does not say.

  Raises:
    DataError: it is no such folder.
  """
  root = pathlib.Path(path).expanduser()
  if (root / _DICT).is_file():
    names = _json(root / _DICT)['splits']
    return {canonical_split(name): _arrow_files(root / name) for name in names}
  if (root / _STATE).is_file():
    return {'train': _arrow_files(root)}
  found: dict[str, tuple[pathlib.Path, ...]] = {}
  for file in sorted(root.rglob('*.parquet')) if root.is_dir() else ():
    match = _PARQUET.fullmatch(file.name)
    name = canonical_split(match['split'] if match else file.parent.name)
    found[name] = (*(found[name] if name in found else ()), file)
  if not found:
    expected = f'a folder from save_to_disk ({_DICT} or {_STATE}), or one with .parquet files'
    raise DataError('no Hugging Face data set', [Problem(str(root), 'none of these files', expected)])
  return found


def _arrow_files(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
  files = tuple(folder / entry['filename'] for entry in _json(folder / _STATE)['_data_files'])
  missing = [
    Problem(str(file), 'no such file', 'all that state.json lists') for file in files if not file.is_file()
  ]
  if missing:
    raise DataError('files of the data set are missing', limited(missing))
  return files


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    problem = Problem(str(path), str(error), 'JSON, as datasets.save_to_disk writes it')
    raise DataError('the data set cannot be read', [problem]) from error


def open_huggingface(path: str, split: str, *, where: str, multi_label: bool = False) -> Reader:
  """Returns the images of one split, in stored order.

  The image column is the one of type Image, the label column the one of type ClassLabel (multi_label: a list of
  them); without types, `image` or `img` and `label`, `labels` or `fine_label`. Arrow files are memory-mapped; Parquet
  files are decompressed into memory: for more than fits, `vitjax data prepare` makes ArrayRecord files.

  Args:
    path: the folder.
    split: one of its splits, or 'all'.
    where: the source's dotted path, for messages.
    multi_label: labels are lists.

  Raises:
    DataError: no such data set or split, no such columns, or damaged files.
  """
  splits = huggingface_splits(path)
  name = canonical_split(split)
  if name != 'all' and name not in splits:
    raise unknown_split(where, split, (*splits, 'all'))
  readers = [
    _open_split(each, splits[each], where=where, multi_label=multi_label)
    for each in (splits if name == 'all' else (name,))
  ]
  return readers[0] if len(readers) == 1 else ConcatReader(readers)


def huggingface_multi_label(path: str) -> bool:
  """Returns whether the labels of a data set are lists."""
  files = next(iter(huggingface_splits(path).values()))
  table = _open_table(files[0], None)
  return 'list' in str(table.schema.field(_columns(table, _features(files[0], table), str(path))[1]).type)


class ArrowReader(Reader):
  """The rows of Arrow tables that lie in files; each process opens them on first use.

  Args:
    name: prefix of record names.
    files: of one split, in order.
    columns: names of the image column and of the label column.
    labels: int64 [n], or uint8 [n, v].
    class_names: one per class, or ().
    lengths: rows per file.
  """

  def __init__(
    self,
    name: str,
    files: Sequence[pathlib.Path],
    columns: tuple[str, str],
    labels: np.ndarray,
    class_names: Sequence[str],
    lengths: Sequence[int],
  ):
    self._name, self._files, self._columns = name, tuple(files), columns
    self._labels, self._ends = labels, np.cumsum(lengths)
    self.class_names = tuple(class_names)
    self._tables: dict[int, Any] = {}

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_tables': {}}

  def __len__(self) -> int:
    return len(self._labels)

  def read(self, i: int) -> tuple[bytes, Label]:
    part = int(np.searchsorted(self._ends, i, side='right'))
    if part not in self._tables:
      self._tables[part] = _open_table(self._files[part], [self._columns[0]]).column(self._columns[0])
    cell = self._tables[part][i - (int(self._ends[part - 1]) if part else 0)].as_py()
    data = cell['bytes'] if isinstance(cell, Mapping) else cell
    if data is None and isinstance(cell, Mapping) and cell['path']:
      file = pathlib.Path(cell['path'])
      file = file if file.is_absolute() else self._files[part].parent / file
      try:
        data = file.read_bytes()
      except OSError as error:
        raise UnreadableError(self.name_of(i), f'{file}: {error.strerror or error}') from error
    if data is None:
      raise UnreadableError(self.name_of(i), 'the cell is empty')
    return data, as_label(self._labels[i])

  def labels(self) -> np.ndarray:
    return self._labels

  def name_of(self, i: int) -> str:
    return f'{self._name}[{i}]'

  def digest_parts(self) -> Iterator[bytes]:
    yield self._labels.tobytes()
    for i in spread(len(self), _NUM_SAMPLED):
      try:
        yield self.read(int(i))[0]
      except UnreadableError:
        yield b''


def _open_table(file: pathlib.Path, columns: list[str] | None) -> Any:
  """Returns a file as a pyarrow Table; of Parquet only `columns` are read, and for None no row at all."""
  pyarrow = require('pyarrow', 'pyarrow', where=str(file))
  try:
    if file.suffix == '.parquet':
      parquet = require('pyarrow.parquet', 'pyarrow', where=str(file))
      return (
        parquet.read_schema(file).empty_table()
        if columns is None
        else parquet.read_table(file, columns=columns)
      )
    mapped = pyarrow.memory_map(str(file))
    try:
      return pyarrow.ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
      return pyarrow.ipc.open_file(mapped).read_all()
  except (pyarrow.ArrowException, OSError) as error:
    problem = Problem(
      str(file), str(error).split('\n')[0], 'an Arrow or Parquet file', 'Copy the data set again'
    )
    raise DataError('a file of the data set cannot be read', [problem]) from error


def _features(file: pathlib.Path, table: Any) -> dict[str, Any]:
  """Returns Hugging Face's description of the columns, {} where there is none."""
  metadata = table.schema.metadata or {}
  if b'huggingface' in metadata:
    info = json.loads(metadata[b'huggingface'])
    if 'info' in info and info['info'].get('features'):
      return info['info']['features']
  beside = file.parent / _INFO
  found = _json(beside) if beside.is_file() else {}
  return found['features'] if found.get('features') else {}


def _columns(table: Any, features: Mapping[str, Any], where: str) -> tuple[str, str]:
  """Returns the names of the image column and of the label column; raises DataError where there is no one choice."""
  names = table.schema.names

  def choose(kind: str, habits: Sequence[str]) -> str | None:
    typed = [name for name in names if name in features and _type(features[name]) == kind]
    known = [name for name in habits if name in (typed or names)]
    return typed[0] if len(typed) == 1 else known[0] if known else None

  image = choose('Image', ('image', 'img'))
  label = choose('ClassLabel', ('label', 'labels', 'fine_label'))
  if image is None or label is None:
    expected = 'one column of type Image and one of type ClassLabel, or columns named image and label'
    raise DataError(
      'the data set is not labelled images', [Problem(where, f'columns {", ".join(names)}', expected)]
    )
  return image, label


def _type(feature: Any) -> str:
  """Returns the type of a feature, of a list's elements for a list."""
  if isinstance(feature, list):
    return _type(feature[0]) if feature else ''
  if not isinstance(feature, Mapping):
    return ''
  kind = feature.get('_type') or ''
  return _type(feature.get('feature')) if kind in _LISTS else kind


def _names(feature: Any) -> tuple[str, ...]:
  if isinstance(feature, list):
    return _names(feature[0]) if feature else ()
  if not isinstance(feature, Mapping):
    return ()
  return tuple(feature['names']) if 'names' in feature else _names(feature.get('feature'))


def _open_split(split: str, files: Sequence[pathlib.Path], *, where: str, multi_label: bool) -> Reader:
  first = _open_table(files[0], None)
  features = _features(files[0], first)
  columns = _columns(first, features, where)
  label = columns[1]
  tables = [_open_table(file, [label]) for file in files]
  values = [value for table in tables for value in table.column(label).to_pylist()]
  lists = bool(values) and isinstance(values[0], list)
  if lists != multi_label:
    expected = f'{lists}: column {label!r} holds {"lists" if lists else "one class each"}'
    raise DataError('labels of another form', [Problem(f'{where}.multi_label', str(multi_label), expected)])
  flat = [item for value in values for item in (value if lists else [value])]
  names = _names(features[label]) if label in features else ()
  if any(isinstance(item, str) for item in flat):
    names = names or tuple(sorted(set(flat)))
    ids = {name: number for number, name in enumerate(names)}
    values = [[ids[item] for item in value] if lists else ids[value] for value in values]
  elif not all(isinstance(item, int) for item in flat):
    raise DataError(
      'labels are missing', [Problem(where, f'column {label!r} with empty cells', 'a class id in each')]
    )
  if not lists:
    labels = np.array(values, np.int64)
  else:
    names = names or tuple(str(number) for number in range(max(flat, default=-1) + 1))
    labels = np.zeros((len(values), len(names)), np.uint8)
    for i, classes in enumerate(values):
      labels[i, classes] = 1
  name = f'{files[0].parent.name}/{split}'
  return ArrowReader(name, files, columns, labels, names, [table.num_rows for table in tables])
