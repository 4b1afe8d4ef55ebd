"""Shards: files of numbered byte records (ArrayRecord, TFRecord), one by one or all those of a split in a folder."""

from __future__ import annotations

import abc
import mmap
import pathlib
import re
import struct
import threading
from collections.abc import Sequence

import numpy as np

from vitjax.data.folders import limited
from vitjax.data.readers import require, unknown_split
from vitjax.errors import DataError, Problem

# 'train-00000-of-00002.array_record', 'mnist-train.tfrecord-00000-of-00001', 'test.tfrecord'
_SHARD_NAME = re.compile(
  r'(?:.*-)?(?P<split>[A-Za-z]\w*?)(?:-(?P<i>\d+)-of-(?P<n>\d+))?'
  r'\.(?:array_record|tfrecord)s?(?:-(?P<i2>\d+)-of-(?P<n2>\d+))?'
)


class Shard(abc.ABC):
  """One file of numbered byte records. Thread-safe, picklable, opened on first use."""

  def __init__(self, path: str, num_records: int | None = None):
    self.path = path
    self._num_records = num_records

  @property
  def num_records(self) -> int:
    """Returns the number of records; raises ValueError or OSError when the file cannot be opened."""
    if self._num_records is None:
      self._num_records = self._count()
    return self._num_records

  @abc.abstractmethod
  def _count(self) -> int: ...

  @abc.abstractmethod
  def read(self, i: int) -> bytes:
    """Returns record i. Raises OSError, ValueError or the library's own error when the file is damaged."""


class ArrayRecordShard(Shard):
  """An ArrayRecord file; its chunks carry checksums, so damage is noticed."""

  def __init__(self, path: str, num_records: int | None = None):
    super().__init__(path, num_records)
    self._reader = None

  def _open(self):
    if self._reader is None:
      module = require('array_record.python.array_record_data_source', 'array-record', where=self.path)
      self._reader = module.ArrayRecordDataSource([self.path])
    return self._reader

  def _count(self) -> int:
    return len(self._open())

  def read(self, i: int) -> bytes:
    return self._open()[i]

  def __getstate__(self) -> dict[str, object]:
    return {**self.__dict__, '_reader': None}


class TFRecordShard(Shard):
  """A TFRecord file, indexed by one pass over its record headers.

  A record is its length (uint64), the masked CRC-32C of the length, the data, and the masked CRC-32C of the
  data. The first checksum is verified for every record; the second is not (the image decoder sees most damage
  in the data).
  """

  def __init__(self, path: str, num_records: int | None = None):
    super().__init__(path)
    self._expected = num_records
    self._offsets: np.ndarray | None = None
    self._data: mmap.mmap | None = None
    self._lock = threading.Lock()

  def _count(self) -> int:
    return len(self._index()) - 1

  def _index(self) -> np.ndarray:
    """Returns int64 [records + 1], where each record starts, and the end of the file."""
    with self._lock:
      if self._data is None:
        with pathlib.Path(self.path).open('rb') as file:
          # ValueError when the file is empty.
          self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
      if self._offsets is None:
        self._offsets = _tfrecord_offsets(self._data)
        if self._expected is not None and len(self._offsets) - 1 != self._expected:
          raise ValueError(
            f'{len(self._offsets) - 1} records, not the {self._expected} that dataset_info.json lists'
          )
      return self._offsets

  def read(self, i: int) -> bytes:
    offsets = self._index()
    assert self._data is not None
    return self._data[offsets[i] + 12 : offsets[i + 1] - 4]

  def __getstate__(self) -> dict[str, object]:
    return {**self.__dict__, '_data': None, '_lock': None}

  def __setstate__(self, state: dict[str, object]) -> None:
    vars(self).update(state)
    self._lock = threading.Lock()


