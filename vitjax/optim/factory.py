"""OptimConfig -> one optax transformation: clipping, direction, layer decay, weight decay, rate, freezing."""

from __future__ import annotations

import difflib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitjax import trees
from vitjax.config.schema import OptimConfig
from vitjax.errors import ConfigError, Problem
from vitjax.optim.directions import direction
from vitjax.optim.layer_decay import is_stacked, layer_multipliers

Params = Any


def make_optimizer(
  config: OptimConfig, params: Params, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """Returns the transformation from gradients to updates; new parameters are params + updates.

  For a trained parameter w with gradient g, in this order:

    1. g is scaled so that the norm over all trained gradients is at most clip_norm. Frozen parameters do not
       count towards the norm.
    2. u = the direction of optim.name: AdamW's m / (sqrt(v) + eps), SGD's momentum ..., see `direction`.
    3. the update: with rate = schedule(step) and the layer's factor f (see `layer_multipliers`)
         'times_lr'      -rate * f * (u + weight_decay * w)
         'independent'   -rate * f * u - (rate / peak_lr) * weight_decay * w
         lamb            -rate * f * r * (u + weight_decay * w), r = |w| / |u + weight_decay * w| of the array, 1
                         where either is zero; of each layer where layers are stacked
       where only the paths that weight_decay_on matches are decayed. The decay is decoupled for all: it is not
       part of a momentum.

  Frozen parameters get zero updates and no optimiser state (optax.MaskedNode stands in their places).
  All arithmetic is float32 at least, whatever the parameters' dtype; the second moment is kept so, the first
  moment in momentum_dtype.

  Args:
    config: the recipe's `optim` part. Accumulation and averaging are the train step's business.
    params: the parameter tree, abstract or not; only paths and shapes are read.
    schedule: from `make_schedule`; counts the steps itself, from the optimiser state.

  Raises:
    ConfigError: patterns that are no regular expressions or match no parameter, nothing left to train,
      layer_decay for a model without encoder blocks, or values that divide by zero; all at once.

  Source: AdamW and both forms of decay: arXiv 1711.05101. Clipping: arXiv 1211.5063. Frozen layers: ViT-style
    linear probes. A first moment in bfloat16: the ViT code.
  Differs from source: that code, where the moment is bfloat16, also multiplies it in bfloat16, so that 0.9
    acts as 0.898; here only storage is rounded.
  """
  multipliers = _checked(config, params)
  weight_decay = _weight_decay(config)
  steps = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
  steps.append(direction(config))
  if config.weight_decay and config.weight_decay_form == 'independent':
    peak = config.peak_lr
    steps += [_scale_by_path(multipliers), optax.scale(peak), weight_decay]
    steps.append(optax.scale_by_learning_rate(lambda step: schedule(step) / peak))
  else:
    # A checkpoint names the state by its place in the chain, so a step that some recipes lack is left out there.
    ratio = [optax.stateless(_trust_ratio)] if config.name == 'lamb' else []
    steps += [weight_decay, *ratio, _scale_by_path(multipliers), optax.scale_by_learning_rate(schedule)]
  optimizer = _in_float32(optax.chain(*steps))
  if not config.freeze:
    return optimizer
  labels = trees.map_with_path(lambda path, _: 'frozen' if is_frozen(config, path) else 'trained', params)
  return optax.partition({'trained': optimizer, 'frozen': optax.set_to_zero()}, labels)


def is_frozen(config: OptimConfig, path: str) -> bool:
  """Returns whether one of config.freeze matches the parameter path in full."""
  return any(re.fullmatch(pattern, path) for pattern in config.freeze)


def _weight_decay(config: OptimConfig) -> optax.GradientTransformation:
  """Returns the transformation that adds weight_decay * w for the paths that decay."""
  if not config.weight_decay:
    return optax.identity()

  def decays(tree: Params) -> Params:
    return trees.map_with_path(lambda path, _: re.fullmatch(config.weight_decay_on, path) is not None, tree)

  return optax.add_decayed_weights(config.weight_decay, mask=decays)


def _trust_ratio(updates: Params, params: Params) -> Params:
  """Returns LAMB's updates: each array, or each layer of a stacked one, brought to the norm of its parameter."""

  def scaled(path: str, update: jax.Array, param: jax.Array) -> jax.Array:
    axes = tuple(range(1 if is_stacked(path) else 0, param.ndim))
    norms = [jnp.sqrt(jnp.sum(x**2, axes, keepdims=True)) for x in (param, update)]
    moves = (norms[0] > 0) & (norms[1] > 0)
    return update * jnp.where(moves, norms[0] / jnp.where(moves, norms[1], 1.0), 1.0)

  return trees.map_with_path(scaled, updates, params)


def _scale_by_path(multipliers: dict[str, float | np.ndarray]) -> optax.GradientTransformation:
  """Returns the stateless transformation that multiplies each update by the entry for its path; {}: none."""
  if not multipliers:
    return optax.identity()

  def scale(updates: Params, params: Params | None = None) -> Params:
    del params
    return trees.map_with_path(lambda path, update: update * multipliers[path], updates)

  return optax.stateless(scale)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
  """Returns `inner` fed with float32 gradients and parameters (wider ones stay), so its state is float32.

  In bfloat16 a second moment with b2 = 0.999 would never fall, because 0.999 rounds to 1.
  """

  def widen(tree: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

  def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
    return inner.update(widen(updates), state, None if params is None else widen(params))

  return optax.GradientTransformation(lambda params: inner.init(widen(params)), update)


def _checked(config: OptimConfig, params: Params) -> dict[str, float | np.ndarray]:
  """Returns the layer multipliers ({} for none) after raising with everything that is wrong."""
  paths = list(trees.flatten(params))
  patterns = {f'optim.freeze[{i}]': pattern for i, pattern in enumerate(config.freeze)}
  if config.weight_decay:
    patterns['optim.weight_decay_on'] = config.weight_decay_on
  problems = [problem for item in patterns.items() if (problem := _pattern_problem(*item, paths))]
  if config.freeze and not problems and all(is_frozen(config, path) for path in paths):
    expected = 'patterns that leave something to train'
    problems.append(Problem('optim.freeze', repr(config.freeze), expected))
  if config.weight_decay and config.weight_decay_form == 'independent' and not config.peak_lr:
    problems.append(Problem('optim.peak_lr', '0', "above 0 for weight_decay_form='independent'"))
  if config.name != 'sgd':
    problems += [
      Problem(f'optim.{name}', '1', 'below 1 (its average would never start)')
      for name in ('b1', 'b2')
      if getattr(config, name) == 1
    ]
  multipliers: dict[str, float | np.ndarray] = {}
  if config.layer_decay != 1:
    try:
      multipliers = layer_multipliers(params, config.layer_decay)
    except ConfigError as error:
      problems += error.problems
  if problems:
    raise ConfigError('the optimiser does not fit the model', problems)
  return multipliers


def _pattern_problem(where: str, pattern: str, paths: list[str]) -> Problem | None:
  """Returns what is wrong with a pattern that should match parameter paths, None where nothing is."""
  try:
    regex = re.compile(pattern)
  except re.error as error:
    return Problem(where, repr(pattern), f'a regular expression ({error})')
  if any(regex.fullmatch(path) for path in paths):
    return None
  partly = [path for path in paths if regex.search(path)]
  if partly:
    hint = f'It matches only a part of {partly[0]}: put .* around it'
  else:
    literal = re.sub(r'\\.|[.*+?^$()\[\]{}|]', '', pattern)
    hint = 'Nearest: ' + ', '.join(difflib.get_close_matches(literal, paths, n=3, cutoff=0.0))
  return Problem(where, repr(pattern), 'a pattern that matches at least one parameter path in full', hint)
