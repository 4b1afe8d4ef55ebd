"""Where the time from the command to the first step goes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterator


class Timeline:
  """The parts of one start: consecutive laps, and parts that run side by side. Its methods may be called by threads.

  Attributes:
    began_s: the time.perf_counter() of the beginning.

  Args:
    elapsed_s: seconds that have passed already; None: since this process was started, where the system tells.
  """

  def __init__(self, elapsed_s: float | None = 0.0):
    self.began_s = time.perf_counter() - (_process_age_s() if elapsed_s is None else elapsed_s)
    self._lap_s = self.began_s
    self._laps: dict[str, float] = {}
    self._parts: dict[str, float] = {}
    self._total_s: float | None = None

  def lap(self, name: str) -> None:
    """Notes the time since the last lap as that of `name`."""
    now_s = time.perf_counter()
    self._laps[name] = now_s - self._lap_s
    self._lap_s = now_s

  @contextlib.contextmanager
  def part(self, name: str) -> Iterator[None]:
    """Notes the duration of the block, beside others that run at the same time."""
    began_s = time.perf_counter()
    yield
    self._parts[name] = time.perf_counter() - began_s

  def finish(self) -> None:
    """Ends the timeline: the first step is done."""
    self.lap('first step')
    self._total_s = self._lap_s - self.began_s

  def metrics(self) -> dict[str, float]:
    """Returns {'perf/start_total_s': ..., 'perf/start_compile_s': ...}, every part in seconds."""
    assert self._total_s is not None, 'finish() comes first'
    seconds = {**self._laps, **self._parts, 'total': self._total_s}
    return {f'perf/start_{name.replace(" ", "_")}_s': value for name, value in seconds.items()}

  def __str__(self) -> str:
    assert self._total_s is not None, 'finish() comes first'
    laps = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self._laps.items())
    parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self._parts.items())
    return f'first step done after {self._total_s:.1f} s: {laps} ({parts} side by side)'


def _process_age_s() -> float:
  """Returns the seconds since this process was started; 0 where the system does not tell."""
  stat = pathlib.Path('/proc/self/stat')
  if not stat.exists():
    return 0.0
  # Field 22 counts clock ticks from boot to the start; the name in field 2 may hold blanks.
  started = int(stat.read_text().rpartition(')')[2].split()[19]) / os.sysconf('SC_CLK_TCK')
  return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)
