"""Faults that are armed inside a run's own process before it starts (see runs.Job): ranks, numbers, weights."""

from __future__ import annotations

import importlib
import time
from typing import Any


def fail_at(step: int, kind: str, times: int = 1) -> None:
  """Does something where the batches of step .. step + times - 1 are asked for.

  Kinds: 'sleep' for ever; 'raise' an exception; 'slow', half a second; 'nan' and 'spike', labels that make
  `poison` multiply the loss and gradients by NaN and 100.
  """
  import jax.numpy as jnp

  module = importlib.import_module('vitjax.training.build')
  real = module.Run.batches

  def batches(self: Any, start: int) -> Any:
    for number, batch in enumerate(real(self, start), start + 1):
      if step <= number < step + times:
        if kind == 'slow':
          time.sleep(0.5)
        elif kind == 'sleep':
          time.sleep(1e6)
        elif kind == 'raise':
          raise RuntimeError('no space left on this device')
        else:
          batch = batch | {'label': jnp.full_like(batch['label'], _MARK)}
      yield batch

  module.Run.batches = batches
  if kind in ('nan', 'spike'):
    _poison(float('nan') if kind == 'nan' else 100.0)


_MARK = 3  # a batch whose labels are all this one is poisoned


def _poison(factor: float) -> None:
  import jax
  import jax.numpy as jnp

  module = importlib.import_module('vitjax.training.step')
  real = module.loss_and_grads

  def loss_and_grads(objective: Any, params: Any, batch: Any, key: Any, num_micro: int) -> Any:
    output, grads = real(objective, params, batch, key, num_micro)
    by = jnp.where(jnp.all(batch['label'] == _MARK), factor, 1.0)
    metrics = {name: (total * by, weight) for name, (total, weight) in output.metrics.items()}
    return output.__class__(output.loss * by, metrics), jax.tree.map(lambda grad: grad * by, grads)

  module.loss_and_grads = loss_and_grads


def damage_state(step: int, kind: str) -> None:
  """Changes the parameters before `step`: 'nan', one weight; 'replica', one weight of the copy on the last device."""
  import jax
  import numpy as np

  loop = importlib.import_module('vitjax.training.loop')
  passing_over = loop.passing_over

  def damaged(leaf: Any) -> Any:
    shards = []
    for shard in leaf.addressable_shards:
      data = np.array(shard.data)
      if kind == 'nan':
        data.reshape(-1)[0] = np.nan
      elif shard is leaf.addressable_shards[-1]:
        data.reshape(-1)[0] += 0.5
      shards.append(jax.device_put(data, shard.device))
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)

  def armed(step_fn: Any, *args: Any) -> Any:
    run = passing_over(step_fn, *args)

    def step_once(number: int, state: Any, batch: Any) -> Any:
      state, metrics = run(number, state, batch)
      if number == step:
        params = {
          **state.params,
          'head': {**state.params['head'], 'bias': damaged(state.params['head']['bias'])},
        }
        state = state.replace(params=params)
      return state, metrics

    return step_once

  loop.passing_over = armed
