"""Everything the loop tells people: metrics.jsonl, TensorBoard, the progress bar and the speed."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator

import jax

from vitjax.parallel.distributed import is_main
from vitjax.training.build import Run
from vitjax.training.metrics import MetricsWriter
from vitjax.training.progress import ProgressDisplay, Throughput
from vitjax.training.timeline import Timeline


class Reporter:
  """Reports one start of a run; on processes other than the first it only measures.

  Args:
    run: what is trained.
    workdir: folder that exists.
    start: the step this start resumes from, 0 for a new run.
    timeline: of this start; finished by the first step, shown, and written with the first row.
  """

  def __init__(self, run: Run, workdir: pathlib.Path, start: int, timeline: Timeline):
    log = run.recipe.log
    self._writer = None
    if is_main():
      self._writer = MetricsWriter(workdir, start_step=start, tensorboard=log.tensorboard)
    self._display = ProgressDisplay(run.stop_step, start_step=start, enabled=log.progress and is_main())
    self._speed = Throughput(run.recipe.data.batch_size, run.train_flops_per_example, run.peak_flops_per_s)
    self._timeline, self._start_row = timeline, {}
    self._started = False
    if start:
      self._display.note(f'resuming {workdir} from step {start}')

  @contextlib.contextmanager
  def excluded(self) -> Iterator[None]:
    """Leaves the block out of the measured training time."""
    began_s = time.perf_counter()
    yield
    self._speed.exclude(time.perf_counter() - began_s)

  def begin(self) -> None:
    """Starts the clock of the first lap."""
    self._speed.lap()

  def tick(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Counts one dispatched step; the first one is waited for, and ends the start."""
    if not self._started:
      self._started = True
      jax.block_until_ready(metrics)
      self._timeline.finish()
      self._start_row = self._timeline.metrics()
      self._display.note(str(self._timeline))
    self._speed.tick()
    self._display.advance(step)

  def lap(self) -> dict[str, float]:
    """Returns the perf/ metrics since the last lap."""
    return self._speed.lap()

  def write(self, step: int, row: dict[str, float]) -> None:
    """Writes and shows the one row of a step."""
    row, self._start_row = self._start_row | row, {}
    if self._writer is not None:
      self._writer.write(step, row)
    self._display.show(step, row)

  def close(self) -> None:
    """Closes files and the bar."""
    self._display.close()
    if self._writer is not None:
      self._writer.close()
