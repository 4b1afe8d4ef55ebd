"""The catalogue of faults as code: each case is a function that tries a fault some times and counts."""

from __future__ import annotations

import dataclasses
import pathlib
import random
from collections.abc import Callable

SECTIONS = {
  'A': 'Crash and resume',
  'B': 'Storage',
  'C': 'Distributed',
  'D': 'Numerics',
  'E': 'Bad input',
  'F': 'Config and security',
}


@dataclasses.dataclass
class Outcome:
  """What a case saw.

  Attributes:
    times: how often the fault was tried.
    held: how often vitjax did what it must.
    figure: what a report shows beside that.
    faults: one line for each time that was not held.
    skipped: why the case could not be run here at all; '' when it ran.
  """

  times: int = 0
  held: int = 0
  figure: str = ''
  faults: list[str] = dataclasses.field(default_factory=list)
  skipped: str = ''

  def count(self, fault: str | None) -> None:
    """Counts one try: `fault` says what went wrong, '' or None that all was well."""
    self.times += 1
    if fault:
      self.faults.append(fault)
    else:
      self.held += 1


RunCase = Callable[[random.Random, int, pathlib.Path], Outcome]


@dataclasses.dataclass(frozen=True)
class Case:
  """One row of the catalogue.

  Attributes:
    number: as in the catalogue.
    section: a letter of SECTIONS.
    title: the fault.
    promise: what vitjax must do.
    run: (rng, count, empty folder) -> Outcome.
    full: count of the report; 1 for cases whose number of tries is fixed.
    slow: count under the slow marker; 0: not there, because a faster test of the same stands elsewhere.
    quick: count in the default run; likewise.
  """

  number: int
  section: str
  title: str
  promise: str
  run: RunCase
  full: int
  slow: int
  quick: int


CASES: dict[int, Case] = {}


def case(
  number: int, section: str, title: str, promise: str, *, full: int, slow: int, quick: int = 0
) -> Callable[[RunCase], RunCase]:
  """Registers the decorated function as a case."""

  def register(run: RunCase) -> RunCase:
    assert number not in CASES, number
    CASES[number] = Case(number, section, title, promise, run, full, slow, quick)
    return run

  return register
