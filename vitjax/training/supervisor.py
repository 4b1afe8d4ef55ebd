"""The thread beside the loop: signals, the failures of other processes, and the watchdog."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vitjax.config.schema import ResilienceConfig
from vitjax.errors import EXIT_RESTART, Preempted, TrainingError, exit_code
from vitjax.parallel.coordination import Board, leave, post_failure, read_failure, say
from vitjax.training.goodput import Clock
from vitjax.training.preemption import Agreement, SignalWatch
from vitjax.training.watchdog import Watchdog, dump_stacks, ranks

_TICK_S = 0.5
# How long a process that has failed, or that learns of a failure, may take to end by itself.
_LEAVE_S = 10.0
_FOLLOW_S = 1.0
_SAME_ERROR_S = 60.0
_AGREE_S = 20.0
# Errors of jax's runtime that no other process can have caused.
_OWN_ERRORS = ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED', 'OUT_OF_RANGE')


class Supervisor:
  """Watches over one start of a run while the `with` block lasts; used by all processes together.

  - A signal that means 'leave' on any process stops all at the same point (`point`, `raise_at_stop`).
  - An exception on one process (`reporting`) ends all of them within seconds; each says whose it was.
  - When nothing moves for too long, every process writes its stacks to WORKDIR/stacks and exits with 42; the message
    names the rank that holds the others up.

  Attributes:
    last_words: called before this class ends the process, with the cause; None: it was told to leave.

  Args:
    config: the timeouts.
    workdir: where the stacks go.
    clock: the loop's clock; its phases are the watchdog's evidence.
  """

  def __init__(self, config: ResilienceConfig, workdir: pathlib.Path, clock: Clock):
    self._workdir, self._clock = workdir, clock
    self._board = Board.numbered()
    # The service answers a few questions of each process per tick; a thousand of them ask less often.
    self._tick_s = _TICK_S * max(1.0, self._board.num_processes / 256)
    self._agreement = Agreement(self._board)
    self._watchdog = Watchdog(config, clock, self._board)
    self._told = ''
    self.last_words: Callable[[str | None], None] = lambda cause: None
    self._own_failure: tuple[float, int, str] | None = None
    self._follow_at_s: float | None = None
    self._closing = threading.Event()
    self._ending = threading.Lock()

  def __enter__(self) -> Supervisor:
    self._signals = SignalWatch()
    self._thread = threading.Thread(target=self._watch, name='vitjax-supervisor', daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._closing.set()
    self._signals.wake()
    self._thread.join()
    self._watchdog.end(self._agreement.passed)
    self._signals.close()

  @property
  def told(self) -> str:
    """Who told the run to leave ('SIGTERM on rank 1'), '' while nobody has."""
    return self._told

  def point(self) -> bool:
    """Returns whether all processes stop here. Called at the same places on all of them, after each step."""
    self._clock.progress()
    return self._agreement.at_stop()

  def raise_at_stop(self) -> None:
    """As `point`, for places where the work is simply dropped: raises Preempted."""
    if self.point():
      raise Preempted(f'{self._told}: left before the work at hand was done')

  @contextlib.contextmanager
  def reporting(self) -> Iterator[None]:
    """Tells the other processes when the block raises, so that they do not wait for this one.

    An exception that another process has caused (a connection that broke when it ended) becomes a line that names
    that process, and ends this one at once.
    """
    try:
      yield
    except Preempted:
      self._agreement.report()
      raise
    except BaseException as error:
      if self._board.num_processes > 1:
        self._share(error)
      raise
    else:
      self._agreement.report()

  def _share(self, error: BaseException) -> None:
    if isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(_OWN_ERRORS):
      self._blame_peer(error)
    everywhere = isinstance(error, TrainingError)
    post_failure(_one_line(error), exit_code(error), everywhere=everywhere)
    if not everywhere:
      self._own_failure = (time.monotonic() + _LEAVE_S, exit_code(error), traceback.format_exc())

  def _blame_peer(self, error: BaseException) -> None:
    """Ends the process where the runtime's error means that another one is gone; returns where it does not."""
    deadline = time.monotonic() + 2 * self._tick_s
    while (failure := read_failure()) is None and time.monotonic() < deadline:
      time.sleep(0.05)
    if failure is not None and failure['rank'] != self._board.rank:
      self._follow(failure)
    accused, lost = self._watchdog.accuse()
    if lost:
      post_failure(f'{accused}; the connection broke: {_one_line(error)}', EXIT_RESTART, lost=lost)
      self._follow(read_failure())

  def _watch(self) -> None:
    while not self._closing.is_set():
      self._watchdog.beat(self._agreement.passed)
      signal_name = self._signals.wait(min(self._tick_s, self._watchdog.beat_every_s))
      if signal_name is not None and not self._told:
        self._board.post('notice/first', f'{signal_name} on rank {self._board.rank}')
      if not self._told and (notice := self._board.read('notice')):
        self._stop(notice['first'])
      self._check_failures()
      if not self._closing.is_set() and (stall := self._watchdog.stalled()) is not None:
        self._end_stalled(stall)

  def _stop(self, notice: str) -> None:
    """Settles where all stop. Before the first step nothing is lost: the process ends at once, even in a compiler."""
    self._told = notice
    if self._board.rank == 0:
      say(f'{notice}: saving and leaving')
    missing = self._agreement.agree(_AGREE_S)
    if missing:
      post_failure(f'{ranks(missing)} did not answer to: {notice}', EXIT_RESTART, lost=missing)
    elif self._agreement.stops_before_anything and not self._left_in_time():
      say('nothing to save yet: leaving')
      self.last_words(None)
      leave(EXIT_RESTART)

  def _left_in_time(self) -> bool:
    """Returns whether the main thread of the only process ends by itself; with several, none may wait for others."""
    return self._board.num_processes == 1 and self._closing.wait(_LEAVE_S / 2)

  def _check_failures(self) -> None:
    if self._board.num_processes == 1:
      return
    if self._own_failure is not None:
      deadline, code, text = self._own_failure
      if time.monotonic() > deadline:
        say(text)
        self.last_words(text.strip().splitlines()[-1])
        leave(code)
      return
    if self._board.rank == 0 and (silent := self._watchdog.silent()):
      cause = f'no sign of life from {ranks(list(silent))} for {max(silent.values()):.0f} s'
      if post_failure(cause, EXIT_RESTART, lost=list(silent)):
        self._follow(read_failure())
    if (failure := read_failure()) is None:
      return
    now_s = time.monotonic()
    if self._follow_at_s is None:
      self._follow_at_s = now_s + (_SAME_ERROR_S if failure['everywhere'] else _FOLLOW_S)
    if now_s > self._follow_at_s:
      self._follow(failure)

  def _follow(self, failure: dict[str, Any] | None) -> None:
    """Ends this process because of another's failure."""
    if failure is None:
      return
    self._ending.acquire()  # The main thread may come here as well; the first one ends the process.
    found = 'stopped by the watchdog of' if failure['code'] == EXIT_RESTART else 'failed on'
    say(f'{found} rank {failure["rank"]}: {failure["cause"]}')
    self.last_words(f'rank {failure["rank"]}: {failure["cause"]}')
    if failure['code'] == EXIT_RESTART:
      dump_stacks(self._workdir, self._board.rank)
    leave(failure['code'])

  def _end_stalled(self, stall: str) -> None:
    accused, lost = self._watchdog.accuse()
    if self._closing.is_set() or self._watchdog.stalled() is None:
      return  # It went on while the others were asked.
    cause = '; '.join(filter(None, [stall, accused])) + f'. Stacks of all threads: {self._workdir}/stacks'
    if self._board.num_processes > 1:
      post_failure(cause, EXIT_RESTART, lost=lost)
      self._follow(read_failure())
    dump_stacks(self._workdir, self._board.rank)
    say(f'stopped by the watchdog: {cause}')
    self.last_words(cause)
    leave(EXIT_RESTART)


def _one_line(error: BaseException) -> str:
  text = str(error).strip().splitlines()
  return f'{type(error).__name__}: {text[0][:300] if text else ""}'
