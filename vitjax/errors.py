"""Errors for people: each names where, what was found, what was expected, and the next step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Problem:
  """One thing that is wrong.

  Attributes:
    where: a dotted config path (`optim.peak_lr`), a parameter path (`head/kernel`) or a file.
    found: what stands there, already rendered as text ('' when nothing stands there).
    expected: what was expected instead.
    hint: the next step for the reader ('' when `expected` says it all).
  """

  where: str
  found: str = ''
  expected: str = ''
  hint: str = ''

  def __str__(self) -> str:
    text = self.where
    if self.found:
      text += f' = {self.found}'
    if self.expected:
      text += f': expected {self.expected}'
    if self.hint:
      text += f'. {self.hint}'
    return text


class VitjaxError(ValueError):
  """Base of vitjax's user-facing errors: a headline and the list of all problems found.

  Args:
    headline: one line that says what failed.
    problems: every problem found, in the order the reader should mend them.
  """

  def __init__(self, headline: str, problems: Sequence[Problem] = ()):
    self.headline = headline
    self.problems = tuple(problems)
    super().__init__('\n'.join([headline, *(f'  - {p}' for p in self.problems)]))


class ConfigError(VitjaxError):
  """A recipe that cannot be run as written."""


class ShardingRuleError(VitjaxError):
  """Sharding rules that do not cover the parameters, or do not fit the mesh."""


class CheckpointError(VitjaxError):
  """A checkpoint that is damaged, missing, or does not fit the model."""


class SaveError(CheckpointError):
  """A checkpoint that could not be written; the ones before it are intact, and the next may succeed."""


class DataError(VitjaxError):
  """Images, labels or data set files that cannot be used."""


class TrainingError(VitjaxError):
  """A run that had to stop, such as on a loss that is not finite."""


class Preempted(VitjaxError):
  """A run that was told to leave, has saved, and goes on where it stopped when it is started again."""


EXIT_RUN_FAILED, EXIT_REFUSED, EXIT_RESTART, EXIT_INTERRUPTED = 1, 2, 42, 130


def exit_code(error: BaseException) -> int:
  """Returns the exit code that an exception ends the process with.

  42 asks for another start: preempted and saved, or stopped by a fault that a restart may cure (xpk restarts on
  42). 1 and 2 do not: a run that failed (or an unknown exception), or one that was refused as asked. 130: Ctrl-C.
  """
  if isinstance(error, Preempted):
    return EXIT_RESTART
  if isinstance(error, KeyboardInterrupt):
    return EXIT_INTERRUPTED
  refused = isinstance(error, VitjaxError) and not isinstance(error, TrainingError | SaveError)
  return EXIT_REFUSED if refused else EXIT_RUN_FAILED
