"""What every family of data sets offers to `Source`: numbered records with a label, a name and a digest."""

from __future__ import annotations

import abc
import hashlib
import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np

from vitjax.errors import DataError, Problem

# Files looked at one by one when a source opens (existence, size). Beyond this many, an even sample of them.
MAX_STATS = 50_000
# The class id of an image; or uint8 [v], 1 for each of its classes, where it may have several.
Label = int | np.ndarray


class Reader(abc.ABC):
  """All records of one split, in a fixed order. Thread-safe and picklable (worker processes get a copy).

  Attributes:
    class_names: one name per class id, or () where the data do not say.
    notes: remarks for the reader of a log, such as files that were skipped.
  """

  class_names: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()

  @abc.abstractmethod
  def __len__(self) -> int:
    """Returns the number of records."""

  @abc.abstractmethod
  def read(self, i: int) -> tuple[np.ndarray | bytes, Label]:
    """Returns record i: uint8 [h, w, 3] or an encoded image, and the label.

    Raises:
      UnreadableError: the storage of this record is damaged.
    """

  @abc.abstractmethod
  def labels(self) -> np.ndarray:
    """Returns int64 [n], all labels; uint8 [n, v] where an image may have several classes.

    Reads every record where labels are stored beside the images.
    """

  @abc.abstractmethod
  def name_of(self, i: int) -> str:
    """Returns what error messages call record i: its file, or 'mnist5k[17]'."""

  def file_name(self, i: int) -> str:
    """Returns the name of the file that record i was made of, where that is kept; else what `name_of` says."""
    return self.name_of(i)

  @abc.abstractmethod
  def digest_parts(self) -> Iterator[bytes]:
    """Yields what identifies the data: cheap to compute, independent of where the data lie."""


class ArrayReader(Reader):
  """Records held in memory.

  Args:
    name: prefix of record names.
    images: uint8 [n, h, w] (grey) or [n, h, w, 3].
    labels: int [n].
    class_names: one per class.
    numbers: int [n], the record's number in the original data set; names records across splits.
  """

  def __init__(
    self, name: str, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], numbers: np.ndarray
  ):
    self._name = name
    self._images = images
    self._labels = labels.astype(np.int64)
    self._numbers = numbers
    self.class_names = tuple(class_names)

  def __len__(self) -> int:
    return len(self._labels)

  def read(self, i: int) -> tuple[np.ndarray, int]:
    image = self._images[i]
    return (np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image), int(self._labels[i])

  def labels(self) -> np.ndarray:
    return self._labels

  def name_of(self, i: int) -> str:
    return f'{self._name}[{self._numbers[i]}]'

  def digest_parts(self) -> Iterator[bytes]:
    yield hashlib.sha256(self._images.tobytes()).digest()
    yield self._labels.tobytes()


class ConcatReader(Reader):
  """The records of several readers in a row ('train+validation'). Their class names have to agree."""

  def __init__(self, readers: Sequence[Reader]):
    self._readers = tuple(readers)
    self._ends = np.cumsum([len(reader) for reader in readers])
    self.class_names = readers[0].class_names
    self.notes = tuple(dict.fromkeys(note for reader in readers for note in reader.notes))

  def _locate(self, i: int) -> tuple[Reader, int]:
    part = int(np.searchsorted(self._ends, i, side='right'))
    return self._readers[part], i - (int(self._ends[part - 1]) if part else 0)

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, i: int) -> tuple[np.ndarray | bytes, Label]:
    reader, j = self._locate(i)
    return reader.read(j)

  def labels(self) -> np.ndarray:
    return np.concatenate([reader.labels() for reader in self._readers])

  def name_of(self, i: int) -> str:
    reader, j = self._locate(i)
    return reader.name_of(j)

  def file_name(self, i: int) -> str:
    reader, j = self._locate(i)
    return reader.file_name(j)

  def digest_parts(self) -> Iterator[bytes]:
    for reader in self._readers:
      yield len(reader).to_bytes(8, 'little')
      yield from reader.digest_parts()


def as_label(value: np.ndarray) -> Label:
  """Returns one row of `labels()`: a number, or the array of an image with several classes."""
  return int(value) if value.ndim == 0 else value


def require(module: str, package: str, *, where: str) -> ModuleType:
  """Returns an imported optional module.

  Raises:
    DataError: it is not installed; the message names the package.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise DataError(
      'a package is missing', [Problem(where, '', f'the package {package}', f'pip install {package}')]
    ) from error


def unknown_split(where: str, name: str, known: Sequence[str], hint: str = '') -> DataError:
  """Returns the error for a split that the data set does not have."""
  return DataError(
    'the split does not exist', [Problem(f'{where}.split', repr(name), f'one of {", ".join(known)}', hint)]
  )


def spread(num_items: int, num_samples: int) -> np.ndarray:
  """Returns at most `num_samples` positions in [0, num_items), evenly spread, first and last among them."""
  return np.unique(np.linspace(0, max(num_items - 1, 0), min(num_samples, num_items)).astype(np.int64))