def _tfrecord_offsets(data: mmap.mmap) -> np.ndarray:
  offsets, position, end = [], 0, len(data)
  while position < end:
    if position + 16 > end:
      raise ValueError(f'truncated within record {len(offsets)}')
    length, checksum = struct.unpack_from('<QI', data, position)
    if masked_crc32c(data[position : position + 8]) != checksum:
      raise ValueError(f'the header of record {len(offsets)} at byte {position} fails its checksum')
    offsets.append(position)
    position += 16 + length
  if position != end:
    raise ValueError(f'truncated within record {len(offsets) - 1}')
  return np.array([*offsets, end], np.int64)


def _crc32c_table() -> tuple[int, ...]:
  table = []
  for value in range(256):
    for _ in range(8):
      value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    table.append(value)
  return tuple(table)


_CRC32C = _crc32c_table()


def masked_crc32c(data: bytes) -> int:
  """Returns the checksum of TFRecord files, uint32: CRC-32C (Castagnoli), rotated, plus a constant."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
  crc ^= 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def make_shards(kind: str, paths: Sequence[str], lengths: Sequence[int] | None = None) -> list[Shard]:
  """Returns the shards of 'array_record' or 'tfrecord' files that hold records, each opened once.

  Raises:
    DataError: naming every file that is missing or damaged; or no file holds any record.
  """
  make = {'array_record': ArrayRecordShard, 'tfrecord': TFRecordShard}[kind]
  shards, problems = [], []
  for i, path in enumerate(paths):
    shard = make(path, None if lengths is None else lengths[i])
    try:
      if not pathlib.Path(path).is_file():
        raise OSError('no such file')
      if not shard.num_records:
        continue  # a shard may be empty; a data set may not, see below
      shards.append(shard)
    except DataError:
      raise
    except Exception as error:  # noqa: BLE001 - array_record has its own error types
      reason = str(error).strip().split('\n')[0]
      problems.append(Problem(path, reason, f'a readable {kind} file', 'Copy or prepare the data set again'))
  if problems:
    raise DataError('shards cannot be read', limited(problems))
  if not shards:
    raise DataError('no records', [Problem(', '.join(paths[:3]), '0 records', 'at least one')])
  return shards


def record_splits(kind: str, folder: pathlib.Path) -> tuple[str, ...]:
  """Returns the splits that have shards in a folder."""
  return tuple(_shards(kind, folder))


def _shards(kind: str, folder: pathlib.Path) -> dict[str, list[tuple[int, int, str]]]:
  """Returns (number, how many, file) of every shard, by split."""
  by_split: dict[str, list[tuple[int, int, str]]] = {}
  for file in sorted(folder.iterdir()):
    match = _SHARD_NAME.fullmatch(file.name) if kind in file.name else None
    if match:
      number, total = int(match['i'] or match['i2'] or 0), int(match['n'] or match['n2'] or 1)
      by_split.setdefault(match['split'], []).append((number, total, str(file)))
  return by_split


def shards_of_split(kind: str, folder: pathlib.Path, split: str, *, where: str) -> list[str]:
  """Returns the shard files of one split, complete and in order."""
  by_split = _shards(kind, folder)
  if not by_split:
    hint = f'Shards are named like train-00000-of-00002.{kind}; other names can be given as a glob'
    raise DataError('no shards', [Problem(str(folder), f'no {kind} files', 'at least one', hint)])
  if split != 'all' and split not in by_split:
    raise unknown_split(where, split, (*by_split, 'all'))
  problems, paths = [], []
  for name, shards in by_split.items() if split == 'all' else [(split, by_split[split])]:
    total = max(total for _, total, _ in shards)
    missing = sorted(set(range(total)) - {number for number, _, _ in shards})
    problems += [
      Problem(str(folder), f'shard {number} of {total} of split {name!r} is missing', 'all shards')
      for number in missing
    ]
    paths += [path for _, _, path in sorted(shards)]
  if problems:
    raise DataError('shards are missing', limited(problems))
  return paths
