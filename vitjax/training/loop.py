"""The loop: restore or initialise; for each step: batch, train step, log, evaluate, save; close."""

from __future__ import annotations

import contextlib
import os
import pathlib

from vitjax.checkpoint import Saver, Store
from vitjax.training.build import Run
from vitjax.training.numerics import FiniteWatch
from vitjax.training.profiling import ProfiledStep
from vitjax.training.reporter import Reporter
from vitjax.training.resume import checkpoint_items
from vitjax.training.startup import Ready, start
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
  tensorboard/.

  Args:
    run: from `build`.
    workdir: folder of this run; made if missing.
    timeline: of what came before, for the report of the start; None: it begins here.
    profile: first and last step to trace into WORKDIR/profile.

  Raises:
    TrainingError: a loss, gradient or update that is not finite; nothing of that step reaches a checkpoint.
    CheckpointError: the workdir's checkpoints are damaged, in use by another job, or of another model.
    DataError: more unreadable records than the source's budget allows, or other data than before.
  """
  workdir = pathlib.Path(workdir).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  timeline = timeline or Timeline()
  with Store(workdir, run.recipe.checkpoint) as store, start(run, store, timeline) as ready:
    timeline.lap('ready')
    if profile is not None:
      ready.step_fn = ProfiledStep(ready.step_fn, step=ready.step, window=profile, folder=workdir / 'profile')
    with contextlib.closing(Reporter(run, workdir, ready.step, timeline)) as reporter:
      return _run_steps(run, store, reporter, ready)


def _run_steps(run: Run, store: Store, reporter: Reporter, ready: Ready) -> dict[str, float]:
  """Runs the steps up to stop_step; returns the metrics of the last evaluations."""
  state, last = ready.state, ready.metrics
  finite = FiniteWatch()
  saver = Saver(store, run.recipe.checkpoint.retries)
  reporter.begin()
  for step, batch in zip(range(ready.step + 1, run.stop_step + 1), ready.batches, strict=False):
    state, metrics = ready.step_fn(state, batch)
    finite.add(step, metrics.pop('finite'))
    reporter.tick(step, metrics)
    row, evaluated = {}, {}
    if _due(step, run.log_every, run):
      row |= {f'train/{name}': float(value) for name, value in metrics.items()} | reporter.lap()
    for name, evaluator in run.evaluators.items():
      if _due(step, run.eval_every[name], run):
        finite.check()
        with reporter.excluded():
          result = evaluator.run(state.evaluated_params())
        evaluated |= {f'{name}/{key}': value for key, value in result.items()}
    last |= evaluated
    if row or evaluated:
      finite.check()
      reporter.write(step, row | evaluated)
    if saver.due() or _due(step, run.save_every, run):
      finite.check()
      # A step that was not evaluated is no candidate for keep_best.
      candidate = evaluated if run.recipe.checkpoint.keep_best in evaluated else None
      with reporter.excluded():
        saver.save(step, **checkpoint_items(run, state, last), metrics=candidate)
  while not saver.settle():
    saver.save(run.stop_step, **checkpoint_items(run, state, last))
  return last


def _due(step: int, every: int, run: Run) -> bool:
  """Whether something that happens `every` steps happens now; the last step always counts."""
  return step == run.stop_step or (every > 0 and step % every == 0)
