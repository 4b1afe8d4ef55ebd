"""The watch on numbers: steps that are not finite, losses that jump, and weights that must not be saved.

A step whose loss or gradients are not finite is skipped inside the jitted step (see step.py). What to do about it is
decided here, on the host, from global values: every process comes to the same decision at the same step.

Rollback, exactly. When the loss of step k is a spike, the run returns to its newest checkpoint, of step c < k (or to
the seed), with its input, log and loss history as they were there. Steps c + 1, c + 2, ... are done again, bit by bit
as before; but of the steps from k - spike_skip + 1 to k, as far as they come after c, only the counters move: no
update is made, and the loss is not looked at. Step k + 1 follows with its own batch. A second spike soon afterwards
does the same with its own batches added; max_skipped bounds it all. Killed before the next checkpoint, the run meets
the same spike and does the same.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import logging
import math
import statistics
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from vitjax import trees
from vitjax.config.schema import ResilienceConfig
from vitjax.errors import Problem, TrainingError
from vitjax.parallel.distributed import is_main
from vitjax.parallel.mesh import replicated
from vitjax.training.goodput import Clock
from vitjax.training.state import TrainState, pass_over

log = logging.getLogger('vitjax')


@dataclasses.dataclass
class Health:
  """What the watch remembers; part of every checkpoint, so that a resumed run decides as the whole one would.

  Attributes:
    skipped: steps of the whole run whose update was not made.
    in_a_row: of these, the last ones in a row.
    losses: of the last accepted steps.
  """

  skipped: int = 0
  in_a_row: int = 0
  losses: list[float] = dataclasses.field(default_factory=list)


class Rollback(Exception):
  """A spike after which the run returns to its newest checkpoint. `steps` are to be passed over."""

  def __init__(self, steps: range):
    super().__init__(steps)
    self.steps = steps


class StepWatch:
  """Looks at each step's outcome two steps late, so that the device never waits for the host.

  Args:
    config: when enough is enough.
    health: what it remembers; changed in place.
    clock: accounts for the waits for the devices.
  """

  def __init__(self, config: ResilienceConfig, health: Health, clock: Clock):
    self._config, self._clock = config, clock
    self.health = health
    self._pending: collections.deque[tuple[int, dict[str, jax.Array]]] = collections.deque()

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Notes the outcome of a step that has just been dispatched ({}: passed over); looks at the one before the last.

    Raises:
      TrainingError: an earlier step is one skipped step too many, or left parameters that are not finite.
      Rollback: the loss of an earlier step is a spike, and the recipe says what to do about it.
    """
    self._pending.append((step, {n: metrics[n] for n in ('finite', 'loss', 'update_norm') if n in metrics}))
    if len(self._pending) > 2:
      self._look()

  def settle(self) -> None:
    """Looks at every step so far; called before anything is written. Raises as `add`."""
    while self._pending:
      self._look()

  def _look(self) -> None:
    step, values = self._pending.popleft()
    with self._clock.on_device():
      outcome: dict[str, Any] = jax.device_get(values)
    if not outcome or not outcome['finite']:
      self._count(step, passed_over=not outcome)
      return
    self.health.in_a_row = 0
    if not math.isfinite(outcome['update_norm']):
      hint = 'Earlier checkpoints are intact; look for an optim.peak_lr or an optim.eps without measure'
      problem = Problem(f'step {step}', 'not finite', 'a finite update', hint)
      raise TrainingError('training stopped: the optimiser made an update that is not finite', [problem])
    self._look_at_loss(step, float(outcome['loss']))

  def _count(self, step: int, *, passed_over: bool) -> None:
    health, config = self.health, self._config
    health.skipped += 1
    health.in_a_row += not passed_over
    if not passed_over and is_main():
      log.warning('step %d: the loss or a gradient is not finite; its update was skipped', step)
    counts = {'max_skipped_in_a_row': health.in_a_row, 'max_skipped': health.skipped}
    over = [name for name, count in counts.items() if count > getattr(config, name)]
    if over:
      limits = [
        Problem(
          f'resilience.{name}', str(getattr(config, name)), f'at least the {counts[name]} that were skipped'
        )
        for name in over
      ]
      found = Problem(
        f'step {step}', 'a spike' if passed_over else 'not finite', 'finite loss and gradients',
        'Earlier checkpoints are intact; start again with a lower optim.peak_lr, a longer optim.warmup or '
        'optim.clip_norm, and look at the images of this step with `vitjax data`',
      )  # fmt: skip
      raise TrainingError('training stopped: too many steps had to be skipped', [found, *limits])

  def _look_at_loss(self, step: int, loss: float) -> None:
    config, losses = self._config, self.health.losses
    if config.spike_factor is None:
      return
    median = statistics.median(losses) if len(losses) >= max(config.spike_window // 2, 1) else math.inf
    if 0 < median * config.spike_factor < loss:
      if is_main():
        text = 'step %d: the loss, %.4g, is %.1f times the median of the last %d steps'
        log.warning(text, step, loss, loss / median, len(losses))
      if config.on_spike == 'rollback':
        raise Rollback(range(step - config.spike_skip + 1, step + 1))
      return
    losses.append(loss)
    del losses[: -config.spike_window]


def passing_over(step_fn: Callable[..., Any], steps: Collection[int], clock: Clock) -> Callable[..., Any]:
  """Returns step_fn, (step, state, batch) -> (state, metrics), which does no more than count in the given steps."""

  def run(step: int, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    with clock.on_device():
      return (pass_over(state), {}) if step in steps else step_fn(step, state, batch)

  return run


def finite_only(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
  """Returns {'train/NAME': value} of the scalars that are finite numbers; a skipped step has few."""
  values = {f'train/{name}': float(value) for name, value in metrics.items() if name != 'finite'}
  return {name: value for name, value in values.items() if math.isfinite(value)}


@functools.cache
def _all_finite(mesh: Mesh) -> Callable[[list[jax.Array]], jax.Array]:
  """Returns the jitted function from arrays to bool [number of arrays], whole on every device."""

  def check(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])

  return jax.jit(check, out_shardings=replicated(mesh))


def require_finite(mesh: Mesh, state: TrainState, step: int) -> None:
  """Returns when all that would be saved is finite. Called by all processes together.

  Raises:
    TrainingError: names the arrays that are not.
  """
  arrays = {'params': state.params, 'opt_state': state.opt_state, 'ema_params': state.ema_params}
  flat = {f'{item}/{path}': x for item, tree in arrays.items() for path, x in trees.flatten(tree).items()}
  floats = {path: leaf for path, leaf in flat.items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
  finite = jax.device_get(_all_finite(mesh)(list(floats.values())))
  broken = [path for path, good in zip(floats, finite, strict=True) if not good]
  if broken:
    problems = [Problem(path, 'not finite', 'finite numbers') for path in broken[:10]]
    hint = 'Nothing was written; earlier checkpoints are intact. Start again from the newest one'
    more = [f'{len(broken) - 10} more arrays'] if len(broken) > 10 else []
    problems += [Problem(text) for text in more]
    raise TrainingError(
      f'step {step} is not saved: its weights are damaged', [*problems, Problem('next step', hint=hint)]
    )
