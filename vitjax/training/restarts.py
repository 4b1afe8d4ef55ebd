"""A job that is restarted again and again without getting anywhere: noticed, and ended with the cause."""

from __future__ import annotations

import json
import logging
import pathlib
import time
from types import TracebackType

from vitjax.checkpoint.reading import any_process
from vitjax.errors import Preempted, Problem, TrainingError
from vitjax.parallel.distributed import is_main

log = logging.getLogger('vitjax')

_FILE = 'starts.json'
_UNKNOWN = 'unknown: it ended without a word (killed from outside, out of memory, or the machine went down)'


class CrashLoop:
  """Counts starts of one workdir since its newest checkpoint; used as a `with` around the work by all processes.

  WORKDIR/starts.json holds the count, the step, and how the last start ended; process 0 keeps it. A start that ends
  well, that was told to leave, or that a person interrupted does not count.

  Args:
    workdir: of the run.
    step: the newest checkpoint's, 0 for none.
    limit: starts from the same step before the next one is refused; None: any number.

  Raises:
    TrainingError: too many starts got no further; on all processes.
  """

  def __init__(self, workdir: pathlib.Path, step: int, limit: int | None):
    self._path = workdir / _FILE
    self._step = step
    starts, cause = self._read() if is_main() else (0, '')
    if any_process(limit is not None and starts >= limit):
      raise TrainingError(
        f'{workdir}: {starts} starts in a row got no further than step {step}',
        [
          Problem('the last one ended', cause),
          Problem('next step', hint=f'Mend the cause, then delete {self._path} and start again'),
        ],
      )
    self._starts = starts + 1
    self.note(_UNKNOWN)

  def __enter__(self) -> CrashLoop:
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    del trace
    if error is not None and not isinstance(error, Preempted | KeyboardInterrupt):
      self.note(f'{type(error).__name__}: {error}')
    else:
      self.note(None)

  def note(self, cause: str | None) -> None:
    """Records how this start ends; None: in a way that does not count."""
    if not is_main():
      return
    try:
      self._write(cause)
    except OSError as error:
      # A disk that is full or read-only: the run has its own word to say about that.
      log.warning('%s: %s; this start is not counted', self._path, error.strerror)

  def _write(self, cause: str | None) -> None:
    if cause is None:
      self._path.unlink(missing_ok=True)
      return
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    scratch = self._path.with_suffix('.json.tmp')
    record = {'step': self._step, 'starts': self._starts, 'cause': cause, 'time': now}
    scratch.write_text(json.dumps(record, indent=1), encoding='utf-8')
    scratch.replace(self._path)

  def _read(self) -> tuple[int, str]:
    try:
      found = json.loads(self._path.read_text(encoding='utf-8'))
      same = int(found['step']) == self._step
      return (int(found['starts']) if same else 0), str(found['cause'])
    except (OSError, ValueError, KeyError, TypeError):
      return 0, ''
