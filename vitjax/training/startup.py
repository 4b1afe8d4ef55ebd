"""From a run and its workdir to the first batch: compile, restore or initialise, and open the input, all at once."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax

from vitjax.checkpoint import Store
from vitjax.parallel.distributed import is_main
from vitjax.training.build import Run
from vitjax.training.goodput import Clock
from vitjax.training.programs import Programs
from vitjax.training.resume import Progress, restore_or_init
from vitjax.training.state import TrainState
from vitjax.training.timeline import Timeline

log = logging.getLogger('vitjax')


@dataclasses.dataclass
class Ready:
  """A run that can take its next step.

  Attributes:
    state: restored or fresh.
    progress: how far the run is.
    step_fn: the compiled train step, (step, state, batch) -> (state, metrics).
    batches: global batches from the one after `progress.step` on; empty when that is the last.
  """

  state: TrainState
  progress: Progress
  step_fn: Callable[..., Any]
  batches: Iterator[dict[str, jax.Array]]


class _Input:
  """The batches after `step`, with the first one made already."""

  def __init__(self, run: Run, step: int, timeline: Timeline):
    self._batches = run.batches(step)
    with timeline.part('first batch'):
      self._first = [*itertools.islice(self._batches, 1)]

  def __iter__(self) -> Iterator[dict[str, jax.Array]]:
    return itertools.chain(self._first, self._batches)

  def close(self) -> None:
    self._batches.close()


@contextlib.contextmanager
def start(run: Run, store: Store, clock: Clock, timeline: Timeline) -> Iterator[Ready]:
  """Gives the run ready to go; closes its input at the end. Host-side; called by all processes.

  The step is compiled and the first batch is made in threads, beside the restore. The input is opened where the
  newest checkpoint stands; should that one be damaged, it is opened again where the sound one stands.

  Raises:
    CheckpointError, DataError: see `train`.
  """
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(futures.ThreadPoolExecutor(2, thread_name_prefix='vitjax-start'))

    def opening(step: int) -> futures.Future[_Input]:
      future = pool.submit(_Input, run, step, timeline)
      stack.callback(_close, future)
      return future

    expected = store.latest_step() or 0
    compiled = opened = None
    if expected < run.stop_step:
      if run.recipe.log.progress and is_main():
        log.info('compiling the train step ...')
      compiled, opened = pool.submit(_compile, run, timeline), opening(expected)
    with timeline.part('restore' if expected else 'init'), clock.during('restore'):
      state, progress = restore_or_init(run, store)
      jax.block_until_ready(state)
    if progress.step >= run.stop_step:
      yield Ready(state, progress, Programs(run.step_fns, run.recipe.seed), iter(()))
      return
    if compiled is None:
      compiled = pool.submit(_compile, run, timeline)
    if opened is None or progress.step != expected:
      opened = opening(progress.step)
    with clock.during('compile'):
      step_fn = compiled.result()
    yield Ready(state, progress, step_fn, iter(opened.result()))


def _compile(run: Run, timeline: Timeline) -> Programs:
  """Returns the compiled train step, from the persistent cache where it is there; one program after the other."""
  with timeline.part('compile'):
    state, batch = run.abstract_state, run.abstract_batch()
    return Programs([step_fn.lower(state, batch).compile() for step_fn in run.step_fns], run.recipe.seed)


def _close(opened: futures.Future[_Input]) -> None:
  """Closes an input; one that could not be opened has raised its error where the run waited for it."""
  if opened.exception() is None:
    opened.result().close()
