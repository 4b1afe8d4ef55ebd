"""LAMB, Lion, Adafactor and Muon against slow numpy versions; what Muon takes; frozen parts; dtypes of the state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax import trees
from vitjax.config.schema import ModelConfig, OptimConfig
from vitjax.optim import make_optimizer
from vitjax.optim.directions import is_muon_matrix
from vitjax.weights.imported import expected_shapes

BLOCK = 'Transformer/encoderblock_0'
SHAPES = {
  f'{BLOCK}/MultiHeadDotProductAttention_0/query/kernel': (6, 2, 5),
  f'{BLOCK}/MultiHeadDotProductAttention_0/out/kernel': (2, 5, 6),
  f'{BLOCK}/MlpBlock_0/Dense_0/kernel': (6, 8),
  f'{BLOCK}/MlpBlock_0/Dense_0/bias': (8,),
  'head/kernel': (6, 3),
  'head/bias': (3,),
}
RATES = [0.01, 0.02, 0.03, 0.02, 0.01]
NAMES = ('adafactor', 'lamb', 'lion', 'muon')


def draw(seed):
  rng = np.random.default_rng(seed)
  return {path: rng.normal(0, 1, shape) for path, shape in SHAPES.items()}


def to_tree(flat, dtype=jnp.float32):
  return trees.unflatten({path: jnp.asarray(leaf, dtype) for path, leaf in flat.items()})


def config_of(**knobs):
  return OptimConfig(**{'peak_lr': 0.04, 'clip_norm': None, 'weight_decay': 0.0, **knobs})


def run(config, seeds=range(1, 6)):
  params = to_tree(draw(0))
  optimizer = make_optimizer(config, params, lambda step: jnp.asarray(RATES, jnp.float32)[step])
  state, step = optimizer.init(params), jax.jit(optimizer.update)
  for seed in seeds:
    updates, state = step(to_tree(draw(seed)), state, params)
    params = optax.apply_updates(params, updates)
  return trees.flatten(params), state


def slow(direction, *, decay=0.0, trust=False):
  """Five steps of `direction(path, gradient, t, memory of the path) -> u` in float64."""
  params, memory = draw(0), {path: {} for path in SHAPES}
  for t, rate in enumerate(RATES, start=1):
    grads = draw(t)
    for path, w in params.items():
      u = direction(path, grads[path], t, memory[path])
      u = u + (decay * w if path.endswith('kernel') else 0)
      ratio = np.linalg.norm(w) / np.linalg.norm(u) if trust else 1.0
      params[path] = w - rate * ratio * u
  return params


def adam(path, g, t, memory, b1=0.9, b2=0.999, eps=1e-8):
  del path
  memory['m'] = b1 * memory.get('m', 0) + (1 - b1) * g
  memory['v'] = b2 * memory.get('v', 0) + (1 - b2) * g**2
  return memory['m'] / (1 - b1**t) / (np.sqrt(memory['v'] / (1 - b2**t)) + eps)


def lion(path, g, t, memory, b1=0.9, b2=0.99):
  del path, t
  m = memory.get('m', 0)
  memory['m'] = b2 * m + (1 - b2) * g
  return np.sign(b1 * m + (1 - b1) * g)


def adafactor(path, g, t, memory, cap=0.6, least=5):
  del path
  past = min(cap, 1 - t**-0.8)
  square = g**2 + 1e-30
  order = np.argsort(g.shape)
  if g.ndim > 1 and g.shape[order[-2]] >= least:
    # v is the outer product of its means over the largest and over the second largest dimension.
    for name, axis in (('r', order[-1]), ('c', order[-2])):
      memory[name] = past * memory.get(name, 0) + (1 - past) * square.mean(axis, keepdims=True)
    v = memory['r'] * memory['c'] / memory['r'].mean(order[-2], keepdims=True)
  else:
    v = memory['v'] = past * memory.get('v', 0) + (1 - past) * square
  memory['m'] = 0.9 * memory.get('m', 0) + 0.1 * g / np.sqrt(v)
  return memory['m']


def muon(path, g, t, memory):
  if not is_muon_matrix(path):
    return adam(path, g, t, memory)
  beta = 0.95
  m = memory['m'] = beta * memory.get('m', 0) + (1 - beta) * g
  m = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
  x = m.reshape(6, -1) if 'query' in path or 'Dense' in path else m.reshape(-1, 6)
  x = x / np.linalg.norm(x)
  for _ in range(5):
    a = x @ x.T
    x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
  return 0.2 * np.sqrt(max(x.shape)) * x.reshape(m.shape)


SLOW = {
  'adafactor': ({'b2': 0.6, 'factor_min_dim': 5}, slow(adafactor, decay=0.3)),
  'lamb': ({'b2': 0.99, 'eps': 1e-6}, slow(lambda *a: adam(*a, b2=0.99, eps=1e-6), decay=0.3, trust=True)),
  'lion': ({'b2': 0.99}, slow(lion, decay=0.3)),
  'muon': ({'momentum': 0.95}, slow(muon, decay=0.3)),
}


@pytest.mark.parametrize('name', NAMES)
def test_five_steps_equal_the_definition(name):
  knobs, wanted = SLOW[name]
  found, _ = run(config_of(name=name, weight_decay=0.3, **knobs))
  for path, leaf in wanted.items():
    np.testing.assert_allclose(found[path], leaf, rtol=2e-4, atol=2e-5, err_msg=path)
  plain, _ = run(config_of(weight_decay=0.3))
  assert any(np.abs(found[path] - plain[path]).max() > 1e-3 for path in wanted), 'it is not AdamW'


@pytest.mark.parametrize('name', NAMES)
def test_averages_are_stored_as_asked_and_frozen_parts_have_none(name):
  frozen = ('head/.*', '.*/out/kernel')
  found, state = run(config_of(name=name, momentum_dtype='bfloat16', freeze=frozen))
  for path, leaf in draw(0).items():
    is_frozen = path.startswith('head') or '/out/' in path
    assert np.array_equal(found[path], leaf.astype(np.float32)) == is_frozen, path
  stored = [
    (path, leaf.dtype) for path, leaf in trees.flatten(state).items() if leaf.shape in SHAPES.values()
  ]
  assert (
    {jnp.dtype('bfloat16')}
    <= {dtype for _, dtype in stored}
    <= {jnp.dtype(t) for t in ('bfloat16', 'float32')}
  )
  assert not any(path.endswith('head/kernel') for path, _ in stored)


@pytest.mark.parametrize('name', NAMES)
def test_stacked_layers_move_as_single_ones(name):
  config = config_of(name=name, weight_decay=0.3)
  blocks = [
    {p.removeprefix(BLOCK): leaf for p, leaf in draw(s).items() if p.startswith(BLOCK)} for s in (0, 1)
  ]
  layouts = {
    'loop': {
      f'Transformer/encoderblock_{i}{p}': leaf for i, block in enumerate(blocks) for p, leaf in block.items()
    },
    'scan': {f'Transformer/encoderblock{p}': np.stack([b[p] for b in blocks]) for p in blocks[0]},
  }
  moved = {}
  for layout, flat in layouts.items():
    params = to_tree(flat)
    optimizer = make_optimizer(config, params, lambda step: 0.1)
    grads = jax.tree.map(jnp.sin, jax.tree.map(lambda w: 3 * w, params))
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    moved[layout] = trees.flatten(updates)
  for path, stacked in moved['scan'].items():
    for i in range(2):
      single = moved['loop'][path.replace('encoderblock/', f'encoderblock_{i}/')]
      np.testing.assert_allclose(stacked[i], single, rtol=1e-4, atol=1e-6, err_msg=path)


def test_muon_takes_the_matrices_inside_blocks():
  shapes = expected_shapes(ModelConfig(variant='R50+B/16'), num_classes=10, image_size=(224, 224))
  taken = {path for path in shapes if is_muon_matrix(path)}
  per_block = 4 + 2
  convolutions = 3 * (3 + 4 + 9) + 3
  assert len(taken) == 12 * per_block + convolutions
  assert all(path.endswith('kernel') for path in taken)
  assert not taken & {'embedding/kernel', 'head/kernel', 'conv_root/kernel'}
