"""Being told to leave: which signals mean it, and the point at which all processes leave together."""

from __future__ import annotations

import os
import select
import signal
import threading
from types import FrameType

from vitjax.parallel.coordination import Board

# SIGTERM: cluster managers and the maintenance of cloud machines. SIGUSR1 and SIGUSR2: SLURM's --signal before the
# time limit. SIGHUP: the terminal was closed, or its connection lost.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class SignalWatch:
  """Catches SIGNALS from construction to `close`, and hands them to a thread that waits for them.

  Python runs signal handlers in the main thread, between two bytecodes: not while that thread compiles or waits for
  a device. The byte that Python's C handler writes to a pipe comes through at once. Outside of the main thread,
  where Python lets nobody touch signals, nothing is caught. SIGHUP stays ignored under nohup.
  """

  def __init__(self):
    self._active = threading.current_thread() is threading.main_thread()
    self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    if self._active:
      self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
      wanted = SIGNALS if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else SIGNALS[:-1]
      self._old = {number: signal.signal(number, _caught) for number in wanted}

  def wait(self, timeout_s: float) -> str | None:
    """Returns the name of a signal that has come, or None after `timeout_s` or `wake`."""
    if not select.select([self._reader], [], [], timeout_s)[0]:
      return None
    known = [number for number in os.read(self._reader, 4096) if number in SIGNALS]
    return signal.Signals(known[0]).name if known else None

  def wake(self) -> None:
    """Ends a `wait` in another thread."""
    os.write(self._writer, b'\0')

  def close(self) -> None:
    """Gives the signals back to whom they belonged; called in the thread that made the watch."""
    if self._active:
      for number, handler in self._old.items():
        signal.signal(number, handler)
      signal.set_wakeup_fd(self._old_fd)
    os.close(self._writer)
    os.close(self._reader)


def _caught(number: int, frame: FrameType | None) -> None:
  """Does nothing: the byte in the pipe is what counts."""
  del number, frame


class Agreement:
  """The point at which all processes stop: the first in the run's sequence of points that none has passed.

  Every process passes the same sequence of points (one after each step, one per evaluation batch) and counts them.
  When nobody wants to stop, a point costs a lock that nobody else holds. When somebody does, a helper thread of each
  process reports its count while it holds the process at its next point; the largest count is where all stop. The
  report needs no help from the main thread, which may be waiting in a collective for a process that is held.

  Args:
    board: shared by the processes; 'stop/RANK' holds the reports.
  """

  def __init__(self, board: Board):
    self._board = board
    self._lock = threading.Lock()
    self._passed = 0
    self._stop_at: int | None = None

  @property
  def passed(self) -> int:
    """Points passed so far."""
    return self._passed

  def at_stop(self) -> bool:
    """Returns whether this point is where all stop; otherwise passes it. Main thread."""
    with self._lock:
      if self._stop_at is not None and self._passed >= self._stop_at:
        return True
      self._passed += 1
      return False

  def agree(self, timeout_s: float) -> list[int]:
    """Settles where to stop; returns the ranks that did not report in time. Helper thread."""
    with self._lock:
      self.report()
      counts = self._board.wait_for_all('stop', timeout_s)
      self._stop_at = max(map(int, counts.values()))
    return [rank for rank in range(self._board.num_processes) if rank not in counts]

  @property
  def stops_before_anything(self) -> bool:
    """Whether all stop at the very first point, so that there is nothing to save."""
    return self._stop_at == 0

  def report(self) -> None:
    """Posts how many points this process has passed: a run that ends tells it to those that still agree."""
    self._board.post(f'stop/{self._board.rank}', str(self._passed))
