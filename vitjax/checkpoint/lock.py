"""One job at a time in a workdir: an advisory lock on WORKDIR/.lock that dies with its process."""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import logging
import os
import pathlib
import socket
import time

from vitjax.errors import CheckpointError, Problem

logger = logging.getLogger(__name__)

_held: set[int] = set()


def _forget_in_child() -> None:
  # A forked child shares the lock; were it to outlive the job, the restarted job would be refused.
  for descriptor in _held:
    os.close(descriptor)
  _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def _take(descriptor: int) -> None:
  # A job that was killed just now, or a child it forked, may need a moment to let go.
  for _ in range(5):
    try:
      return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      time.sleep(0.1)
  return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class WorkdirLock:
  """Holds WORKDIR/.lock from construction until `release` or the death of the process (kill -9 included).

  Args:
    workdir: an existing folder.

  Raises:
    CheckpointError: another job holds the lock; the message names its process id, host and start.
  """

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / '.lock'
    self._descriptor: int | None = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      _take(self._descriptor)
    except OSError as error:
      os.close(self._descriptor)
      self._descriptor = None
      if error.errno not in (errno.EAGAIN, errno.EACCES):
        logger.warning(
          '%s: this file system has no locks (%s); nothing stops a second job here', self._path, error
        )
        return
      hint = 'Wait for that job, stop it, or choose another workdir'
      raise CheckpointError(
        f'{workdir} is in use by another job', [Problem(f'{self._path}', self._holder(), '', hint)]
      ) from error
    _held.add(self._descriptor)
    started = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
    text = json.dumps({'pid': os.getpid(), 'host': socket.gethostname(), 'started': started})
    os.ftruncate(self._descriptor, 0)
    os.pwrite(self._descriptor, text.encode(), 0)

  def _holder(self) -> str:
    try:
      holder = json.loads(self._path.read_text())
      return f'held by process {holder["pid"]} on {holder["host"]} since {holder["started"]}'
    except (OSError, ValueError, KeyError, TypeError):
      return 'held by a process that left no name'

  def release(self) -> None:
    """Gives the lock up; a second call does nothing."""
    if self._descriptor is not None:
      _held.discard(self._descriptor)
      os.close(self._descriptor)
      self._descriptor = None
