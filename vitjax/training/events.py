"""What happens between two steps: evaluations, saves, and looks at the replicas."""

from __future__ import annotations

from collections.abc import Callable

from vitjax.checkpoint import Saver, Store
from vitjax.parallel.interruption import interruptible
from vitjax.training.build import Run
from vitjax.training.goodput import Clock
from vitjax.training.numerics import StepWatch, require_finite
from vitjax.training.replicas import ReplicaCheck
from vitjax.training.resume import Progress, checkpoint_items
from vitjax.training.state import TrainState


def due(step: int, every: int, run: Run) -> bool:
  """Returns whether something that happens `every` steps happens now; the last step always counts."""
  return step == run.stop_step or (every > 0 and step % every == 0)


class Evaluations:
  """Runs the evaluators that are due.

  Args:
    run: knows the evaluators.
    clock: accounts for the time.
    watch: looks at all steps so far before an evaluation.
    point: called once a batch; it raises what makes an evaluation end early.
  """

  def __init__(self, run: Run, clock: Clock, watch: StepWatch, point: Callable[[], None]):
    self._run, self._clock, self._watch, self._point = run, clock, watch, point

  def run(self, step: int, state: TrainState) -> dict[str, float]:
    """Returns {'NAME/METRIC': value} of the evaluations of this step; raises what `point` raises."""
    found = {}
    for name, evaluator in self._run.evaluators.items():
      if due(step, self._run.eval_every[name], self._run):
        self._watch.settle()
        with self._clock.during('evaluation'), interruptible(self._point):
          result = evaluator.run(state.evaluated_params())
        found |= {f'{name}/{key}': value for key, value in result.items()}
    return found


class Saves:
  """Saves the state when it is due, when a failed save is to be repeated, and when it is asked for.

  Args:
    run: says when.
    store: where to.
    clock: accounts for the time.
    watch: looks at all steps so far before a save.
  """

  def __init__(self, run: Run, store: Store, clock: Clock, watch: StepWatch):
    self._run, self._clock, self._watch = run, clock, watch
    self._saver = Saver(store, run.recipe.checkpoint.retries)

  def due(self, step: int) -> bool:
    """Returns whether to save after this step. To be called after every step."""
    return self._saver.due() or due(step, self._run.save_every, self._run)

  def save(self, state: TrainState, progress: Progress, evaluated: dict[str, float]) -> None:
    """Starts a save. A step that was not evaluated is no candidate for keep_best.

    Raises:
      TrainingError: something that would be saved is not finite.
    """
    candidate = evaluated if self._run.recipe.checkpoint.keep_best in evaluated else None
    self._watch.settle()
    with self._clock.during('save'):
      require_finite(self._run.mesh, state, progress.step)
      self._saver.save(progress.step, **checkpoint_items(self._run, state, progress), metrics=candidate)

  def settle(self, state: TrainState, progress: Progress) -> None:
    """Returns when the last save is committed; repeats it where storage fails for a while."""
    with self._clock.during('save'):
      while not self._saver.settle():
        self._saver.save(progress.step, **checkpoint_items(self._run, state, progress))


class Replicas:
  """Compares the copies of the state on several devices every resilience.replica_check_every."""

  def __init__(self, run: Run):
    self._run = run
    self._check: ReplicaCheck | None = None

  def look(self, step: int, state: TrainState) -> None:
    """Looks where it is due; raises TrainingError when copies differ."""
    every = self._run.replica_check_every
    if every == 0 or step % every:
      return
    if self._check is None:
      self._check = ReplicaCheck(self._run.mesh, self._run.abstract_state)
    if self._check.needed:
      self._check.run(state, step)
