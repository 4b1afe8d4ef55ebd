"""Points at which a long piece of work may be left early, the same on every process."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

_current: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar('point', default=None)


def interruption_point() -> None:
  """Says that all is well so far; raises what `interruptible` was given to raise when the work is to be left.

  Called once per batch by evaluators, as often on every process.
  """
  point = _current.get()
  if point is not None:
    point()


@contextlib.contextmanager
def interruptible(point: Callable[[], None]) -> Iterator[None]:
  """Calls `point` at every interruption point in the block."""
  token = _current.set(point)
  try:
    yield
  finally:
    _current.reset(token)
