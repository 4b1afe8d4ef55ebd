"""Batches for training and evaluation: Grain runs threads and workers, the order is f(seed, position).

Position p counts training examples from step 0 over all hosts: batch s holds positions s * batch_size
onwards, and a process makes its own block of rows. Which image stands at p, and how it is augmented, depends
on the seed and p alone. So the stream is the same for any number of hosts, threads and workers, and training
resumes at any step.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from concurrent import futures

import grain
import numpy as np
from absl import flags

from vitjax.config.naflex import NativePatches
from vitjax.config.schema import DataConfig, EvalConfig
from vitjax.data.decode import UnreadableError
from vitjax.data.examples import FATAL, Batch, EvalExamples, Examples, TrainExamples
from vitjax.data.folders import limited
from vitjax.data.naflex import check_native, training_transform
from vitjax.data.preprocess import Preprocess
from vitjax.data.sources import Source
from vitjax.data.workers import init_worker, start_workers
from vitjax.errors import ConfigError, DataError, Problem

log = logging.getLogger('vitjax')

# Training has no end of its own; this many steps are as good as endless, and products with batch sizes stay
# in int64.
_ENDLESS_STEPS = 1 << 40
# Bytes and examples that a thread makes at a stretch: Grain's bookkeeping per element, and handing Python's lock from
# thread to thread, cost as much as a small image.
_CHUNK_BYTES = 16 * 224 * 224 * 3
_CHUNK_SIZES = (16, 256)


def _chunk_size(config: DataConfig, shape: tuple[int, ...], local_size: int) -> int:
  """Returns how many examples a thread makes at a stretch: a divisor of `local_size`; every thread gets its share."""
  low, high = _CHUNK_SIZES
  most = min(max(_CHUNK_BYTES // math.prod(shape), low), high)
  most = min(most, local_size, max(local_size * config.prefetch // _num_threads(config), 1))
  return next(size for size in range(most, 0, -1) if local_size % size == 0)


def _num_threads(config: DataConfig) -> int:
  """Returns the threads of one process: as asked for, else one per core that it may use."""
  if config.num_threads is not None:
    return config.num_threads
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  return min(max(cores // max(config.num_workers, 1), 2), 16)


class Batches:
  """An iterator of batches that also keeps the book of unreadable records. Close it, or use it in a `with`.

  Unreadable records are found where they are read, in threads or worker processes, and reported along with
  the rows; the budget is kept here, in the process's main thread. It is kept per process.

  Attributes:
    num_batches: how many batches there are, None for endless training.
    corrupt: {source id: 'file: reason'} of the unreadable records met so far.
  """

  def __init__(
    self, examples: Examples, config: DataConfig, *, local_size: int, start_step: int, num_batches: int | None
  ):
    self.num_batches = num_batches
    self.corrupt: dict[int, str] = {}
    self._source = examples.source
    steps = _ENDLESS_STEPS if num_batches is None else num_batches
    chunks_per_step = local_size // examples.chunk_size
    chunks = grain.MapDataset.range(start_step * chunks_per_step, steps * chunks_per_step)
    self._iterator = iter(_parallel(chunks.map(examples), config, chunks_per_step))
    self._first = start_workers(self._iterator) if config.num_workers else None

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    """Returns the next batch.

    Raises:
      StopIteration: the evaluation split is finished.
      DataError: more unreadable records than max_corrupt, or a label out of range; all of them named.
    """
    if self._first is not None:
      first, self._first = self._first, None
      batch = first.result()
    else:
      batch = next(self._iterator)
    asked, skipped = batch.pop('asked'), batch.pop('skipped')
    if skipped.any():
      try:
        self._account(asked, skipped)
      except DataError:
        self.close()
        raise
    return batch

  def _account(self, asked: np.ndarray, skipped: np.ndarray) -> None:
    """Enters the skipped records into the book, and raises when that is too much."""
    for first, count in zip(asked[skipped != 0].tolist(), skipped[skipped != 0].tolist(), strict=True):
      if count == FATAL:
        self._source.load(first)  # raises what the worker met
        raise DataError(
          'a record cannot be used', [Problem(self._source.name_of(first), '', 'a label in range')]
        )
      for index in ((first + i) % len(self._source) for i in range(count)):
        if index not in self.corrupt:
          self.corrupt[index] = self._reason(index)
          found, budget = len(self.corrupt), self._source.max_corrupt
          log.warning(
            'unreadable record %d (%d of %d tolerated): %s', index, found, budget, self.corrupt[index]
          )
    if len(self.corrupt) > self._source.max_corrupt or len(self.corrupt) == len(self._source):
      raise self._over_budget()

  def _over_budget(self) -> DataError:
    records = [Problem(f'record {index}', reason) for index, reason in self.corrupt.items()]
    hint = 'Replace or remove the files above, or raise it'
    expected = 'at least the number of damaged records, and some readable ones'
    knob = Problem(f'{self._source.where}.max_corrupt', str(self._source.max_corrupt), expected, hint)
    return DataError(f'{len(records)} unreadable records of {len(self._source)}', [*limited(records), knob])

  def _reason(self, index: int) -> str:
    try:
      self._source.load(index)
    except UnreadableError as error:
      return f'{error.name}: {error.reason}'
    return f'{self._source.name_of(index)}: could not be read at first, later it could'

  def close(self) -> None:
    """Ends threads and worker processes; does nothing the second time."""
    if self._first is not None:
      futures.wait([self._first])
    self._iterator.close()

  def __enter__(self) -> Batches:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()


def _parallel(chunks: grain.MapDataset, config: DataConfig, chunks_per_step: int) -> grain.IterDataset:
  """Returns batches made by threads, or by worker processes with threads each. The result is the same."""
  if config.num_workers == 0:
    buffered = config.prefetch * chunks_per_step
    options = grain.ReadOptions(
      num_threads=min(_num_threads(config), buffered), prefetch_buffer_size=buffered
    )
    return chunks.to_iter_dataset(options).batch(chunks_per_step, batch_fn=_concatenate)
  # Grain hands absl's flags to its workers; outside app.run nobody has parsed them.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  # Workers take turns at whole batches, so their number does not show in the result.
  options = grain.ReadOptions(
    num_threads=min(_num_threads(config), config.prefetch), prefetch_buffer_size=config.prefetch
  )
  batches = chunks.batch(chunks_per_step, batch_fn=_concatenate).to_iter_dataset(options)
  return batches.mp_prefetch(
    grain.MultiprocessingOptions(num_workers=config.num_workers), worker_init_fn=init_worker
  )


def _concatenate(batches: Sequence[Batch]) -> Batch:
  if len(batches) == 1:
    return batches[0]
  return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def train_batches(
  config: DataConfig,
  source: Source,
  *,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  native: NativePatches | None = None,
) -> Batches:
  """Returns the endless stream of training batches from `start_step` on. Host-side; batches are local.

  A batch is {'image': uint8 [b, h, w, 3], 'label': int32 [b], 'index': int64 [b]} with b = batch_size /
  process_count ('image' is [b, *native.shape], patches, where images keep their aspect ratio; 'label' is [b, v], zeros
  and ones, where they have several classes); 'index' is the example's id in `source`. Stacking the processes' batches
  in rank order gives the global batch, the same for every process_count. Every run of len(source) positions holds each
  example once; batches run across the ends of epochs. A damaged record is replaced by the next readable one of the
  source, up to `max_corrupt` of them.

  Args:
    config: sizes, augmentation, threads. config.source is not looked at.
    source: from open_source.
    seed: of order and augmentation.
    start_step: the first step to make; the stream continues as if the steps before it had been taken.
    process_index: this process's rank, in [0, process_count).
    process_count: processes that share the global batch.
    native: config.max_tokens with the model's patch size; None without max_tokens.

  Raises:
    ConfigError: batch_size is not divisible by process_count, ranges are empty, or max_tokens comes without native.
  """
  local_size = _local_size('data', config.batch_size, process_index, process_count)
  problems = [
    Problem(f'data.{name}', str((low, high)), 'the smaller number first')
    for name, (low, high) in (('crop_area', config.crop_area), ('crop_ratio', config.crop_ratio))
    if low > high
  ]
  if problems:
    raise ConfigError('the augmentation is not consistent', problems)
  augment = training_transform(config, native)
  examples = TrainExamples(
    source,
    augment,
    seed=seed,
    shuffle=config.shuffle,
    batch_size=config.batch_size,
    process_index=process_index,
    process_count=process_count,
    chunk_size=_chunk_size(config, augment.shape, local_size),
  )
  return Batches(examples, config, local_size=local_size, start_step=start_step, num_batches=None)


def eval_batches(
  config: EvalConfig,
  data: DataConfig,
  source: Source,
  *,
  process_index: int = 0,
  process_count: int = 1,
  native: NativePatches | None = None,
) -> Batches:
  """Returns one pass over `source`, every example once, the same number of batches on every process.

  A batch is {'image', 'label', 'index'} as in training, plus 'weight': float32 [b], 1 for an example, 0 for
  padding (index -1) and for damaged records that `max_corrupt` of the source tolerates (they are counted in
  `corrupt`, not
  replaced: no example may count twice).

  Args:
    config: batch size and resize_short.
    data: image size, interpolation, threads.
    source: the evaluation split, from open_source.
    process_index: this process's rank.
    process_count: processes that share each batch.
    native: as for `train_batches`.

  Raises:
    ConfigError: batch_size is not divisible by process_count, or the preprocessing is not consistent.
  """
  local_size = _local_size('evals', config.batch_size, process_index, process_count)
  check_native(data, native)
  preprocess = Preprocess.from_config(data, resize_short=config.resize_short, native=native)
  examples = EvalExamples(
    source,
    preprocess,
    batch_size=config.batch_size,
    process_index=process_index,
    process_count=process_count,
    chunk_size=_chunk_size(data, preprocess.shape, local_size),
  )
  num_batches = math.ceil(len(source) / config.batch_size)
  return Batches(examples, data, local_size=local_size, start_step=0, num_batches=num_batches)


def _local_size(where: str, batch_size: int, process_index: int, process_count: int) -> int:
  if batch_size % process_count:
    expected = f'a multiple of the {process_count} processes'
    raise ConfigError(
      'the batch does not divide', [Problem(f'{where}.batch_size', str(batch_size), expected)]
    )
  if not 0 <= process_index < process_count:
    raise ValueError(f'process_index {process_index} is not in [0, {process_count})')
  return batch_size // process_count
