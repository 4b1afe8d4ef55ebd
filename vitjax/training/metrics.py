"""Metrics on disk: WORKDIR/metrics.jsonl, one row a step, and TensorBoard."""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Mapping

import tensorboardX

log = logging.getLogger('vitjax')


class MetricsWriter:
  """Appends rows to metrics.jsonl, handed to the system at each write, and the same values to TensorBoard.

  Opening truncates to `start_step`: rows of later steps, and a last line torn by a kill, belong to work that
  the resumed run does again.

  Attributes:
    seen_step: the last step of which an earlier start left a row, at least start_step.

  Args:
    workdir: folder that exists.
    start_step: the step that the run resumes from; 0 for a new run.
    tensorboard: whether to write event files to WORKDIR/tensorboard.
  """

  def __init__(self, workdir: str | os.PathLike[str], *, start_step: int, tensorboard: bool):
    self.path = pathlib.Path(workdir) / 'metrics.jsonl'
    self.seen_step = _truncate(self.path, start_step) if self.path.exists() else start_step
    self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    self._unwritten = b''
    self._summary = None
    if tensorboard:
      folder = str(pathlib.Path(workdir) / 'tensorboard')
      self._summary = tensorboardX.SummaryWriter(folder, purge_step=start_step + 1 if start_step else None)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row: {'step': step, **values}. Each step is written once.

    While the disk is full or gone, rows wait in memory; a save would fail too, and that ends the run in the end.
    """
    waiting = bool(self._unwritten)
    self._unwritten += (json.dumps({'step': step, **values}) + '\n').encode()
    try:
      self._flush()
    except OSError as error:
      if not waiting:
        log.warning('%s: %s; rows wait in memory', self.path, error.strerror)
    if self._summary is not None:
      for name, value in values.items():
        self._summary.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes and closes both files."""
    try:
      self._flush()
    except OSError as error:
      log.warning('%s: %s; %d bytes of rows are lost', self.path, error.strerror, len(self._unwritten))
    os.close(self._descriptor)
    if self._summary is not None:
      self._summary.close()

  def _flush(self) -> None:
    while self._unwritten:
      self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, float]]:
  """Returns the rows of WORKDIR/metrics.jsonl in order; a last line torn by a kill is left out."""
  text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text(encoding='utf-8')
  complete = text[: text.rfind('\n') + 1]
  return [json.loads(line) for line in complete.splitlines()]


def _truncate(path: pathlib.Path, last_step: int) -> int:
  """Rewrites the file without rows after last_step; atomic, so that a kill leaves the old or the new file.

  Returns the last step that had a row, at least last_step.
  """
  rows = read_metrics(path.parent)
  scratch = path.with_suffix('.jsonl.tmp')
  kept = ''.join(json.dumps(row) + '\n' for row in rows if row['step'] <= last_step)
  scratch.write_text(kept, encoding='utf-8')
  scratch.replace(path)
  return int(max([last_step, *(row['step'] for row in rows)]))
