"""Everything the loop tells people: metrics.jsonl, TensorBoard, the progress bar and the speed."""

from __future__ import annotations

import pathlib

import jax

from vitjax.parallel.coordination import Board
from vitjax.parallel.distributed import is_main
from vitjax.training.build import Run
from vitjax.training.goodput import Clock, closing_table
from vitjax.training.metrics import MetricsWriter
from vitjax.training.pace import Pace
from vitjax.training.progress import ProgressDisplay, Throughput
from vitjax.training.resume import Progress
from vitjax.training.timeline import Timeline


class Reporter:
  """Reports one start of a run; on processes other than the first it only measures.

  Args:
    run: what is trained.
    workdir: folder that exists.
    progress: where this start resumes.
    clock: accounts for the time.
    timeline: of this start; finished by the first step, shown, and written with the first row.
  """

  def __init__(self, run: Run, workdir: pathlib.Path, progress: Progress, clock: Clock, timeline: Timeline):
    log, start = run.recipe.log, progress.step
    self._clock, self._step = clock, start
    self._writer = None
    if is_main():
      self._writer = MetricsWriter(workdir, start_step=progress.logged_step, tensorboard=log.tensorboard)
    # Steps up to this one were done before, by a start that did not live to save them.
    self._seen_step = start if self._writer is None else self._writer.seen_step
    self._display = ProgressDisplay(run.stop_step, start_step=start, enabled=log.progress and is_main())
    self._speed = Throughput(
      clock, run.recipe.data.batch_size, run.train_flops_per_example, run.peak_flops_per_s
    )
    self._pace = Pace(Board.numbered())
    self._timeline, self._start_row = timeline, {}
    self._started = False
    if start:
      self._display.note(f'resuming {workdir} from step {start}')

  def tick(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Counts one dispatched step; the first one is waited for, and ends the start: speed is measured from there."""
    self._step = step
    self._display.advance(step)
    if self._started:
      self._speed.tick()
      return
    self._started = True
    jax.block_until_ready(metrics)
    self._timeline.finish()
    self._start_row = self._timeline.metrics()
    self._display.note(str(self._timeline))
    self._clock.enter('step' if step > self._seen_step else 'replay')
    self._speed.lap()

  def step_done(self) -> None:
    """Notes the end of a step: the last one that was done before ends the replay."""
    if self._step == self._seen_step:
      self._clock.enter('step')

  def lap(self) -> dict[str, float]:
    """Returns the perf/ metrics since the last lap."""
    perf = self._speed.lap()
    if perf:
      slow, text = self._pace.lap(self._speed.own_s, perf['perf/step_time_s'])
      if text:
        self._display.note(text)
      if slow is not None:
        perf['perf/straggler_rank'] = float(slow)
    return perf

  def write(self, step: int, row: dict[str, float]) -> None:
    """Writes and shows the one row of a step; {}: it has none."""
    if not row:
      return
    row, self._start_row = self._start_row | row, {}
    if self._writer is not None:
      self._writer.write(step, row)
    self._display.show(step, row)

  def close(self) -> None:
    """Shows where the time went; closes files and the bar."""
    self._display.close()
    if self._started:
      self._display.note(closing_table(self._clock))
    if self._writer is not None:
      self._writer.close()
