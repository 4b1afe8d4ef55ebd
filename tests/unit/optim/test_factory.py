"""Optimisers against slow numpy versions; clipping, decay masks, freezing, dtypes, shapes of the state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from vitjax import trees
from vitjax.config.schema import OptimConfig
from vitjax.errors import ConfigError
from vitjax.optim import make_optimizer

SHAPES = {'embedding/kernel': (2, 3), 'embedding/bias': (3,), 'head/kernel': (3, 2), 'head/bias': (2,)}
RATES = [0.0, 0.01, 0.02, 0.03, 0.015]
PEAK = 0.04


def draw(seed, dtype=np.float64):
  rng = np.random.default_rng(seed)
  return {path: rng.normal(0, 1, shape).astype(dtype) for path, shape in SHAPES.items()}


def to_tree(flat, dtype=jnp.float32):
  return trees.unflatten({path: jnp.asarray(leaf, dtype) for path, leaf in flat.items()})


def schedule(step):
  return jnp.asarray(RATES, jnp.float32)[step]


def run(config, flat_params, flat_grads, dtype=jnp.float32):
  """Five optimiser steps; returns the flat parameters after each and the last state."""
  params = to_tree(flat_params, dtype)
  optimizer = make_optimizer(config, params, schedule)
  state = optimizer.init(params)
  step = jax.jit(optimizer.update)
  history = []
  for grads in flat_grads:
    updates, new_state = step(to_tree(grads, dtype), state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(
      lambda x: (x.shape, x.dtype), state
    )
    params, state = optax.apply_updates(params, updates), new_state
    history.append(trees.flatten(params))
  return history, state


def config_of(**knobs):
  return OptimConfig(**{'peak_lr': PEAK, 'clip_norm': None, 'weight_decay': 0.0, **knobs})


def slow_adamw(params, gradients, *, b1, b2, eps, decay, form):
  params = {path: leaf.copy() for path, leaf in params.items()}
  m = {path: np.zeros(shape) for path, shape in SHAPES.items()}
  v = {path: np.zeros(shape) for path, shape in SHAPES.items()}
  history = []
  for t, (grads, rate) in enumerate(zip(gradients, RATES, strict=True), start=1):
    for path in SHAPES:
      m[path] = b1 * m[path] + (1 - b1) * grads[path]
      v[path] = b2 * v[path] + (1 - b2) * grads[path] ** 2
      step = rate * (m[path] / (1 - b1**t)) / (np.sqrt(v[path] / (1 - b2**t)) + eps)
      if path.endswith('kernel'):
        step += decay * params[path] * (rate if form == 'times_lr' else rate / PEAK)
      params[path] = params[path] - step
    history.append({path: leaf.copy() for path, leaf in params.items()})
  return history


def assert_same(ours, wanted, **tolerance):
  assert set(ours) == set(wanted)
  for path in wanted:
    np.testing.assert_allclose(np.asarray(ours[path], np.float64), wanted[path], **tolerance, err_msg=path)


@pytest.mark.parametrize('form', ['times_lr', 'independent'])
@pytest.mark.parametrize('betas', [(0.9, 0.999, 1e-8), (0.5, 0.8, 0.1)])
def test_adamw(form, betas):
  b1, b2, eps = betas
  params, grads = draw(0), [draw(seed) for seed in range(1, 6)]
  config = config_of(b1=b1, b2=b2, eps=eps, weight_decay=0.3, weight_decay_form=form)
  history, _ = run(config, params, grads)
  wanted = slow_adamw(params, grads, b1=b1, b2=b2, eps=eps, decay=0.3, form=form)
  for ours, theirs in zip(history, wanted, strict=True):
    assert_same(ours, theirs, rtol=2e-5, atol=2e-6)


def test_adamw_is_optax_adamw():
  params, grads = draw(0), [draw(seed) for seed in range(1, 6)]
  ours, _ = run(config_of(weight_decay=0.3, weight_decay_on='.*'), params, grads)
  optimizer = optax.adamw(schedule, weight_decay=0.3)
  tree = to_tree(params)
  state = optimizer.init(tree)
  for gradient in grads:
    updates, state = optimizer.update(to_tree(gradient), state, tree)
    tree = optax.apply_updates(tree, updates)
  assert_same(ours[-1], trees.flatten(tree), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('nesterov', [False, True])
def test_sgd(dtype, nesterov):
  """The stored momentum is rounded to its dtype after each step; everything else is exact."""
  store = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16}[dtype]
  params, grads = draw(0), [draw(seed) for seed in range(1, 6)]
  config = config_of(name='sgd', momentum=0.9, momentum_dtype=dtype, nesterov=nesterov, weight_decay=0.3)
  history, state = run(config, params, grads)
  moment = {path: np.zeros(shape) for path, shape in SHAPES.items()}
  wanted = {path: leaf.copy() for path, leaf in params.items()}
  for gradient, rate, ours in zip(grads, RATES, history, strict=True):
    for path in SHAPES:
      new = 0.9 * moment[path] + gradient[path]
      direction = 0.9 * new + gradient[path] if nesterov else new
      decay = 0.3 * wanted[path] if path.endswith('kernel') else 0.0
      wanted[path] = wanted[path] - rate * (direction + decay)
      moment[path] = new.astype(store).astype(np.float64)
    assert_same(ours, wanted, rtol=1e-4, atol=1e-4 if dtype == 'bfloat16' else 2e-6)
  assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.ndim} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
  ('knobs', 'wanted'),
  [({'name': 'sgd'}, 0.9 * 0.5 + 2), ({'eps': 0.0, 'b2': 0.0}, (0.9 * 0.5 + 0.1 * 2) / 0.1 / 2)],
)
def test_bfloat16_moments_decay_by_exactly_what_was_asked(knobs, wanted):
  """In bfloat16 arithmetic, 0.9 would act as 0.8984."""
  config = config_of(momentum_dtype='bfloat16', **{'b1': 0.9, **knobs})
  params = {'w': jnp.zeros(4)}
  optimizer = make_optimizer(config, params, lambda step: -1.0)
  moment = {'w': jnp.full(4, 0.5, jnp.bfloat16)}
  state = optax.tree.set(optimizer.init(params), **{'trace' if config.name == 'sgd' else 'mu': moment})
  updates, _ = optimizer.update({'w': jnp.full(4, 2.0)}, state, params)
  np.testing.assert_allclose(updates['w'], np.full(4, wanted), rtol=1e-5)


def test_sgd_without_momentum_has_no_moments():
  history, state = run(config_of(name='sgd', momentum=0.0), draw(0), [draw(1)] * 5)
  wanted = {path: leaf - sum(RATES) * draw(1)[path] for path, leaf in draw(0).items()}
  assert_same(history[-1], wanted, rtol=1e-5, atol=1e-6)
  assert all(leaf.ndim == 0 for leaf in jax.tree.leaves(state))


def test_bfloat16_first_moment_of_adamw():
  params, grads = draw(0), [draw(seed) for seed in range(1, 6)]
  history, state = run(config_of(momentum_dtype='bfloat16'), params, grads)
  exact = slow_adamw(params, grads, b1=0.9, b2=0.999, eps=1e-8, decay=0, form='times_lr')
  assert_same(history[-1], exact[-1], rtol=2e-2, atol=2e-3)
  adam = optax.tree.get(state, 'ScaleByAdamState')
  assert {leaf.dtype for leaf in jax.tree.leaves(adam.mu)} == {jnp.dtype(jnp.bfloat16)}
  assert {leaf.dtype for leaf in jax.tree.leaves(adam.nu)} == {jnp.dtype(jnp.float32)}


def test_bfloat16_parameters_have_a_float32_second_moment_that_can_fall():
  params = {'kernel': jnp.ones(2, jnp.bfloat16)}
  optimizer = make_optimizer(config_of(), params, lambda step: 0.5)
  state = optimizer.init(params)
  _, state = optimizer.update({'kernel': jnp.ones(2, jnp.bfloat16)}, state, params)
  first = optax.tree.get(state, 'nu')['kernel']
  updates, state = optimizer.update({'kernel': jnp.zeros(2, jnp.bfloat16)}, state, params)
  second = optax.tree.get(state, 'nu')['kernel']
  assert first.dtype == second.dtype == jnp.float32
  np.testing.assert_allclose(second / first, np.full(2, 0.999), rtol=1e-5)
  assert optax.apply_updates(params, updates)['kernel'].dtype == jnp.bfloat16


@pytest.mark.parametrize(('clip_norm', 'factor'), [(1.0, 0.2), (2.5, 0.5), (50.0, 1.0), (None, 1.0)])
def test_clipping_scales_the_global_norm(clip_norm, factor):
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([4.0])}
  optimizer = make_optimizer(
    config_of(name='sgd', momentum=0.0, clip_norm=clip_norm), params, lambda step: 1.0
  )
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_allclose([updates['a'][0], updates['b'][0]], [-3 * factor, -4 * factor], rtol=1e-6)


def test_frozen_gradients_do_not_count_towards_the_norm():
  params = {'a': jnp.zeros(1), 'b': jnp.zeros(1)}
  grads = {'a': jnp.array([3.0]), 'b': jnp.array([4e6])}
  config = config_of(name='sgd', momentum=0.0, clip_norm=5.0, freeze=('b',))
  optimizer = make_optimizer(config, params, lambda step: 1.0)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  assert float(updates['a'][0]) == -3
  assert float(updates['b'][0]) == 0


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_frozen_parameters_stay_bit_for_bit_and_have_no_state(name):
  knobs = {'name': name, 'weight_decay': 0.3, 'clip_norm': 1.0, 'freeze': ('embedding/.*', '.*/bias')}
  params = draw(0)
  history, state = run(config_of(**knobs), params, [draw(seed) for seed in range(1, 6)])
  for path, leaf in history[-1].items():
    same = np.array_equal(np.asarray(leaf), params[path].astype(np.float32))
    assert same == (path != 'head/kernel'), path
  moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
  assert [leaf.shape for leaf in moments] == [(3, 2)] * (2 if name == 'adamw' else 1)


def test_freezing_everything_else_equals_training_alone():
  grads = [draw(seed) for seed in range(1, 6)]
  knobs = {'weight_decay': 0.3, 'clip_norm': 1.0}
  frozen, _ = run(config_of(**knobs, freeze=('embedding/.*',)), draw(0), grads)
  head = {path: leaf for path, leaf in draw(0).items() if path.startswith('head')}
  params = to_tree(head)
  optimizer = make_optimizer(config_of(**knobs), params, schedule)
  state = optimizer.init(params)
  for gradient in grads:
    tree = to_tree({path: gradient[path] for path in head})
    updates, state = optimizer.update(tree, state, params)
    params = optax.apply_updates(params, updates)
  for path, leaf in trees.flatten(params).items():
    np.testing.assert_allclose(frozen[-1][path], leaf, rtol=1e-6)


@pytest.mark.parametrize(
  ('pattern', 'decayed'),
  [(r'.*kernel', {'embedding/kernel', 'head/kernel'}), (r'head/.*', {'head/kernel', 'head/bias'})],
)
def test_weight_decay_goes_where_the_pattern_says(pattern, decayed):
  zeros = {path: np.zeros(shape) for path, shape in SHAPES.items()}
  history, _ = run(config_of(weight_decay=0.5, weight_decay_on=pattern), draw(0), [zeros] * 5)
  shrink = np.prod([1 - rate * 0.5 for rate in RATES])
  wanted = {path: leaf * (shrink if path in decayed else 1) for path, leaf in draw(0).items()}
  assert_same(history[-1], wanted, rtol=1e-6)


def test_independent_decay_does_not_depend_on_the_peak():
  """The same schedule shape at twice the rate: decay alone shrinks the weights equally."""
  results = []
  for peak in (0.1, 0.2):
    params = {'kernel': jnp.ones(2)}
    config = config_of(peak_lr=peak, weight_decay=0.01, weight_decay_form='independent')
    optimizer = make_optimizer(config, params, lambda step, peak=peak: peak * (1 - 0.25 * step))
    state = optimizer.init(params)
    for _ in range(3):
      updates, state = optimizer.update({'kernel': jnp.zeros(2)}, state, params)
      params = optax.apply_updates(params, updates)
    results.append(params['kernel'])
  np.testing.assert_allclose(results[0], results[1], rtol=1e-6)
  np.testing.assert_allclose(results[0], np.full(2, 0.99 * 0.9925 * 0.995), rtol=1e-6)


@pytest.mark.parametrize('freeze', [(), ('embedding/.*',)])
@pytest.mark.parametrize('knobs', [{'name': 'adamw'}, {'name': 'sgd'}, {'weight_decay_form': 'independent'}])
def test_state_follows_the_parameters(freeze, knobs):
  """From abstract parameters alone, each moment is known to belong to a parameter, so shardings follow."""
  params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), to_tree(draw(0)))
  config = config_of(**{'weight_decay': 0.1, 'clip_norm': 1.0, 'freeze': freeze, **knobs})
  optimizer = make_optimizer(config, params, schedule)
  state = jax.eval_shape(optimizer.init, params)
  names = trees.map_with_path(lambda path, _: path, params)
  tagged = optax.tree_map_params(
    optimizer,
    lambda leaf, name: leaf if isinstance(leaf, optax.MaskedNode) else f'{name}{leaf.shape}',
    state,
    names,
    transform_non_params=lambda leaf: 'count',
    is_leaf=lambda node: isinstance(node, optax.MaskedNode),
  )
  kept = [path for path in SHAPES if not freeze or not path.startswith('embedding')]
  moments = 1 if config.name == 'sgd' else 2
  leaves = [leaf for leaf in jax.tree.leaves(tagged) if leaf != 'count']
  assert sorted(leaves) == sorted(f'{path}{SHAPES[path]}' for path in kept * moments)


@pytest.mark.parametrize(
  ('knobs', 'wanted'),
  [
    ({}, {'0/count', '3/count'}),
    ({'clip_norm': 1.0, 'weight_decay': 0.1}, {'1/count', '4/count'}),
    ({'clip_norm': 1.0, 'weight_decay': 0.1, 'weight_decay_form': 'independent'}, {'1/count', '5/count'}),
    ({'name': 'sgd', 'clip_norm': 1.0}, {'4/count'}),
  ],
)
def test_names_of_the_state_stay(knobs, wanted):
  # Every checkpoint that exists has these names; a step more in the chain would shut all of them out.
  params = to_tree(draw(0))
  state = make_optimizer(config_of(**knobs), params, schedule).init(params)
  assert {path for path in trees.flatten(state) if path.endswith('count')} == wanted


def test_layer_decay_works_together_with_freezing():
  params = {
    'embedding': {'kernel': jnp.ones(2)},
    'Transformer': {'encoderblock_0': {'kernel': jnp.ones(2)}, 'encoderblock_1': {'kernel': jnp.ones(2)}},
    'head': {'kernel': jnp.ones(2)},
  }
  config = config_of(name='sgd', momentum=0.0, layer_decay=0.5, freeze=('.*encoderblock_0/.*',))
  optimizer = make_optimizer(config, params, lambda step: 1.0)
  updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
  flat = {path: float(leaf[0]) for path, leaf in trees.flatten(updates).items()}
  assert flat == {
    'Transformer/encoderblock_0/kernel': 0,
    'Transformer/encoderblock_1/kernel': -0.5,
    'embedding/kernel': -0.125,
    'head/kernel': -1,
  }


@pytest.mark.parametrize(
  ('knobs', 'message'),
  [
    ({'freeze': ('hed/.*',)}, r"optim\.freeze\[0\] = 'hed/\.\*'.*Nearest: head/"),
    ({'freeze': ('head/.*', 'bias')}, r"optim\.freeze\[1\] = 'bias'.*only a part of .*/bias: put \.\*"),
    ({'freeze': ('(head',)}, r'optim\.freeze\[0\] = .*expected a regular expression'),
    ({'freeze': ('.*kernel', '.*bias')}, r'optim\.freeze = .*leave something to train'),
    ({'weight_decay': 0.1, 'weight_decay_on': 'kernle'}, r"optim\.weight_decay_on = 'kernle'.*Nearest"),
    ({'b1': 1.0}, r'optim\.b1 = 1: expected below 1'),
    ({'b2': 1.0}, r'optim\.b2 = 1: expected below 1'),
    ({'layer_decay': 0.5}, r'optim\.layer_decay = 0\.5: expected a model with encoder blocks'),
    (
      {'peak_lr': 0.0, 'weight_decay': 0.1, 'weight_decay_form': 'independent'},
      r'optim\.peak_lr = 0: expected above 0',
    ),
  ],
)
def test_misfits_are_refused(knobs, message):
  with pytest.raises(ConfigError, match=message):
    make_optimizer(config_of(**knobs), to_tree(draw(0)), schedule)


def test_all_misfits_are_reported_at_once():
  config = config_of(freeze=('x', '['), weight_decay=0.1, weight_decay_on='y', layer_decay=0.5, b1=1.0)
  with pytest.raises(ConfigError) as caught:
    make_optimizer(config, to_tree(draw(0)), schedule)
  wheres = [problem.where for problem in caught.value.problems]
  names = ('freeze[0]', 'freeze[1]', 'weight_decay_on', 'b1', 'layer_decay')
  assert wheres == [f'optim.{name}' for name in names]


def test_unused_weight_decay_pattern_is_not_checked():
  make_optimizer(config_of(weight_decay_on='nothing'), to_tree(draw(0)), schedule)
