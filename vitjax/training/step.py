"""One optimiser step, the same code on one CPU and on a pod."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitjax.config.schema import OptimConfig
from vitjax.objectives import Objective
from vitjax.objectives.base import Batch, LossOutput
from vitjax.optim.ema import ema_update
from vitjax.optim.sharpness import sharpness_aware
from vitjax.training.state import TrainState, update_where

StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def _split(batch: Batch, num_micro: int) -> Batch:
  """Returns [n, ...] arrays as [num_micro, n / num_micro, ...]; micro-batch i takes rows i, i + num_micro, ...

  Strided rows keep every row on the device that holds it, where contiguous ones would move the batch.
  """
  return jax.tree.map(lambda x: x.reshape(-1, num_micro, *x.shape[1:]).swapaxes(0, 1), batch)


def loss_and_grads(
  objective: Objective, params: Any, batch: Batch, key: jax.Array, num_micro: int
) -> tuple[LossOutput, Any]:
  """Returns the loss output and the gradients of an augmented global batch, accumulated over micro-batches.

  Args:
    objective: what is learned.
    params: nested dict.
    batch: augmented arrays [n, ...]; num_micro divides n.
    key: seeds dropout; micro-batch i uses fold_in(key, i).
    num_micro: optim.accumulation_steps.
  """

  def loss_fn(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, LossOutput]:
    output = objective.loss(params, batch, key)
    return output.loss, output

  grad_fn = jax.grad(loss_fn, has_aux=True)

  def micro(index: jax.Array, batch: Batch) -> tuple[Any, LossOutput]:
    return grad_fn(params, batch, jax.random.fold_in(key, index))

  if num_micro == 1:
    grads, output = micro(jnp.int32(0), batch)
    return output, grads

  micro_batches = _split(batch, num_micro)
  first = jax.tree.map(lambda x: x[0], micro_batches)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(micro, jnp.int32(0), first))

  def body(total: Any, indexed: tuple[jax.Array, Batch]) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, micro(*indexed)), None

  (grads, output), _ = jax.lax.scan(body, zeros, (jnp.arange(num_micro), micro_batches))
  grads = jax.tree.map(lambda g: g / num_micro, grads)
  return LossOutput(output.loss / num_micro, output.metrics), grads


def make_train_step(
  objective: Objective, optimizer: optax.GradientTransformation, schedule: optax.Schedule, config: OptimConfig
) -> StepFn:
  """Returns the pure step function: (state, batch) -> (new state, metrics). To be jitted by the caller.

  The batch is global: 'image' uint8 [n, h, w, 3] and what else the objective's augment() reads. Metrics are
  float32 scalars: the objective's, 'grad_norm' (before clipping), 'update_norm' and 'learning_rate', all of
  this step alone; and the bool 'finite', false when the loss or the gradients are not: the step is then counted,
  and the schedule goes on, but parameters, moments and averages stay what they were, on every device.
  """

  def gradients(params: Any, batch: Batch, key: jax.Array) -> tuple[LossOutput, Any]:
    return loss_and_grads(objective, params, batch, key, config.accumulation_steps)

  gradients_of = sharpness_aware(gradients, config)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    augment_key, loss_key = jax.random.split(key)
    with jax.named_scope('augment'):
      batch = objective.augment(augment_key, batch, state.frozen)
    rate = jnp.asarray(schedule(state.step), jnp.float32)
    output, grads = gradients_of(state.params, batch, loss_key, rate)
    with jax.named_scope('optimizer'):
      updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
    with jax.named_scope('metrics'):
      grad_norm, update_norm = optax.tree.norm(grads), optax.tree.norm(updates)
      # Known before the update: were the update's own norm to decide, all of it would have to be kept until then.
      finite = jnp.isfinite(output.loss) & jnp.isfinite(grad_norm)
    metrics = {name: total / weight for name, (total, weight) in output.metrics.items()}
    metrics |= {
      'grad_norm': grad_norm,
      'update_norm': update_norm,
      'learning_rate': rate,
      'finite': finite,
    }
    ema_params = state.ema_params
    if config.ema_decay is not None:
      with jax.named_scope('optimizer'):
        ema_params = ema_update(ema_params, params, config.ema_decay)
    new_state = TrainState(state.step + 1, params, opt_state, ema_params, state.rng)
    with jax.named_scope('optimizer'):
      return update_where(finite, new_state, state), metrics

  return train_step
