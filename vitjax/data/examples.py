"""The rows that a process makes of its share of the stream; a damaged record is replaced, or reported in its row."""

from __future__ import annotations

import abc

import numpy as np

from vitjax.data.decode import UnreadableError
from vitjax.data.naflex import NativeAugment
from vitjax.data.order import source_index
from vitjax.data.preprocess import Preprocess
from vitjax.data.readers import Label
from vitjax.data.sources import Source
from vitjax.data.transforms import Augment, example_rng
from vitjax.errors import DataError

Batch = dict[str, np.ndarray]
_Row = dict[str, Label]

_DTYPES = {
  'label': np.int32,
  'index': np.int64,
  'asked': np.int64,
  'skipped': np.int64,
  'weight': np.float32,
}
# In a row's `skipped`: something that no budget covers, such as a label out of range.
FATAL = -1


class Examples(abc.ABC):
  """Makes the rows of this process. Picklable, for workers; a bad record is reported in its row.

  Beside what a batch holds, a row says 'asked', the record that was to stand there, and 'skipped', how many records
  from that one on were damaged; or FATAL, when the record in 'asked' cannot be used whatever the budget.
  """

  def __init__(
    self,
    source: Source,
    *,
    shape: tuple[int, ...],
    batch_size: int,
    process_index: int,
    process_count: int,
    chunk_size: int,
  ):
    self.source = source
    self._shape = shape
    self._batch_size = batch_size
    self._process_index = process_index
    self._local_size = batch_size // process_count
    self.chunk_size = chunk_size

  def __call__(self, chunk: int) -> Batch:
    """Returns `chunk_size` neighbouring rows of this process's stream, stacked."""
    step, row = divmod(int(chunk) * self.chunk_size, self._local_size)
    first = step * self._batch_size + self._process_index * self._local_size + row
    images = np.empty((self.chunk_size, *self._shape), np.uint8)
    rows = [self.make(first + i, images[i]) for i in range(self.chunk_size)]
    columns = {
      name: np.array([row[name] for row in rows], dtype) for name, dtype in _DTYPES.items() if name in rows[0]
    }
    return {'image': images, **columns}

  @abc.abstractmethod
  def make(self, position: int, out: np.ndarray) -> _Row:
    """Writes the image at a global position to `out`; returns the rest of the row, `asked` and `skipped` too."""


class TrainExamples(Examples):
  """Example p: image order(p), augmented with generator (seed, p)."""

  def __init__(
    self, source: Source, augment: Augment | NativeAugment, *, seed: int, shuffle: bool, **layout: int
  ):
    super().__init__(source, shape=augment.shape, **layout)
    self._augment = augment
    self._seed = seed
    self._shuffle = shuffle

  def make(self, position: int, out: np.ndarray) -> _Row:
    asked = source_index(position, len(self.source), seed=self._seed, shuffle=self._shuffle)
    candidates = min(self.source.max_corrupt + 1, len(self.source))
    # Damaged records are not remembered: whether damage shows may depend on the crop, and example p may not depend
    # on what this process met before.
    for skipped in range(candidates):
      index = (asked + skipped) % len(self.source)
      try:
        record = self.source[index]
        self._augment(record['image'], example_rng(self._seed, position), out=out)
        return _row(record['label'], index, asked, skipped)
      except UnreadableError:
        continue
      except DataError:
        out[:] = 0
        return _row(self.source.no_label, index, index, FATAL)
    out[:] = 0
    return _row(self.source.no_label, (asked + candidates) % len(self.source), asked, candidates)


class EvalExamples(Examples):
  """Example p of the split, without randomness; weight 0 beyond the end and for damaged ones."""

  def __init__(self, source: Source, preprocess: Preprocess, **layout: int):
    super().__init__(source, shape=preprocess.shape, **layout)
    self._preprocess = preprocess

  def make(self, position: int, out: np.ndarray) -> _Row:
    index, skipped = position, 0
    if position >= len(self.source):
      index = -1
    else:
      try:
        image, label = self.source.load(position)
        out[:] = self._preprocess(image)
        return {**_row(label, position, position, 0), 'weight': 1}
      except UnreadableError:
        skipped = 1
      except DataError:
        skipped = FATAL
    out[:] = 0
    return {**_row(self.source.no_label, index, index, skipped), 'weight': 0}


def _row(label: Label, index: int, asked: int, skipped: int) -> _Row:
  return {'label': label, 'index': index, 'asked': asked, 'skipped': skipped}
