"""The stream of batches is one function of (seed, position): checked over processes, threads, workers and restarts."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from vitjax.config.schema import DataConfig, EvalConfig, SourceConfig
from vitjax.data import eval_batches, open_source, train_batches, workers, write_array_record
from vitjax.errors import ConfigError, DataError

CONFIG = DataConfig(batch_size=24, image_size=(16, 16), num_threads=2)


@pytest.fixture(scope='module')
def source():
  return open_source(SourceConfig(kind='synthetic', num_examples=50, num_classes=5))


def knobs(**changes):
  return DataConfig(**({'batch_size': 24, 'image_size': (16, 16), 'num_threads': 2} | changes))


def take(source, count, config=CONFIG, **options):
  with train_batches(config, source, **({'seed': 0} | options)) as batches:
    return [next(batches) for _ in range(count)]


def assert_same(batches, others):
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_fields_shapes_and_dtypes(source):
  (batch,) = take(source, 1)
  assert {name: (array.dtype.name, array.shape) for name, array in batch.items()} == {
    'image': ('uint8', (24, 16, 16, 3)),
    'label': ('int32', (24,)),
    'index': ('int64', (24,)),
  }
  np.testing.assert_array_equal(batch['label'], batch['index'] % 5)


@pytest.mark.parametrize('process_count', [2, 3, 4])
def test_processes_make_row_blocks_of_the_same_batches(source, process_count):
  whole = take(source, 5)
  parts = [take(source, 5, process_index=i, process_count=process_count) for i in range(process_count)]
  joined = [
    {name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]} for step in range(5)
  ]
  assert parts[0][0]['image'].shape[0] == 24 // process_count
  assert_same(whole, joined)


@pytest.mark.parametrize('changes', [{'num_threads': 1}, {'num_threads': 7, 'prefetch': 5}, {'prefetch': 1}])
def test_threads_do_not_show(source, changes):
  assert_same(take(source, 6), take(source, 6, knobs(**changes)))


@pytest.mark.parametrize('start', [1, 2, 5])
@pytest.mark.parametrize('process_count', [1, 2])
def test_resuming_equals_never_stopping(source, start, process_count):
  rank = {'process_index': process_count - 1, 'process_count': process_count}
  assert_same(take(source, 7, **rank)[start:], take(source, 7 - start, start_step=start, **rank))


def test_resuming_far_into_a_run_is_immediate(source):
  began = time.monotonic()
  assert_same(take(source, 1, start_step=10**9), take(source, 1, start_step=10**9))
  assert time.monotonic() - began < 20


def test_every_epoch_holds_each_example_once_in_a_new_order(source):
  index = np.concatenate([batch['index'] for batch in take(source, 25)])  # 600 positions: 12 epochs of 50
  epochs = index.reshape(12, 50)
  for epoch in epochs:
    assert sorted(epoch) == list(range(50))
  assert len({tuple(epoch) for epoch in epochs}) == 12
  assert tuple(epochs[0]) != tuple(range(50))
  unshuffled = np.concatenate([batch['index'] for batch in take(source, 25, knobs(shuffle=False))])
  np.testing.assert_array_equal(unshuffled, np.tile(np.arange(50), 12))


def test_seeds_differ_in_order_and_augmentation(source):
  (one,), (other,) = take(source, 1), take(source, 1, seed=1)
  assert not np.array_equal(one['index'], other['index'])
  (still,), (moved,) = (take(source, 1, knobs(shuffle=False), seed=seed) for seed in (0, 1))
  np.testing.assert_array_equal(still['index'], moved['index'])
  assert not np.array_equal(still['image'], moved['image'])


def test_an_example_is_augmented_anew_each_epoch(source):
  batches = take(source, 2, knobs(shuffle=False, batch_size=50))
  np.testing.assert_array_equal(batches[0]['index'], batches[1]['index'])
  assert (batches[0]['image'] != batches[1]['image']).any(axis=(1, 2, 3)).all()


def test_batches_larger_than_the_source(source):
  few = open_source(SourceConfig(kind='synthetic', num_examples=7))
  (batch,) = take(few, 1, knobs(batch_size=70))
  assert np.bincount(batch['index']).tolist() == [10] * 7
  one = open_source(SourceConfig(kind='synthetic', num_examples=1))
  assert take(one, 2)[1]['index'].tolist() == [0] * 24


def test_threads_end_with_close(source):
  before = set(threading.enumerate())
  batches = train_batches(CONFIG, source, seed=0)
  next(batches)
  own = set(threading.enumerate()) - before
  assert own
  batches.close()
  batches.close()
  for thread in own:
    thread.join(timeout=10)
  assert not any(thread.is_alive() for thread in own)


def test_indivisible_batches_are_refused(source):
  with pytest.raises(ConfigError, match=r'data\.batch_size = 24: expected a multiple of the 5 processes'):
    train_batches(CONFIG, source, seed=0, process_count=5)
  with pytest.raises(ConfigError, match=r'evals\.batch_size = 96'):
    eval_batches(EvalConfig(batch_size=96), CONFIG, source, process_count=5)
  with pytest.raises(ConfigError, match='crop_area') as caught:
    train_batches(knobs(crop_area=(0.9, 0.1), crop_ratio=(2.0, 1.0)), source, seed=0)
  assert len(caught.value.problems) == 2


@pytest.mark.parametrize('process_count', [1, 4])
def test_evaluation_counts_1000_examples_exactly_once(process_count):
  source = open_source(SourceConfig(split='test'))
  streams = []
  for rank in range(process_count):
    with eval_batches(
      EvalConfig(batch_size=96),
      knobs(image_size=(28, 28)),
      source,
      process_index=rank,
      process_count=process_count,
    ) as batches:
      streams.append(list(batches))
      assert batches.num_batches == len(streams[-1]) == 11
  rows = {
    name: np.concatenate([batch[name] for stream in streams for batch in stream]) for name in streams[0][0]
  }
  assert rows['weight'].sum() == 1000
  assert sorted(rows['index'][rows['weight'] == 1]) == list(range(1000))
  assert set(rows['index'][rows['weight'] == 0]) == {-1}
  assert len(rows['weight']) == 11 * 96
  np.testing.assert_array_equal(
    rows['label'][rows['weight'] == 1], source.labels()[rows['index'][rows['weight'] == 1]]
  )
  # The first process's first row is the first example, unaugmented.
  np.testing.assert_array_equal(streams[0][0]['image'][0], source[0]['image'])
  assert streams[0][0]['weight'].dtype == np.float32


def test_evaluation_prepares_images_like_preprocess(image_folder):
  from vitjax.data import Preprocess

  source = open_source(SourceConfig(kind='image_folder', path=str(image_folder)))
  config = EvalConfig(batch_size=5, resize_short=20)
  with eval_batches(config, CONFIG, source) as batches:
    images = np.concatenate([batch['image'] for batch in batches])
  preprocess = Preprocess(image_size=(16, 16), resize_short=20)
  for i in range(12):
    np.testing.assert_array_equal(images[i], preprocess(source.name_of(i)))
  assert images[12:].max() == 0


@pytest.fixture
def damaged(tmp_path, tools):
  """Returns a function that opens 20 images of which 4, 5 and 11 are damaged, with a given budget."""
  folder = tmp_path / 'records'
  images = [tools.encode(tools.photo(i), 'JPEG') for i in range(20)]
  for i in (4, 5, 11):
    images[i] = images[i][:400]
  write_array_record(folder, [(image, i % 2) for i, image in enumerate(images)], class_names=('a', 'b'))

  def open_damaged(max_corrupt):
    return open_source(SourceConfig(kind='array_record', path=str(folder), max_corrupt=max_corrupt))

  return open_damaged


def test_damaged_records_within_the_budget_are_replaced_by_the_next(damaged):
  config = knobs(shuffle=False, batch_size=20, crop='resize', flip=False)
  with train_batches(config, damaged(3), seed=0) as batches:
    first, second = next(batches), next(batches)
    corrupt = dict(batches.corrupt)
  expected = list(range(20))
  expected[4], expected[5], expected[11] = 6, 6, 12
  assert first['index'].tolist() == second['index'].tolist() == expected
  assert first['label'].tolist() == [i % 2 for i in expected]
  np.testing.assert_array_equal(first['image'][4], first['image'][6])
  assert set(corrupt) == {4, 5, 11}
  assert 'train-00000-of-00001.array_record[11]: OSError' in corrupt[11]


@pytest.mark.parametrize('budget', [0, 1, 2])
def test_over_the_budget_all_damaged_records_are_named(damaged, budget):
  with (
    train_batches(knobs(batch_size=20), damaged(budget), seed=0) as batches,
    pytest.raises(DataError) as caught,
  ):
    next(batches)
  text = str(caught.value)
  assert '3 unreadable records' in text
  for i in (4, 5, 11):
    assert f'record {i} = ' in text
    assert f'array_record[{i}]' in text
  assert f'data.source.max_corrupt = {budget}' in text


@pytest.mark.parametrize('process_count', [1, 2])
def test_replacement_depends_on_the_index_alone(damaged, process_count):
  whole = take(damaged(3), 3, knobs(num_threads=1))
  parts = [take(damaged(3), 3, process_index=i, process_count=process_count) for i in range(process_count)]
  assert_same(
    whole,
    [{name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]} for step in range(3)],
  )
  assert_same(whole[2:], take(damaged(3), 1, start_step=2))


def test_all_records_damaged_stops_at_once(tmp_path, tools):
  write_array_record(
    tmp_path, [(tools.encode(tools.photo(i))[:50], 0) for i in range(30)], class_names=('a',)
  )
  source = open_source(SourceConfig(kind='array_record', path=str(tmp_path), max_corrupt=10))
  with train_batches(CONFIG, source, seed=0) as batches, pytest.raises(DataError, match='unreadable records'):
    next(batches)
  source = open_source(SourceConfig(kind='array_record', path=str(tmp_path), max_corrupt=1000))
  with train_batches(CONFIG, source, seed=0) as batches, pytest.raises(DataError, match='unreadable records'):
    next(batches)


def test_evaluation_gives_damaged_records_no_weight(damaged):
  with eval_batches(EvalConfig(batch_size=8), CONFIG, damaged(3)) as batches:
    rows = list(batches)
    assert set(batches.corrupt) == {4, 5, 11}
  weight = np.concatenate([batch['weight'] for batch in rows])
  assert np.flatnonzero(weight == 0).tolist() == [4, 5, 11, 20, 21, 22, 23]
  with (
    eval_batches(EvalConfig(batch_size=8), CONFIG, damaged(0)) as batches,
    pytest.raises(DataError) as caught,
  ):
    list(batches)
  assert 'array_record[4]' in str(caught.value)


def test_a_label_out_of_range_behind_a_damaged_record_is_the_one_that_is_named(tmp_path, tools):
  images = [tools.photo(0), b'\xff\xd8 broken', tools.photo(2), tools.photo(3)]
  write_array_record(tmp_path, [(image, label) for image, label in zip(images, (0, 1, 7, 1), strict=True)])
  config = SourceConfig(kind='array_record', path=str(tmp_path), num_classes=2, max_corrupt=3)
  with pytest.raises(DataError, match=r'array_record\[2\] = label 7'):
    take(open_source(config), 1, knobs(batch_size=2, shuffle=False))


def test_a_label_out_of_range_stops_whatever_the_budget(tmp_path, tools):
  write_array_record(tmp_path, [(tools.photo(i), i) for i in range(4)])
  source = open_source(SourceConfig(kind='array_record', path=str(tmp_path), num_classes=3, max_corrupt=9))
  for batches in (
    train_batches(CONFIG, source, seed=0),
    eval_batches(EvalConfig(batch_size=4), CONFIG, source),
  ):
    with (
      batches,
      pytest.raises(DataError, match=r'array_record\[3\] = label 3: expected a label from 0 to 2'),
    ):
      list(batches)


WORKERS_SCRIPT = """
import os, signal, sys, time
import numpy as np
from vitjax.config.schema import DataConfig, EvalConfig, SourceConfig
from vitjax.data import eval_batches, open_source, train_batches

