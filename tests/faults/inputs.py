"""E. Bad input."""

from __future__ import annotations

import os
import pathlib
import random
import re
import struct
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from faults import makers, runs
from faults.registry import Outcome, case
from faults.runs import Job

from vitjax.config.schema import DataConfig, SourceConfig
from vitjax.data import open_source, train_batches, write_array_record
from vitjax.data.decode import UnreadableError, decode_image
from vitjax.data.records import encode_example
from vitjax.data.shards import masked_crc32c
from vitjax.errors import DataError, VitjaxError


@case(
  38,
  'E',
  'odd and damaged image files',
  'the right pixels, or an error with the file name; no crash',
  full=1,
  slow=0,
  quick=1,
)
def odd_images(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count, folder
  outcome, sound, damaged = Outcome(), makers.sound_images(), makers.damaged_images()
  for name, (data, size) in sound.items():
    try:
      pixels = decode_image(data, name=name)
      outcome.count(
        '' if (pixels.dtype, pixels.shape) == (np.uint8, (*size, 3)) else f'{name}: {pixels.shape}'
      )
    except UnreadableError as error:
      outcome.count(f'{name}: {error}')
  for name, (data, reason) in damaged.items():
    try:
      decode_image(data, name=name)
      outcome.count(f'{name}: decoded')
    except UnreadableError as error:
      outcome.count('' if name in str(error) and reason in error.reason else f'{name}: {error}')
  outcome.figure = f'{len(sound)} odd ones read, {len(damaged)} damaged ones refused by name'
  return outcome


def _records(folder: pathlib.Path, total: int, damaged: set[int]) -> Callable[[int], object]:
  """Writes records of which some are damaged; returns a function that opens them with a budget."""
  tools = makers.unit_module('data/conftest')
  images = [tools.encode(tools.photo(i % 7), 'JPEG') for i in range(total)]
  images = [data[:300] if i in damaged else data for i, data in enumerate(images)]
  write_array_record(folder, [(data, i % 2) for i, data in enumerate(images)], class_names=('a', 'b'))
  return lambda budget: open_source(SourceConfig(kind='array_record', path=str(folder), max_corrupt=budget))


def _epoch(source: object, total: int) -> dict[int, str]:
  """Reads an epoch of training batches; returns the book of unreadable records."""
  config = DataConfig(batch_size=20, image_size=(8, 8), num_threads=2)
  with train_batches(config, source, seed=0) as batches:
    for _ in range(total // 20):
      next(batches)
    return dict(batches.corrupt)


@case(39, 'E', '1 % and 100 % damaged records', 'counted, ids named; stops over the budget', full=5, slow=1)
def damaged_records(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, total = Outcome(), 400
  for i in range(count):
    bad = set(rng.sample(range(total), total // 100))
    source = _records(folder / f'{i}', total, bad)
    found = _epoch(source(len(bad)), total)
    # A damaged record that a shuffled epoch meets is replaced by its successor.
    outcome.count('' if set(found) == bad else f'found {sorted(found)} of {sorted(bad)}')
    outcome.count(_refusal(lambda: _epoch(source(len(bad) - 1), total), 'unreadable records'))  # noqa: B023
  source = _records(folder / 'all', 60, set(range(60)))
  outcome.count(_refusal(lambda: _epoch(source(1000), 60), 'unreadable records'))
  outcome.figure = f'{total // 100} of {total}: all named; budget of one less, and all damaged: stopped'
  return outcome


def _refusal(action: Callable[[], object], *parts: str) -> str:
  """Returns '' where `action` raises a VitjaxError that holds all parts."""
  try:
    action()
  except VitjaxError as error:
    missing = [part for part in parts if part not in str(error)]
    return f'{missing} not in: {error}' if missing else ''
  return 'accepted'


@case(40, 'E', 'pixel bombs', 'refused before decoding, in bounded memory', full=1, slow=1)
def pixel_bombs(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count, folder
  outcome, peaks, sizes = Outcome(), [], []
  for side in (14_000, 20_000):
    data = makers.unit_module('data/test_decode').png_of_size(side, side)
    sizes.append(f'{len(data) / 1e3:.0f} kB -> {side**2 / 1e6:.0f} megapixels')
    tracemalloc.start()
    fault = _refusal(lambda: decode_image(data, name='bomb.png'), 'bomb.png', 'pixel')  # noqa: B023
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    outcome.count(fault or ('' if peaks[-1] < 5e6 else f'{peaks[-1] / 1e6:.0f} MB'))
  outcome.figure = f'{", ".join(sizes)}; peak {max(peaks) / 1e6:.1f} MB'
  return outcome


@case(41, 'E', 'label out of range, class without images', 'the record or class is named', full=20, slow=3)
def wrong_labels(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, tools = Outcome(figure='records, manifests and folders'), makers.unit_module('data/conftest')
  image = tools.encode(tools.photo(1))
  for i in range(count):
    bad, where = rng.choice([-1, 3, 1000]), rng.randrange(10)
    labels = [bad if j == where else j % 3 for j in range(10)]
    write_array_record(folder / f'records{i}', [(image, label) for label in labels])
    source = open_source(SourceConfig(kind='array_record', path=str(folder / f'records{i}'), num_classes=3))
    outcome.count(_refusal(lambda: source.labels(), f'array_record[{where}]', f'label {bad}'))  # noqa: B023
  for name in ('cat', 'dog'):
    (folder / 'images' / name).mkdir(parents=True)
  (folder / 'images' / 'cat' / 'a.png').write_bytes(image)
  config = SourceConfig(kind='image_folder', path=str(folder / 'images'))
  outcome.count(_refusal(lambda: open_source(config), 'dog'))
  (folder / 'images' / 'list.csv').write_text('path,label\ncat/a.png,cat\ncat/a.png,\n')
  listed = SourceConfig(kind='manifest', path=str(folder / 'images' / 'list.csv'))
  outcome.count(_refusal(lambda: open_source(listed), 'list.csv'))
  return outcome


@case(42, 'E', 'corrupt ArrayRecord and TFRecord shards', 'the shard is named', full=30, slow=6)
def corrupt_shards(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, tools = Outcome(), makers.unit_module('data/conftest')
  examples = [(tools.encode(tools.photo(i)), i % 2) for i in range(12)]
  for i in range(count):
    here = folder / f'{i}'
    here.mkdir()
    if i % 2:
      write_array_record(here, examples, num_shards=3, class_names=('a', 'b'))
    else:
      for shard in range(3):
        records = [encode_example(*example) for example in examples[shard::3]]
        _write_tfrecord(here / f'x-train.tfrecord-0000{shard}-of-00003', records)
    victim = rng.choice(
      sorted(file for file in here.iterdir() if 'record-' in file.name or '-of-' in file.name)
    )
    how = ('cut', 'garbage', 'flipped', 'deleted')[i // 2 % 4]
    data = bytearray(victim.read_bytes())
    at = len(data) // 2
    if how == 'flipped':
      data[max(data.find(image[60:100]) for image, _ in examples)] ^= 0xFF
    victim.write_bytes({'cut': data[:at], 'garbage': b'damaged' * 999, 'flipped': data, 'deleted': data}[how])
    if how == 'deleted':
      victim.unlink()
    config = SourceConfig(kind='array_record' if i % 2 else 'tfrecord', path=str(here), num_classes=2)
    shard = re.search(r'-(\d{5})-of-', victim.name)
    named = f'shard {int(shard[1])}' if how == 'deleted' and shard else victim.name
    outcome.count(_refusal(lambda: _read_all(config), named))  # noqa: B023
  outcome.figure = 'cut, overwritten, one byte flipped, deleted'
  return outcome


def _read_all(config: SourceConfig) -> None:
  source = open_source(config)
  problems = []
  for i in range(len(source)):
    try:
      source.load(i)
    except UnreadableError as error:
      problems.append(error)
  if problems:
    raise DataError(str(problems[0]))


def _write_tfrecord(path: pathlib.Path, records: list[bytes]) -> None:
  with path.open('wb') as file:
    for record in records:
      length = struct.pack('<Q', len(record))
      file.write(length + struct.pack('<I', masked_crc32c(length)))
      file.write(record + struct.pack('<I', masked_crc32c(record)))


@case(43, 'E', 'an input worker killed', 'the run ends within seconds, no hang', full=3, slow=0)
def killed_worker(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  outcome, seconds = Outcome(), []
  for i in range(count):
    job = Job(
      folder / f'run{i}', {'data.num_workers': 2, 'total': '100000 steps', 'checkpoint.every': '1000 steps'}
    )
    if not job.wait_for_step(5):
      outcome.count(f'did not start: {job.text()[-300:]}')
      job.kill_group()
      continue
    victim = rng.choice(runs.children(job.pid))
    began_s = time.monotonic()
    os.kill(victim, 9)
    code = job.wait(60)
    seconds.append(time.monotonic() - began_s)
    outcome.count('' if code not in (0, None) else f'exit code {code}: {job.text()[-300:]}')
    job.kill_group()
  outcome.figure = f'ended within {max(seconds, default=0):.1f} s, exit code {code}'
  return outcome


@case(44, 'E', 'the data set changed between runs', 'refused, with both fingerprints', full=1, slow=0)
def changed_data(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count
  import shutil

  from faults.crash import reference

  workdir, outcome = folder / 'run', Outcome(figure='more examples, other pixels, other classes')
  shutil.copytree(reference()[0], workdir)
  for knobs in (
    {'data.source.num_examples': 104},
    {
      f'{where}.{name}': value
      for where in ('data.source', 'evals.val.source')
      for name, value in {
        'kind': 'digits',
        'num_examples': 64,
        'num_classes': None,
        'split': 'train[:96]',
      }.items()
    },
    {'data.source.num_classes': 9, 'evals.val.source.num_classes': 9, 'model.num_classes': 10},
  ):
    job = Job(workdir, knobs)
    code, wanted = job.wait(), 'the training data changed since this run was started'
    outcome.count('' if code == 2 and wanted in job.text() else f'exit code {code}: {job.text()[-300:]}')
    job.log.unlink()
  return outcome
