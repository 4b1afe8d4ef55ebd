"""Layer-wise rates: by path, the same for loop and scanned blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.schema import OptimConfig
from vitjax.errors import ConfigError
from vitjax.optim import layer_multipliers, make_optimizer

DEPTH = 3
BLOCK = {'LayerNorm_0/scale': (4,), 'MlpBlock_0/Dense_0/kernel': (4, 8), 'MlpBlock_0/Dense_0/bias': (8,)}
OTHERS = {
  'cls': (1, 1, 4),
  'registers': (1, 2, 4),
  'embedding/kernel': (2, 2, 3, 4),
  'embedding/bias': (4,),
  'Transformer/posembed_input/pos_embedding': (1, 5, 4),
  'conv_root/kernel': (7, 7, 3, 4),
  'gn_root/scale': (4,),
  'block1/unit1/conv1/kernel': (1, 1, 4, 4),
  'Transformer/encoder_norm/scale': (4,),
  'MAPHead_0/probe': (1, 1, 4),
  'pre_logits/kernel': (4, 4),
  'head/kernel': (4, 2),
  'head/bias': (2,),
}
TOP = ('Transformer/encoder_norm/scale', 'MAPHead_0/probe', 'pre_logits/kernel', 'head/kernel', 'head/bias')


def filled(shapes, seed=0):
  rng = np.random.default_rng(seed)
  return {path: jnp.asarray(rng.normal(0, 1, shape), jnp.float32) for path, shape in shapes.items()}


def loop_tree(seed=0):
  shapes = {f'Transformer/encoderblock_{i}/{p}': s for i in range(DEPTH) for p, s in BLOCK.items()}
  return filled({**OTHERS, **shapes}, seed)


def stack(flat):
  """The scanned form of a flat loop-form tree."""
  out = {path: leaf for path, leaf in flat.items() if 'encoderblock' not in path}
  for name in BLOCK:
    leaves = [flat[f'Transformer/encoderblock_{i}/{name}'] for i in range(DEPTH)]
    out[f'Transformer/encoderblock/{name}'] = jnp.stack(leaves)
  return out


def test_multipliers_by_hand():
  multipliers = layer_multipliers(trees.unflatten(loop_tree()), 0.5)
  assert set(multipliers) == set(loop_tree())
  for path, multiplier in multipliers.items():
    if path in TOP:
      wanted = 1.0
    elif 'encoderblock_' in path:
      wanted = {'0': 0.125, '1': 0.25, '2': 0.5}[path.split('_')[1][0]]
    else:
      wanted = 0.0625
    assert multiplier == wanted, path


def test_blocks_are_numbered_beyond_nine():
  tree = {'Transformer': {f'encoderblock_{i}': {'x': jnp.zeros(1)} for i in range(12)}}
  multipliers = layer_multipliers(tree, 0.9)
  for i in range(12):
    assert multipliers[f'Transformer/encoderblock_{i}/x'] == pytest.approx(0.9 ** (12 - i))


def test_stacked_blocks_have_one_multiplier_per_layer():
  multipliers = layer_multipliers(trees.unflatten(stack(loop_tree())), 0.5)
  kernel = multipliers['Transformer/encoderblock/MlpBlock_0/Dense_0/kernel']
  assert kernel.shape == (3, 1, 1)
  assert kernel.dtype == np.float32
  np.testing.assert_array_equal(kernel[:, 0, 0], [0.125, 0.25, 0.5])
  assert multipliers['Transformer/encoderblock/LayerNorm_0/scale'].shape == (3, 1)
  assert multipliers['cls'] == 0.0625
  assert multipliers['head/kernel'] == 1


@pytest.mark.parametrize('form', ['times_lr', 'independent'])
@pytest.mark.parametrize('freeze', [(), ('cls', 'head/.*')])
def test_loop_and_scanned_updates_are_the_same(form, freeze):
  knobs = {'clip_norm': None, 'layer_decay': 0.7, 'weight_decay': 0.1, 'weight_decay_form': form}
  config = OptimConfig(name='sgd', freeze=freeze, **knobs)
  results = []
  for arrange in (lambda flat: flat, stack):
    params, grads = (trees.unflatten(arrange(loop_tree(seed))) for seed in (0, 1))
    optimizer = make_optimizer(config, params, lambda step: 0.1 / (step + 1))
    state = optimizer.init(params)
    for _ in range(2):
      updates, state = jax.jit(optimizer.update)(grads, state, params)
    results.append(trees.flatten(updates))
  for path, update in stack(results[0]).items():
    np.testing.assert_allclose(update, results[1][path], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('form', ['times_lr', 'independent'])
def test_the_factor_reaches_the_rate_and_only_the_coupled_decay(form):
  leaf = {'kernel': jnp.full((1,), 4.0)}
  params = {'Transformer': {'encoderblock_0': leaf}, 'head': leaf}
  grads = jax.tree.map(jnp.ones_like, params)
  config = OptimConfig(
    name='sgd', peak_lr=0.2, clip_norm=None, layer_decay=0.5, weight_decay=0.3, weight_decay_form=form
  )
  optimizer = make_optimizer(config, params, lambda step: 0.1)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  decay = 0.1 * 0.3 * 4 if form == 'times_lr' else 0.5 * 0.3 * 4
  block_decay = 0.5 * decay if form == 'times_lr' else decay
  np.testing.assert_allclose(updates['head']['kernel'], [-0.1 - decay], rtol=1e-6)
  np.testing.assert_allclose(
    updates['Transformer']['encoderblock_0']['kernel'], [-0.05 - block_decay], rtol=1e-6
  )


def test_unknown_paths_and_models_without_blocks_are_refused():
  tree = {**loop_tree(), 'surprise/kernel': jnp.zeros(1), 'Transformer/odd': jnp.zeros(1)}
  with pytest.raises(ConfigError) as caught:
    layer_multipliers(trees.unflatten(tree), 0.5)
  assert {problem.where for problem in caught.value.problems} == {'surprise/kernel', 'Transformer/odd'}
  with pytest.raises(ConfigError, match=r'optim\.layer_decay = 0\.5: expected a model with encoder blocks'):
    layer_multipliers({'root_block': {'conv_root': {'kernel': jnp.zeros(1)}}}, 0.5)