if __name__ == '__main__':
  source = open_source(SourceConfig(kind='array_record', path=sys.argv[1], max_corrupt=3))
  streams = {}
  for workers in (0, 1, 2):
    config = DataConfig(batch_size=10, image_size=(16, 16), num_workers=workers, num_threads=2)
    with train_batches(config, source, seed=0, start_step=3) as batches:
      streams[workers] = [next(batches) for _ in range(7)]
      assert set(batches.corrupt) == {4, 5, 11}, batches.corrupt
    with eval_batches(EvalConfig(batch_size=8), config, source) as batches:
      streams[workers] += list(batches)
  for workers in (1, 2):
    for batch, other in zip(streams[0], streams[workers], strict=True):
      assert batch.keys() == other.keys()
      for name in batch:
        np.testing.assert_array_equal(batch[name], other[name])
  print('same streams')

  def children():
    own = os.getpid()
    found = []
    for pid in os.listdir('/proc'):
      if pid.isdigit():
        try:
          fields = open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()
          command = open(f'/proc/{pid}/cmdline').read()
        except OSError:
          continue
        if int(fields[1]) == own and 'spawn_main' in command:
          found.append(int(pid))
    return found

  config = DataConfig(batch_size=10, image_size=(16, 16), num_workers=2, num_threads=1)
  with train_batches(config, source, seed=0) as batches:
    while len(children()) < 2:  # the signals below hit workers that are still starting
      time.sleep(0.01)
    for pid in children():
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        os.kill(pid, number)
    for _ in range(20):
      next(batches)
    print('workers ignore SIGTERM')
    os.kill(children()[0], signal.SIGKILL)
    began = time.monotonic()
    try:
      for _ in range(1000):
        next(batches)
    except RuntimeError as error:
      print('a killed worker ends the run:', 'terminated unexpectedly' in str(error), time.monotonic() - began < 30)
  time.sleep(1)
  print('left over:', children())
  batches = train_batches(config, source, seed=0)
  next(batches)
  print(*children(), flush=True)
  os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_worker_processes_do_not_show_and_outlive_sigterm(damaged, tmp_path):
  damaged(3)
  script = tmp_path / 'script.py'
  script.write_text(textwrap.dedent(WORKERS_SCRIPT))
  done = subprocess.run(
    [sys.executable, str(script), str(tmp_path / 'records')], capture_output=True, text=True, check=False, timeout=120,
    env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
  )  # fmt: skip
  *messages, orphans = done.stdout.splitlines() or ['']
  assert messages == [
    'same streams',
    'workers ignore SIGTERM',
    'a killed worker ends the run: True True',
    'left over: []',
  ], done.stdout + done.stderr[:3000]
  assert done.returncode == -signal.SIGKILL
  assert len(orphans.split()) == 2
  deadline = time.monotonic() + 20
  while (left := [pid for pid in orphans.split() if is_running(pid)]) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not left


def is_running(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
  except OSError:
    return False


def test_workers_ignore_termination_signals():
  numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
  before = [signal.getsignal(number) for number in numbers]
  try:
    workers.init_worker(0, 2)
    assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 5
  finally:
    for number, handler in zip(numbers, before, strict=True):
      signal.signal(number, handler)
