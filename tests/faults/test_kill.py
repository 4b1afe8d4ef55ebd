"""kill -9 at random moments, asynchronous saves under way among them: the resumed run ends bitwise equal."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import tiny

from vitjax.training.metrics import read_metrics

RECIPE = pathlib.Path(__file__).with_name('kill_recipe.py')
TOTAL_STEPS = 120
START_LIMIT_S, RUN_LIMIT_S = 120, 180


def start(workdir, log):
  command = [sys.executable, '-m', 'vitjax', 'train', f'--config={RECIPE}', f'--workdir={workdir}']
  env = {**os.environ, 'XLA_FLAGS': ''}
  return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True)


def run_to_end(workdir):
  with (workdir.parent / f'{workdir.name}.log').open('a') as log:
    code = start(workdir, log).wait(RUN_LIMIT_S)
  assert code == 0, (workdir.parent / f'{workdir.name}.log').read_text()[-3000:]


def rows_on_disk(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def kill_at(workdir, step, delay_s):
  """Starts the run and kills it with SIGKILL delay_s after the row of `step` is on disk; returns the last row seen."""
  with (workdir.parent / f'{workdir.name}.log').open('a') as log:
    process = start(workdir, log)
  deadline = time.monotonic() + START_LIMIT_S
  while rows_on_disk(workdir) < step and process.poll() is None and time.monotonic() < deadline:
    time.sleep(0.002)
  time.sleep(delay_s)
  assert process.poll() is None, 'the run ended before it could be killed: nothing was tested'
  process.send_signal(signal.SIGKILL)
  process.wait(30)
  return rows_on_disk(workdir)


def without_speed(rows):
  return [{name: value for name, value in row.items() if not name.startswith('perf/')} for row in rows]


def assert_identical(workdir, reference):
  """Parameters, optimiser state, step, RNG, averages: every bit; and the log, each step once."""
  expected, found = tiny.restore_arrays(reference), tiny.restore_arrays(workdir)
  assert expected.keys() == found.keys()
  for path, array in expected.items():
    assert array.dtype == found[path].dtype
    assert array.tobytes() == found[path].tobytes(), path
  rows = read_metrics(workdir)
  assert [row['step'] for row in rows] == list(range(1, TOTAL_STEPS + 1))
  assert without_speed(rows) == without_speed(read_metrics(reference))


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp('reference') / 'run'
  run_to_end(workdir)
  return workdir


def moments(seed, count):
  """Returns `count` random (row, delay in seconds) pairs, spread over the run."""
  rng = random.Random(seed)
  return [(rng.randint(1, TOTAL_STEPS - 40), rng.random() * 0.1) for _ in range(count)]


def test_a_run_killed_three_times_ends_bitwise_equal(tmp_path, reference):
  workdir = tmp_path / 'run'
  for step, delay_s in sorted(moments(seed=0, count=3)):
    kill_at(workdir, step, delay_s)
  run_to_end(workdir)
  assert_identical(workdir, reference)
  assert not list((workdir / 'checkpoints').glob('*tmp*')), 'leftovers of killed saves'


@pytest.mark.slow
@pytest.mark.parametrize('moment', moments(seed=1, count=10), ids=lambda m: f'row{m[0]}+{m[1] * 1000:.0f}ms')
def test_ten_random_kills(moment, tmp_path, reference):
  workdir = tmp_path / 'run'
  kill_at(workdir, *moment)
  run_to_end(workdir)
  assert_identical(workdir, reference)


def test_log_torn_by_a_kill_is_read_and_repaired(tmp_path):
  from vitjax.training.metrics import MetricsWriter

  path = tmp_path / 'metrics.jsonl'
  path.write_text(
    ''.join(json.dumps({'step': s, 'train/loss': 1.0}) + '\n' for s in range(1, 8)) + '{"step": 8, "tr'
  )
  writer = MetricsWriter(tmp_path, start_step=5, tensorboard=False)
  writer.write(6, {'train/loss': 0.5})
  writer.close()
  assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
