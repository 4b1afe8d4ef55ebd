"""The board of a run: small texts that every process can post and read, without a collective.

It is the key-value store of jax's coordination service, which lives in process 0. Reading and posting go from a
host thread to that service, and never wait for a device: so a process that hangs in a collective can still be told
why, and say where it stands.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Collection
from typing import Any, NoReturn

import jax

from vitjax.parallel.agreement import coordination_client

_logger = logging.getLogger(__name__)
_ROOT = 'vitjax'
_numbers = itertools.count()
# How long process 0 waits for the others to read its last words: the service goes when it goes.
_LAST_S = 5.0


class Board:
  """Posts and reads texts under names of one scope; in a run of one process, in a dictionary.

  A service that is gone raises nothing here: nothing can be read or posted then, and jax ends the process.

  Args:
    scope: keeps boards apart; '' is the one board of the whole process.
  """

  def __init__(self, scope: str = ''):
    self.rank, self.num_processes = jax.process_index(), jax.process_count()
    self._client: Any = coordination_client() if self.num_processes > 1 else None
    self._prefix = f'{_ROOT}/{scope}/' if scope else f'{_ROOT}/'
    self._local: dict[str, str] = {}

  @classmethod
  def numbered(cls) -> Board:
    """Returns a new board, the same for all processes if each of them makes its boards in the same order."""
    return cls(f'board{next(_numbers)}')

  def post(self, name: str, text: str) -> bool:
    """Posts a text that nobody may change; returns False where the name is taken (the first one stays)."""
    if self._client is None:
      return self._local.setdefault(name, text) is text
    try:
      self._client.key_value_set(self._prefix + name, text)
    except Exception as error:  # noqa: BLE001 - taken, or no service: jax raises one type for both
      _logger.debug('%s was not posted: %s', name, error)
      return False
    return True

  def update(self, name: str, text: str) -> None:
    """Posts a text in the place of an earlier one."""
    if self._client is None:
      self._local[name] = text
      return
    try:
      self._client.key_value_set(self._prefix + name, text, allow_overwrite=True)
    except Exception as error:  # noqa: BLE001
      _logger.debug('%s was not posted: %s', name, error)

  def read(self, folder: str) -> dict[str, str]:
    """Returns {name: text} of what is posted as 'folder/name', at once."""
    if self._client is None:
      return {k.removeprefix(f'{folder}/'): v for k, v in self._local.items() if k.startswith(f'{folder}/')}
    try:
      found = self._client.key_value_dir_get(f'{self._prefix}{folder}/')
    except Exception as error:  # noqa: BLE001
      _logger.debug('%s was not read: %s', folder, error)
      return {}
    return {key.rpartition('/')[2]: text for key, text in found}

  def wait_for_all(self, folder: str, timeout_s: float) -> dict[int, str]:
    """Returns {rank: text} of 'folder/rank', when all are there or the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
      found = {int(name): text for name, text in self.read(folder).items()}
      if len(found) == self.num_processes or time.monotonic() > deadline:
        return found
      # Everybody reads everybody's text: many processes ask less often.
      time.sleep(max(0.02, self.num_processes / 2000))


_FAILURE = 'failure/first'


def post_failure(cause: str, code: int, *, everywhere: bool = False, lost: Collection[int] = ()) -> bool:
  """Tells the other processes why this one ends; returns whether it was the first to fail.

  Args:
    cause: one line.
    code: exit code for all.
    everywhere: every process meets the same error by itself and needs no help in ending.
    lost: ranks that show no sign of life; nobody waits for them.
  """
  board = Board()
  record = {'rank': board.rank, 'cause': cause, 'code': code, 'everywhere': everywhere, 'lost': [*lost]}
  return board.post(_FAILURE, json.dumps(record))


def read_failure() -> dict[str, Any] | None:
  """Returns the first failure of any process: 'rank', 'cause', 'code', 'everywhere', 'lost'; None while all is well."""
  found = Board().read('failure')
  return json.loads(found['first']) if found else None


def say(text: str) -> None:
  """Prints to stderr, if anybody still reads it: what a process has to do does not depend on that."""
  with contextlib.suppress(OSError):
    print(text, file=sys.stderr, flush=True)


def leave(code: int, *, last_s: float = _LAST_S) -> NoReturn:
  """Ends this process at once, without Python's and jax's orderly shutdown; process 0 lets the others go first.

  At the end of a run as well: jax's own shutdown closes the service as soon as all have reached its barrier, and a
  process that is slow to hear of it takes the closed connection for a failure, and aborts.

  Args:
    code: exit code.
    last_s: how long process 0 waits for the others.
  """
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(OSError):
      stream.flush()
  board = Board()
  if board.num_processes > 1:
    board.post(f'left/{board.rank}', str(code))
    deadline = time.monotonic() + last_s
    failure = read_failure()
    others = board.num_processes - (len(failure['lost']) if failure else 0)
    while board.rank == 0 and len(board.read('left')) < others and time.monotonic() < deadline:
      time.sleep(0.05)
    time.sleep(0.2 if board.rank == 0 else 0.0)
  os._exit(code)
