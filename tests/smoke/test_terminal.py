"""A training run and those who read its output: a terminal that is closed, a pipe whose reader is killed."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from vitjax.training.metrics import read_metrics

RECIPE = pathlib.Path(__file__).parents[1] / 'faults' / 'small_recipe.py'
STEPS, LIMIT_S = 3000, 120
# Makes standard input the terminal of a session, then becomes the command. Not between fork and exec of this process:
# jax has threads here.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
pytestmark = pytest.mark.slow


def started(workdir, steps, before=(), **streams):
  command = [*before, sys.executable, '-m', 'vitjax', 'train', f'--config={RECIPE}', f'--workdir={workdir}']
  knobs = {'total': f'{steps} steps', 'log.progress': True, 'checkpoint.every': '1000 steps'}
  knobs |= {'evals.val.every': '1000 steps', 'log.every': '5 steps'}
  command += [f'--config.{path}={value}' for path, value in knobs.items()]
  env = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  return subprocess.Popen(command, env=env, **streams)


def wait_for_rows(workdir, process):
  deadline = time.monotonic() + LIMIT_S
  path = workdir / 'metrics.jsonl'
  while not path.exists() or path.read_text().count('\n') < 2:
    assert process.poll() is None, 'ended before anything was closed'
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.fixture
def workdir(tmp_path):
  return tmp_path / 'run'


def test_a_run_saves_and_leaves_when_its_terminal_is_closed(workdir):
  ours, theirs = os.openpty()
  streams = {'stdin': theirs, 'stdout': theirs, 'stderr': theirs}
  process = started(workdir, STEPS, before=(sys.executable, '-c', TAKE_TERMINAL), **streams)
  try:
    os.close(theirs)
    while not (workdir / 'metrics.jsonl').exists() and process.poll() is None:
      os.read(ours, 4096)  # a terminal that nobody reads would hold the run up
    wait_for_rows(workdir, process)
    os.close(ours)
    assert process.wait(LIMIT_S) == 42
  finally:
    process.kill()
    process.wait()
  saved = [path.name for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()]
  assert len(saved) == 1
  assert 0 < int(saved[0]) < STEPS


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(workdir):
  process = started(workdir, 300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  try:
    wait_for_rows(workdir, process)
    process.stdout.close()
    assert process.wait(LIMIT_S) == 0
  finally:
    process.kill()
    process.wait()
  assert read_metrics(workdir)[-1]['step'] == 300
