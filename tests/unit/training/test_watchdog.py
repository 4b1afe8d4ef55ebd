"""Who is to blame when nothing moves, and what the watchdog leaves behind."""

import subprocess
import sys
import threading
import time

import pytest

from vitjax.config.schema import ResilienceConfig
from vitjax.parallel.coordination import Board
from vitjax.training.goodput import Clock
from vitjax.training.watchdog import ENDED, Beat, Watchdog, dump_stacks, name_culprits


def beats(*rows):
  return dict(enumerate(Beat(*row) for row in rows))


@pytest.mark.parametrize(
  ('before', 'after', 'expected'),
  [
    (
      beats((5, 9, 'step'), (5, 9, 'step'), (5, 7, 'step')),
      beats((8, 9, 'step'), (8, 9, 'step'), (5, 7, 'step')),
      'no sign of life from rank 2',
    ),
    (beats((5, 9, 'step')), beats((8, 9, 'step')), 'no sign of life from ranks 1, 2'),
    (
      beats((5, 9, 'step'), (5, 7, 'input_wait'), (5, 9, 'step')),
      beats((8, 9, 'step'), (8, 7, 'input_wait'), (8, 9, 'step')),
      "rank 1 is behind the others, in 'waiting for images'",
    ),
    (
      beats((5, 9, 'save'), (ENDED, 9, 'step'), (5, 7, 'step')),
      beats((8, 9, 'save'), (ENDED, 9, 'step'), (8, 7, 'step')),
      "rank 2 is behind the others, in 'steps'",
    ),
    (
      beats((5, 9, 'save'), (5, 9, 'step'), (5, 9, 'step')),
      beats((8, 9, 'save'), (8, 9, 'step'), (8, 9, 'step')),
      "the others wait for rank 0, in 'saving'",
    ),
    (
      beats((5, 9, 'step'), (5, 9, 'step'), (5, 9, 'step')),
      beats((8, 9, 'step'), (8, 9, 'step'), (8, 9, 'step')),
      'all ranks wait at the same place; look at their stacks',
    ),
  ],
)
def test_the_rank_that_holds_the_others_up_is_named(before, after, expected):
  text, lost = name_culprits(3, before, after)
  assert text == expected
  assert bool(lost) == ('no sign of life' in expected)


class Beats:
  """A board of three ranks whose beats the test sets."""

  rank, num_processes = 0, 3

  def __init__(self, **texts):
    self.texts = texts

  def read(self, folder):
    assert folder == 'beat'
    return {rank.removeprefix('rank'): text for rank, text in self.texts.items()}


def test_a_process_that_has_ended_is_not_silent(monkeypatch):
  now = [100.0]
  monkeypatch.setattr('vitjax.training.watchdog.time.monotonic', lambda: now[0])
  board = Beats(rank0='[1, 3, "step"]', rank1='[7, 3, "step"]', rank2='[-1, 3, "step"]')
  dog = Watchdog(ResilienceConfig(heartbeat_timeout_s=20), Clock(), board)
  for number in range(12):
    board.texts['rank0'] = f'[{number}, 3, "step"]'
    silent = dog.silent()
    now[0] += 1
  assert list(silent) == [1]
  # This process was itself stopped for an hour: nobody is silent for that.
  now[0] += 3600
  assert dog.silent() == {}


def test_each_phase_has_its_limit():
  clock = Clock()
  dog = Watchdog(ResilienceConfig(step_timeout_s=0.05, slow_timeout_s=None), clock, Board())
  with clock.during('compile'):
    time.sleep(0.1)
    assert dog.stalled() is None
  clock.enter('step')
  assert dog.stalled() is None
  time.sleep(0.1)
  assert 'resilience.step_timeout_s = 0.05' in dog.stalled()
  clock.progress()
  assert dog.stalled() is None


def test_the_stacks_of_all_threads_are_written(tmp_path):
  done = threading.Event()

  def a_thread_that_waits():
    done.wait()

  thread = threading.Thread(target=a_thread_that_waits)
  thread.start()
  path = dump_stacks(tmp_path, 3)
  done.set()
  thread.join()
  assert path.name == 'rank_3.txt'
  assert 'a_thread_that_waits' in path.read_text()
  assert 'test_the_stacks_of_all_threads' in path.read_text()


STUCK = """
import pathlib, sys, time
from vitjax.config.schema import ResilienceConfig
from vitjax.training.goodput import Clock
from vitjax.training.supervisor import Supervisor
clock = Clock()
clock.enter('step')
with Supervisor(ResilienceConfig(step_timeout_s=1.0), pathlib.Path(sys.argv[1]), clock):
  time.sleep(100)
"""


def test_a_stuck_process_leaves_its_stacks_and_asks_for_a_restart(tmp_path):
  command = [sys.executable, '-c', STUCK, str(tmp_path)]
  run = subprocess.run(command, capture_output=True, text=True, timeout=60)
  assert run.returncode == 42, run.stderr
  assert "nothing has moved for 1 s in 'steps' (resilience.step_timeout_s = 1)" in run.stderr
  assert 'line 9 in <module>' in (tmp_path / 'stacks/rank_0.txt').read_text()


COMPILING = """
import os, pathlib, signal, sys, threading, time
from vitjax.config.schema import ResilienceConfig
from vitjax.training.goodput import Clock
from vitjax.training.supervisor import Supervisor
clock = Clock()
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
with Supervisor(ResilienceConfig(), pathlib.Path(sys.argv[1]), clock), clock.during('compile'):
  time.sleep(100)
"""


@pytest.mark.slow
def test_told_to_leave_while_it_compiles_a_process_does_not_wait_for_the_compiler(tmp_path):
  began = time.monotonic()
  command = [sys.executable, '-c', COMPILING, str(tmp_path)]
  run = subprocess.run(command, capture_output=True, text=True, timeout=90)
  assert run.returncode == 42, run.stderr
  assert 'SIGUSR1 on rank 0' in run.stderr
  assert 'nothing to save yet: leaving' in run.stderr
  assert time.monotonic() - began < 60
