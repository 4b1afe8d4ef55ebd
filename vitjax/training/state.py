"""The arrays that training changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vitjax.config.schema import ParallelConfig
from vitjax.objectives import Objective
from vitjax.optim import ema_init
from vitjax.parallel.mesh import replicated
from vitjax.parallel.rules import param_shardings, shardings_like


@flax.struct.dataclass
class TrainState:
  """Everything a step reads and writes; arrays alone, so that it checkpoints and donates as a whole.

  Attributes:
    step: int32 scalar, optimiser steps done.
    params: nested dict of parameters.
    opt_state: optax state.
    ema_params: like params, or None when optim.ema_decay is None.
    rng: raw key data, uint32 [2]; every draw is fold_in(rng, step), so a resumed run draws the same.
    frozen: weights that the objective reads and that never change, such as a teacher's; not saved. None: no such.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema_params: Any
  rng: jax.Array
  frozen: Any = None

  def evaluated_params(self) -> Any:
    """Returns the parameters that evaluation uses: the moving average where there is one."""
    return self.params if self.ema_params is None else self.ema_params


def init_state(
  objective: Objective, optimizer: optax.GradientTransformation, *, seed: int, use_ema: bool
) -> TrainState:
  """Returns the state before the first step. Traced (under jit or eval_shape)."""
  init_key, train_key = jax.random.split(jax.random.key(seed))
  params = objective.init(init_key)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=optimizer.init(params),
    ema_params=ema_init(params) if use_ema else None,
    rng=jax.random.key_data(train_key),
  )


def update_where(accepted: jax.Array | bool, new: TrainState, old: TrainState) -> TrainState:
  """Returns `new` where a step is accepted, else `old` with its counters moved on: the step, and the schedule's.

  Input, randomness and learning rate follow the step, so a skipped step changes nothing for later ones but the
  update that was not made.
  """

  def choose(new_leaf: Any, old_leaf: Any) -> Any:
    if isinstance(new_leaf, optax.ScaleByScheduleState):
      return new_leaf
    return jnp.where(accepted, new_leaf, old_leaf)

  moving, before = dataclasses.replace(new, frozen=None), dataclasses.replace(old, frozen=None)
  chosen = jax.tree.map(
    choose, moving, before, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState)
  )
  return dataclasses.replace(chosen, step=new.step, rng=new.rng, frozen=old.frozen)


def pass_over(state: TrainState) -> TrainState:
  """Returns the state with its counters moved on, as after a step that was skipped. Host-side."""

  def count(node: Any) -> Any:
    return node._replace(count=node.count + 1) if isinstance(node, optax.ScaleByScheduleState) else node

  opt_state = jax.tree.map(
    count, state.opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState)
  )
  return dataclasses.replace(state, step=state.step + 1, opt_state=opt_state)


def state_shardings(
  abstract: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh, parallel: ParallelConfig
) -> TrainState:
  """Returns the NamedSharding of every array: moments and averages follow their parameter, scalars replicate.

  Raises:
    ShardingRuleError: a parameter that no rule covers, or a rule that does not fit.
  """
  params = param_shardings(abstract.params, mesh, parallel.rules)
  return dataclasses.replace(
    abstract,
    step=replicated(mesh),
    params=params,
    opt_state=shardings_like(optimizer, abstract.opt_state, params, replicated(mesh), abstract.params),
    ema_params=None if abstract.ema_params is None else params,
    rng=replicated(mesh),
  )
