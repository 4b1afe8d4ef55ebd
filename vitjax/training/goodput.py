"""Where the time of a run goes: a clock that is always in exactly one phase, so that the phases sum to the whole."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar('T')

# In the order of the closing table. 'replay' are steps that an earlier start had done and lost.
PHASES = {
  'start_up': 'start-up, first step',
  'restore': 'restore or initialise',
  'compile': 'compile',
  'input_wait': 'waiting for images',
  'step': 'steps',
  'replay': 'steps done again',
  'evaluation': 'evaluation',
  'save': 'saving',
}
TRAINING = ('input_wait', 'step', 'replay')
# A run that waits longer than this share of its training time is worth a word.
_INPUT_BOUND = 0.25


class Clock:
  """Accounts every moment from `began_s` on to one phase. Phases change in the main thread; any thread may look.

  Attributes:
    phase: the present one, a key of PHASES.
    device_s: seconds in which the main thread was at the devices' disposal, whatever the phase.

  Args:
    began_s: time.perf_counter() at which the run began; None: now.
  """

  def __init__(self, began_s: float | None = None):
    self.began_s = self._since_s = time.perf_counter() if began_s is None else began_s
    self.phase = 'start_up'
    self._spent_s = dict.fromkeys(PHASES, 0.0)
    self._progress_s = time.perf_counter()
    self.device_s = 0.0

  def enter(self, phase: str) -> None:
    """Changes to a phase for good; counts as progress."""
    now_s = time.perf_counter()
    self._spent_s[self.phase] += now_s - self._since_s
    self.phase, self._since_s, self._progress_s = phase, now_s, now_s

  @contextlib.contextmanager
  def during(self, phase: str) -> Iterator[None]:
    """Changes to a phase for the length of the block."""
    before = self.phase
    self.enter(phase)
    try:
      yield
    finally:
      self.enter(before)

  @contextlib.contextmanager
  def on_device(self) -> Iterator[None]:
    """Adds the block, which hands work to the devices or waits for them, to `device_s`; the phase stays."""
    began_s = time.perf_counter()
    try:
      yield
    finally:
      self.device_s += time.perf_counter() - began_s

  def waiting_for(self, items: Iterable[T], phase: str) -> Iterator[T]:
    """Yields the items; the time that they take to come belongs to `phase`."""
    iterator = iter(items)
    while True:
      with self.during(phase):
        try:
          item = next(iterator)
        except StopIteration:
          return
      yield item

  def progress(self) -> None:
    """Tells the watchdog that the present phase moves on."""
    self._progress_s = time.perf_counter()

  @property
  def idle_s(self) -> float:
    """Seconds since the last sign of progress."""
    return time.perf_counter() - self._progress_s

  def seconds(self) -> dict[str, float]:
    """Returns the seconds of each phase so far; they sum to `wall_s`."""
    spent = dict(self._spent_s)
    spent[self.phase] += time.perf_counter() - self._since_s
    return spent

  @property
  def wall_s(self) -> float:
    """Seconds since the run began."""
    return time.perf_counter() - self.began_s


def goodput(spent_s: dict[str, float]) -> float:
  """Returns the share of all time that went into steps which were not done before, without waits for images."""
  return spent_s['step'] / max(sum(spent_s.values()), 1e-9)


def input_share(spent_s: dict[str, float]) -> float:
  """Returns the share of the training time (no start-up, evaluation or saves) that waited for images."""
  return spent_s['input_wait'] / max(sum(spent_s[phase] for phase in TRAINING), 1e-9)


def closing_table(clock: Clock) -> str:
  """Returns the table of phases, their sum, the goodput, and what to look at where much time is lost."""
  spent, wall_s = clock.seconds(), clock.wall_s
  lines = [f'{"where the time went":<24}{"seconds":>12}{"share":>8}']
  lines += [f'  {PHASES[p]:<22}{s:>12,.1f}{s / wall_s:>8.1%}' for p, s in spent.items() if s > 0]
  lines.append(f'  {"all":<22}{wall_s:>12,.1f}{1:>8.1%}')
  lines.append(f'goodput {goodput(spent):.1%}: steps that were not done before, of all time')
  if (share := input_share(spent)) > _INPUT_BOUND:
    lines.append(f'input-bound: {share:.0%} of the training time waits for images; see vitjax bench --input')
  return '\n'.join(lines)
