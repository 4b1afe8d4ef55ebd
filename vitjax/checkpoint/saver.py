"""Saving through storage that fails for a while: bounded retries, so that a remount does not end a run."""

from __future__ import annotations

import logging
import time
from typing import Any

import jax

from vitjax.checkpoint.store import Store
from vitjax.errors import SaveError

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _FACTOR, _LONGEST_PAUSE_S = 1.0, 4.0, 60.0


class Saver:
  """Saves through a Store and, when storage fails, asks for another save a little later: with newer weights.

  A save counts as good when it is committed. Failures in a row beyond the allowed number raise. With several
  processes the first one raises: saves are collective, and the launcher's restart is the retry.

  Args:
    store: where to save.
    retries: failures in a row that are tolerated.
    first_pause_s: time before the first retry; each further one waits four times as long, a minute at most.
  """

  def __init__(self, store: Store, retries: int, *, first_pause_s: float = _FIRST_PAUSE_S):
    self._store = store
    self._retries = retries if jax.process_count() == 1 else 0
    self._first_pause_s = first_pause_s
    self._failures = 0
    self._retry_at_s: float | None = None

  def save(self, step: int, **items: Any) -> None:
    """Starts saving a step, as Store.save; a failure is noted for `due`.

    Raises:
      SaveError: more failures in a row than allowed.
      CheckpointError: what was asked makes no sense, see Store.save.
    """
    self._retry_at_s = None
    try:
      self._store.save(step, **items)
    except SaveError as error:
      self._note(error)

  def due(self) -> bool:
    """Returns whether a failed save should be repeated now. To be called at every step.

    Raises:
      SaveError: more failures in a row than allowed.
    """
    try:
      committed = self._store.check_for_errors()
    except SaveError as error:
      self._note(error)
    else:
      self._failures = 0 if committed else self._failures
    return self._retry_at_s is not None and time.monotonic() >= self._retry_at_s

  def settle(self) -> bool:
    """Returns True when the last save is committed; False, after a pause, when the caller has to save again.

    Raises:
      SaveError: more failures in a row than allowed.
    """
    if self._retry_at_s is None:
      try:
        self._store.wait()
      except SaveError as error:
        self._note(error)
    if self._retry_at_s is None:
      return True
    time.sleep(max(0.0, self._retry_at_s - time.monotonic()))
    return False

  def _note(self, error: SaveError) -> None:
    self._failures += 1
    if self._failures > self._retries:
      raise error
    pause_s = min(self._first_pause_s * _FACTOR ** (self._failures - 1), _LONGEST_PAUSE_S)
    self._retry_at_s = time.monotonic() + pause_s
    logger.warning(
      '%s\ntraining goes on; retry %d of %d in %.0f s', error, self._failures, self._retries, pause_s
    )
