"""Told to leave: saved at that step, everywhere, and resumed as if nothing had happened."""

import io
import os
import signal
import sys
import threading
import time

import pytest
import tiny

from vitjax.errors import EXIT_RESTART, Preempted, exit_code
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics
from vitjax.training.preemption import SIGNALS, Agreement, SignalWatch
from vitjax.training.supervisor import Supervisor


def without_speed(workdir):
  return [{k: v for k, v in row.items() if not k.startswith('perf/')} for row in read_metrics(workdir)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The workdir of an uninterrupted run of 12 steps."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  train(build(tiny.tiny_recipe(stop_after='12 steps')), workdir)
  return workdir


def assert_resumes_to(whole, workdir):
  train(build(tiny.tiny_recipe(stop_after='12 steps')), workdir)
  assert without_speed(workdir) == without_speed(whole)
  expected, found = tiny.restore_arrays(whole), tiny.restore_arrays(workdir)
  assert {path: array.tobytes() for path, array in found.items()} == {
    path: array.tobytes() for path, array in expected.items()
  }


@pytest.fixture
def send(monkeypatch):
  """Sends a signal to this process, and returns when the supervisor has settled where to stop."""
  settled = threading.Event()
  real = Supervisor._stop
  monkeypatch.setattr(Supervisor, '_stop', lambda self, notice: (real(self, notice), settled.set()))

  def send(number):
    os.kill(os.getpid(), number)
    assert settled.wait(20)

  return send


def test_a_signal_saves_this_step_and_the_resumed_run_is_the_same(tmp_path, whole, monkeypatch, send):
  number = signal.SIGTERM
  run = build(tiny.tiny_recipe(stop_after='12 steps'))
  real = type(run).batches

  def batches(self, start):
    for step, batch in enumerate(real(self, start), start + 1):
      if step == 7:
        send(number)
        send(number)  # a second one changes nothing
      yield batch

  before = signal.getsignal(number)
  monkeypatch.setattr(type(run), 'batches', batches)
  with pytest.raises(Preempted, match=f'{number.name} on rank 0: saved and left') as told:
    train(run, tmp_path)
  monkeypatch.setattr(type(run), 'batches', real)
  assert exit_code(told.value) == EXIT_RESTART == 42
  assert signal.getsignal(number) == before
  assert without_speed(tmp_path) == without_speed(whole)[:7]
  assert_resumes_to(whole, tmp_path)


class NobodyReads(io.TextIOBase):
  """What standard error is once its reader has gone: a log collector, a terminal, a launcher that was killed."""

  def write(self, text):
    raise BrokenPipeError

  def flush(self):
    raise BrokenPipeError

  def close(self):
    """Without the last flush, whose error Python 3.13 reports from wherever the object is thrown away."""


def test_an_evaluation_is_left_and_done_again_by_the_next_start(tmp_path, whole, send, monkeypatch):
  monkeypatch.setattr(sys, 'stderr', NobodyReads())
  run = build(tiny.tiny_recipe(stop_after='12 steps'))
  evaluator = run.evaluators['val']
  real = evaluator.batches
  asked = []

  def batches():
    asked.append(len(read_metrics(tmp_path)))
    send(signal.SIGTERM)
    return real()

  object.__setattr__(evaluator, 'batches', batches)
  with pytest.raises(Preempted):
    train(run, tmp_path)
  assert asked == [9]
  assert without_speed(tmp_path) == without_speed(whole)[:9], 'step 10 waits for its evaluation'
  assert_resumes_to(whole, tmp_path)


def test_a_signal_after_the_last_step_changes_nothing(tmp_path, whole, monkeypatch, send):
  run = build(tiny.tiny_recipe(stop_after='12 steps'))
  from vitjax.checkpoint import Saver

  real = Saver.settle
  monkeypatch.setattr(Saver, 'settle', lambda self: (send(signal.SIGTERM), real(self))[1])
  train(run, tmp_path)
  assert without_speed(tmp_path) == without_speed(whole)


class Boards:
  """A board in memory for several ranks."""

  def __init__(self, num_processes):
    self.num_processes, self.posts = num_processes, {}

  def of(self, rank):
    board = type('Board', (), {})()
    board.rank, board.num_processes = rank, self.num_processes
    board.post = lambda name, text: self.posts.setdefault(name, text)
    board.wait_for_all = self.wait_for_all
    return board

  def wait_for_all(self, folder, timeout_s):
    deadline = time.monotonic() + timeout_s
    while len(self.posts) < self.num_processes and time.monotonic() < deadline:
      time.sleep(0.001)
    return {int(name.removeprefix(f'{folder}/')): text for name, text in self.posts.items()}


def test_all_stop_at_the_first_point_that_none_has_passed():
  boards = Boards(3)
  agreements = [Agreement(boards.of(rank)) for rank in range(3)]
  for agreement, points in zip(agreements, (4, 7, 5), strict=True):
    assert not any(agreement.at_stop() for _ in range(points))
  threads = [threading.Thread(target=agreement.agree, args=(5,)) for agreement in agreements]
  for thread in threads:
    thread.start()
  passed = []
  for agreement in agreements:
    # A point waits while its process agrees.
    while not agreement.at_stop():
      pass
    passed.append(agreement.passed)
  for thread in threads:
    thread.join()
  assert passed == [7, 7, 7] or (min(passed) >= 7 and len(set(passed)) == 1)


def test_a_process_that_does_not_answer_is_named():
  boards = Boards(3)
  Agreement(boards.of(0)).report()
  assert Agreement(boards.of(2)).agree(0.05) == [1]


def test_signals_are_not_touched_outside_of_the_main_thread():
  before = signal.getsignal(signal.SIGTERM)
  results = []

  def work():
    watch = SignalWatch()
    results.append(signal.getsignal(signal.SIGTERM))
    watch.close()

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert results == [before]


@pytest.mark.parametrize('number', SIGNALS, ids=lambda number: number.name)
def test_every_signal_that_means_leave_is_seen_while_the_main_thread_is_busy(number):
  before = signal.getsignal(number)
  watch = SignalWatch()
  seen = []
  thread = threading.Thread(target=lambda: seen.append(watch.wait(20)))
  thread.start()
  os.kill(os.getpid(), number)
  thread.join()
  watch.wake()
  assert watch.wait(20) is None
  watch.close()
  assert seen == [number.name]
  assert signal.getsignal(number) == before


def test_under_nohup_the_end_of_the_terminal_means_nothing():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  watch = SignalWatch()
  try:
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
  finally:
    watch.close()
    signal.signal(signal.SIGHUP, before)
