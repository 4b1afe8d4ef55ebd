"""Noticing that nothing moves, who is to blame, and what everybody was doing."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import pathlib
import sys
import time
from collections.abc import Mapping

from vitjax.config.schema import ResilienceConfig
from vitjax.parallel.coordination import Board
from vitjax.training.goodput import PHASES, TRAINING, Clock

STACKS = 'stacks'
ENDED = -1


@dataclasses.dataclass(frozen=True)
class Beat:
  """One sign of life of a process: beats so far (ENDED: it has left the loop), points passed, and its phase."""

  number: int
  passed: int
  phase: str


class Watchdog:
  """Beats for this process, and names those that fall behind. Used by one helper thread.

  Args:
    config: the timeouts.
    clock: tells how long nothing has moved.
    board: where the beats are posted, as 'beat/RANK'.
  """

  def __init__(self, config: ResilienceConfig, clock: Clock, board: Board):
    self._config, self._clock, self._board = config, clock, board
    self._number = 0
    self.beat_every_s = min(max(config.heartbeat_timeout_s / 20, 0.25), 5.0)
    self._next_s = self._listened_s = time.monotonic()
    self._seen: dict[int, tuple[int, float]] = {}

  def stalled(self) -> str | None:
    """Returns what has not moved for longer than the recipe allows, None while all is well."""
    idle_s, phase = self._clock.idle_s, self._clock.phase
    limits_s = {True: self._config.step_timeout_s, False: self._config.slow_timeout_s}
    training = phase in TRAINING
    limit_s = limits_s[training]
    if training and limit_s is not None and idle_s >= limit_s:
      # While another process saves or evaluates, this one waits for it: the longer limit holds for both.
      training = all(beat.phase in TRAINING for beat in self.beats().values())
      limit_s = limits_s[training]
    if limit_s is None or idle_s < limit_s:
      return None
    knob = 'step_timeout_s' if training else 'slow_timeout_s'
    return f'nothing has moved for {idle_s:.0f} s in {PHASES[phase]!r} (resilience.{knob} = {limit_s:g})'

  def beat(self, passed: int) -> None:
    """Posts a beat where one is due."""
    now_s = time.monotonic()
    if self._board.num_processes > 1 and now_s >= self._next_s:
      self._next_s = now_s + self.beat_every_s
      self._number += 1
      text = json.dumps([self._number, passed, self._clock.phase])
      self._board.update(f'beat/{self._board.rank}', text)

  def end(self, passed: int) -> None:
    """Posts that this process beats no more, and why: it is done."""
    if self._board.num_processes > 1:
      self._board.update(f'beat/{self._board.rank}', json.dumps([ENDED, passed, self._clock.phase]))

  def silent(self) -> dict[int, float]:
    """Returns {rank: seconds} of the processes that have beaten before and then not for half the heartbeat timeout.

    Sooner than jax, which ends all processes after that timeout in a C++ abort that names nobody to most of them.
    Asked by process 0. Were this process itself stopped for a while, the others' beats would look old: the time
    since it last listened is left out.
    """
    now_s = time.monotonic()
    paused_s, self._listened_s = now_s - self._listened_s, now_s
    if paused_s > 2 * self.beat_every_s:
      self._seen = {rank: (number, now_s) for rank, (number, _) in self._seen.items()}
    for rank, beat in self.beats().items():
      if rank not in self._seen or self._seen[rank][0] != beat.number or beat.number == ENDED:
        self._seen[rank] = (beat.number, now_s)
    limit_s = max(0.45 * self._config.heartbeat_timeout_s, 4.0)
    return {rank: now_s - since_s for rank, (_, since_s) in self._seen.items() if now_s - since_s > limit_s}

  def beats(self) -> dict[int, Beat]:
    """Returns the newest beat of every process that has ever beaten."""
    return {int(rank): Beat(*json.loads(text)) for rank, text in self._board.read('beat').items()}

  def accuse(self) -> tuple[str, list[int]]:
    """Returns which ranks hold the others up, in words, and those that show no sign of life. Takes a few beats.

    In a run of one process nobody is to blame: ('', []).
    """
    if self._board.num_processes == 1:
      return '', []
    before = self.beats()
    deadline = time.monotonic() + 3 * self.beat_every_s + 1
    while time.monotonic() < deadline:
      self.beat(before[self._board.rank].passed if self._board.rank in before else 0)
      time.sleep(0.1)
    return name_culprits(self._board.num_processes, before, self.beats())


def name_culprits(
  num_processes: int, before: Mapping[int, Beat], after: Mapping[int, Beat]
) -> tuple[str, list[int]]:
  """Returns who holds the others up, from two looks at the beats a few beats apart, and who shows no sign of life.

  In this order: processes that show no sign of life; those that have passed fewer points; those that are not where
  the others wait.
  """

  def is_silent(rank: int) -> bool:
    if rank not in after:
      return True
    return rank in before and before[rank] == after[rank] and after[rank].number != ENDED

  silent = [rank for rank in range(num_processes) if is_silent(rank)]
  if silent:
    return f'no sign of life from {ranks(silent)}', silent
  least = min(beat.passed for beat in after.values())
  behind = [r for r, beat in after.items() if beat.passed == least]
  if len(behind) < len(after):
    phases = sorted({PHASES[after[r].phase] for r in behind})
    return f'{ranks(behind)} is behind the others, in {" and ".join(map(repr, phases))}', []
  elsewhere = [r for r, beat in after.items() if beat.phase not in ('step', 'replay')]
  if elsewhere and len(elsewhere) < len(after):
    return f'the others wait for {ranks(elsewhere)}, in {PHASES[after[elsewhere[0]].phase]!r}', []
  return 'all ranks wait at the same place; look at their stacks', []


def ranks(numbers: list[int]) -> str:
  """Returns 'rank 2' or 'ranks 2, 5'."""
  return f'rank{"s" if len(numbers) > 1 else ""} {", ".join(map(str, sorted(numbers)))}'


def dump_stacks(workdir: pathlib.Path, rank: int) -> pathlib.Path | None:
  """Writes the stacks of all threads to WORKDIR/stacks/rank_R.txt; returns it, or None where that failed."""
  path = workdir / STACKS / f'rank_{rank}.txt'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8') as file:
      file.write(f'{time.strftime("%Y-%m-%d %H:%M:%S")}  rank {rank}: all threads, the newest call first\n')
      file.flush()
      faulthandler.dump_traceback(file, all_threads=True)
  except OSError:
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    return None
  return path
