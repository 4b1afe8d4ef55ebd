"""The loop: restore or initialise; for each step: batch, train step, log, evaluate, save; close."""

from __future__ import annotations

import contextlib
import os
import pathlib

import jax

from vitjax.checkpoint import Store
from vitjax.errors import Preempted, Problem
from vitjax.training.build import Run
from vitjax.training.events import Evaluations, Replicas, Saves, due
from vitjax.training.goodput import Clock
from vitjax.training.numerics import Rollback, StepWatch, finite_only, passing_over
from vitjax.training.profiling import ProfiledStep
from vitjax.training.reporter import Reporter
from vitjax.training.restarts import CrashLoop
from vitjax.training.startup import Ready, start
from vitjax.training.state import TrainState
from vitjax.training.supervisor import Supervisor
from vitjax.training.timeline import Timeline


def train(
  run: Run,
  workdir: str | os.PathLike[str],
  *,
  timeline: Timeline | None = None,
  profile: tuple[int, int] | None = None,
) -> dict[str, float]:
  """Trains to run.stop_step, resuming what `workdir` already holds; returns the last evaluation's metrics.

  Host-side; called by every process with the same run. Writes WORKDIR/checkpoints, metrics.jsonl and
  tensorboard/. While it runs, SIGTERM, SIGUSR1, SIGUSR2 and SIGHUP mean: save this step, on all processes, and leave.

  Args:
    run: from `build`.
    workdir: folder of this run; made if missing.
    timeline: of what came before, for the report of the start; None: it begins here.
    profile: first and last step to trace into WORKDIR/profile.

  Raises:
    Preempted: told to leave; all is saved, and the same call goes on from there.
    TrainingError: too many steps with a loss or gradients that are not finite; none of them changed the weights.
    CheckpointError: the workdir's checkpoints are damaged, in use by another job, or of another model.
    DataError: more unreadable records than the source's budget allows, or other data than before.
  """
  workdir = pathlib.Path(workdir).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  timeline = timeline or Timeline()
  clock = Clock(timeline.began_s)
  with (
    Supervisor(run.recipe.resilience, workdir, clock) as supervisor,
    Store(workdir, run.recipe.checkpoint) as store,
    supervisor.reporting(),
    CrashLoop(
      workdir, store.latest_step() or 0, run.recipe.resilience.max_starts_without_progress
    ) as crash_loop,
  ):
    supervisor.last_words = crash_loop.note
    passed_over: set[int] = set()
    while True:
      with start(run, store, clock, timeline) as ready:
        timeline.lap('ready')
        supervisor.raise_at_stop()
        if profile is not None:
          folder = workdir / 'profile'
          ready.step_fn = ProfiledStep(ready.step_fn, step=ready.progress.step, window=profile, folder=folder)
        ready.step_fn = passing_over(ready.step_fn, passed_over, clock)
        try:
          with contextlib.closing(Reporter(run, workdir, ready.progress, clock, timeline)) as reporter:
            return _Loop(run, store, clock, supervisor, reporter, ready).run_steps()
        except Rollback as spike:
          passed_over.update(spike.steps)


class _Loop:
  """One start of a run: from where the last one ended to the run's end, or to where this one has to leave."""

  def __init__(
    self, run: Run, store: Store, clock: Clock, supervisor: Supervisor, reporter: Reporter, ready: Ready
  ):
    self._run, self._ready, self._progress = run, ready, ready.progress
    self._supervisor, self._reporter = supervisor, reporter
    self._batches = clock.waiting_for(ready.batches, 'input_wait')
    self._watch = StepWatch(run.recipe.resilience, ready.progress.health, clock)
    self._evaluations = Evaluations(run, clock, self._watch, supervisor.raise_at_stop)
    self._saves = Saves(run, store, clock, self._watch)
    self._replicas = Replicas(run)

  def run_steps(self) -> dict[str, float]:
    """Runs the steps up to stop_step; returns the metrics of the last evaluations."""
    run, progress, state = self._run, self._progress, self._ready.state
    if progress.unfinished is not None:
      self._finish_step(state, progress.unfinished)
    for step, batch in zip(range(progress.step + 1, run.stop_step + 1), self._batches, strict=False):
      state, metrics = self._ready.step_fn(step, state, batch)
      progress.step = step
      self._watch.add(step, metrics)
      self._reporter.tick(step, metrics)
      self._finish_step(state, self._row(metrics) if due(step, run.log_every, run) else {})
      self._reporter.step_done()
    self._saves.settle(state, progress)
    return progress.metrics

  def _row(self, metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Returns the row of a logged step."""
    self._watch.settle()
    skipped = float(self._progress.health.skipped)
    return finite_only(metrics) | {'train/skipped_steps': skipped} | self._reporter.lap()

  def _finish_step(self, state: TrainState, row: dict[str, float]) -> None:
    """Does what is due after a step: compares, evaluates, logs, saves. Told to leave, saves and raises Preempted."""
    run, progress, step = self._run, self._progress, self._progress.step
    evaluated, progress.unfinished = {}, None
    self._replicas.look(step, state)
    try:
      evaluated = self._evaluations.run(step, state)
    except Preempted:
      progress.unfinished = row
    else:
      self._reporter.write(step, row | evaluated)
    progress.metrics |= evaluated
    stops = self._supervisor.point()
    if stops or self._saves.due(step):
      self._saves.save(state, progress, evaluated)
    if stops and (step < run.stop_step or progress.unfinished is not None):
      self._saves.settle(state, progress)
      where = Problem('step', f'{step} of {run.stop_step}', '', 'The same command goes on from here')
      raise Preempted(f'{self._supervisor.told}: saved and left', [where])
