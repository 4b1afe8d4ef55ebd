"""Which process keeps the others waiting.

In a step all processes wait for the slowest one, so their step times are equal. What differs is how long each one
is busy by itself: with input and other work of its host. A device that is slow in the step itself does not show.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping

from vitjax.parallel.coordination import Board

# A process is named when it is busy this many times as long as the median one, ...
_FACTOR = 2.0
# ... and the difference is this share of the step.
_SHARE = 0.2


class Pace:
  """Exchanges how busy each process is, at logged steps, without waiting for anybody.

  Args:
    board: shared by the processes; 'pace/RANK' holds the seconds.
  """

  def __init__(self, board: Board):
    self._board = board
    self._named: int | None = None

  def lap(self, own_s: float, step_s: float) -> tuple[int | None, str]:
    """Posts this process's lap; returns on process 0 who is slow by what the others have posted so far.

    Args:
      own_s: seconds per step in which this process was busy by itself.
      step_s: seconds per step.

    Returns:
      The rank that holds the others up, or None; and a line about it, '' when it was said before.
    """
    if self._board.num_processes == 1:
      return None, ''
    self._board.update(f'pace/{self._board.rank}', json.dumps(own_s))
    if self._board.rank != 0:
      return None, ''
    own = {int(rank): float(json.loads(text)) for rank, text in self._board.read('pace').items()}
    slow = find_straggler(own, step_s)
    before, self._named = self._named, slow
    if slow is None or slow == before:
      return slow, ''
    others = statistics.median(s for rank, s in own.items() if rank != slow)
    text = (
      f'rank {slow} holds the others up: busy by itself for {own[slow]:.3g} s of each step of {step_s:.3g} s'
    )
    return slow, f'{text}, the others for {others:.3g} s; look at its input and its host'


def find_straggler(own_s: Mapping[int, float], step_s: float) -> int | None:
  """Returns the rank that is busy much longer than the median of the others, None where none is.

  Args:
    own_s: {rank: seconds per step}.
    step_s: seconds per step.
  """
  if len(own_s) < 2:
    return None
  slow = max(own_s, key=lambda rank: own_s[rank])
  others = statistics.median(seconds for rank, seconds in own_s.items() if rank != slow)
  much = own_s[slow] > _FACTOR * others and own_s[slow] - others > _SHARE * step_s
  return slow if much else None
