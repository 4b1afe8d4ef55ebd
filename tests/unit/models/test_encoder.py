"""The encoder: loop against scan, rematerialisation, dropout and stochastic depth."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.models import create_model, stack_blocks
from vitjax.models.encoder import drop_branch, drop_rates

SHAPE = (2, 8, 8, 3)


def tiny(**overrides):
  sizes = {'patch_size': 4, 'width': 16, 'depth': 2, 'mlp_dim': 24, 'num_heads': 2}
  return create_model('B/16', num_classes=5, **{**sizes, **overrides})


def draw_images(n=2):
  return jnp.asarray(np.random.default_rng(1).normal(size=(n, *SHAPE[1:])), jnp.float32)


def features(model, params, images, **settings):
  return jax.jit(lambda p, x: model.apply({'params': p}, x, return_features=True, **settings))(params, images)


def logits_and_gradients(model, params, *, train=False, seed=7):
  """Returns (logits, gradients of a curved function of them)."""

  @jax.jit
  def run(params):
    def loss(params):
      logits = model.apply(
        {'params': params}, draw_images(), train=train, rngs={'dropout': jax.random.key(seed)}
      )
      return jnp.sum(jnp.sin(3 * logits)), logits

    gradients, logits = jax.grad(loss, has_aux=True)(params)
    return logits, gradients

  return run(params)


def assert_trees_close(left, right, tolerance):
  left, right = trees.flatten(left), trees.flatten(right)
  assert set(left) == set(right)
  for path in left:
    scale = max(float(jnp.abs(right[path]).max()), 1e-3)
    np.testing.assert_allclose(left[path] / scale, right[path] / scale, atol=tolerance, err_msg=path)


@pytest.mark.parametrize(
  'overrides',
  [
    {'position_at': 'every_layer', 'qk_norm': True, 'layer_scale_init': 0.5, 'num_registers': 1},
    {'position_at': 'every_layer_shared', 'pool': 'gap'},
    {'position': 'relative', 'parallel_blocks': True},
    {'position': 'relative', 'position_at': 'every_layer_shared'},
  ],
)
def test_scan_equals_loop(overrides, random_params):
  loop, scan = tiny(**overrides), tiny(**overrides, layers='scan')
  params = random_params(loop, SHAPE)
  expected, gradients = logits_and_gradients(loop, params)
  logits, scanned_gradients = logits_and_gradients(scan, stack_blocks(params))
  np.testing.assert_allclose(logits, expected, atol=1e-5 * float(jnp.abs(expected).max()))
  assert_trees_close(scanned_gradients, stack_blocks(gradients), 1e-4)


def test_scan_returns_the_same_features(random_params):
  loop, scan = tiny(), tiny(layers='scan')
  params = random_params(loop, SHAPE)
  _, expected = features(loop, params, draw_images())
  _, out = features(scan, stack_blocks(params), draw_images())
  assert list(out) == list(expected)
  for name in expected:
    np.testing.assert_allclose(out[name], expected[name], atol=1e-5, err_msg=name)


def test_scan_initialises_layers_apart():
  model = tiny(layers='scan')
  kernel = jax.jit(model.init)(jax.random.key(0), draw_images())['params']['Transformer']['encoderblock'][
    'MlpBlock_0'
  ]['Dense_0']['kernel']
  assert kernel.shape == (2, 16, 24)
  assert abs(float(kernel.std()) / np.sqrt(2 / (16 + 24)) - 1) < 0.1
  assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize('layers', ['loop', 'scan'])
@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_remat_changes_neither_values_nor_gradients(layers, remat, random_params):
  knobs = {'layers': layers, 'dropout_rate': 0.3, 'attention_dropout_rate': 0.2, 'stochastic_depth_rate': 0.4}
  plain, saving = tiny(**knobs), tiny(**knobs, remat=remat)
  params = random_params(plain, SHAPE)
  expected, gradients = logits_and_gradients(plain, params, train=True)
  logits, other_gradients = logits_and_gradients(saving, params, train=True)
  np.testing.assert_allclose(logits, expected, atol=1e-5 * float(jnp.abs(expected).max()))
  assert_trees_close(other_gradients, gradients, 1e-4)


def saved_residuals(remat, layers, random_params):
  model = tiny(remat=remat, layers=layers)
  params = random_params(model, SHAPE)
  loss = lambda p: model.apply({'params': p}, draw_images()).sum()  # noqa: E731
  _, backward = jax.eval_shape(functools.partial(jax.vjp, loss), params)
  return sum(leaf.size for leaf in jax.tree.leaves(backward))


@pytest.mark.parametrize('layers', ['loop', 'scan'])
def test_remat_saves_less(layers, random_params):
  none, dots, full = (saved_residuals(remat, layers, random_params) for remat in ('none', 'dots', 'full'))
  assert full < dots < none


def test_training_without_rates_is_evaluation_and_needs_no_key(random_params):
  model = tiny()
  params = random_params(model, SHAPE)
  expected = jax.jit(functools.partial(model.apply, train=False))({'params': params}, draw_images())
  logits = jax.jit(functools.partial(model.apply, train=True))({'params': params}, draw_images())
  np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize('layers', ['loop', 'scan'])
@pytest.mark.parametrize('knob', ['dropout_rate', 'attention_dropout_rate', 'stochastic_depth_rate'])
def test_each_rate_acts_in_training_only_and_follows_the_key(knob, layers, random_params):
  model, plain = tiny(**{knob: 0.5}, layers=layers), tiny(layers=layers)
  params = random_params(model, SHAPE)
  apply = jax.jit(
    lambda key: model.apply({'params': params}, draw_images(), train=True, rngs={'dropout': key})
  )
  first, again, other = apply(jax.random.key(1)), apply(jax.random.key(1)), apply(jax.random.key(2))
  expected = jax.jit(plain.apply)({'params': params}, draw_images())
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other)
  assert not np.allclose(first, expected)
  np.testing.assert_array_equal(jax.jit(model.apply)({'params': params}, draw_images()), expected)


def test_stochastic_depth_rates_rise_linearly():
  np.testing.assert_allclose(
    drop_rates(ModelConfig(stochastic_depth_rate=0.3), 4), [0, 0.1, 0.2, 0.3], rtol=1e-6
  )
  np.testing.assert_array_equal(drop_rates(ModelConfig(stochastic_depth_rate=0.3), 1), [0])


def test_drop_branch_drops_whole_examples_at_its_rate_and_keeps_the_mean():
  branch = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 2, 3)), jnp.float32)
  out = np.asarray(drop_branch(jax.random.key(0), branch, 0.3))
  dropped = (out == 0).all(axis=(1, 2))
  assert abs(dropped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 4000)
  np.testing.assert_allclose(out[~dropped], np.asarray(branch)[~dropped] / 0.7, rtol=1e-5)
  np.testing.assert_array_equal(drop_branch(jax.random.key(0), branch, 0.0), branch)


@pytest.mark.parametrize(('parallel', 'share'), [(False, 0.25), (True, 0.5)])
@pytest.mark.parametrize('layers', ['loop', 'scan'])
def test_stochastic_depth_skips_blocks_as_often_as_asked(parallel, share, layers, random_params):
  model = tiny(stochastic_depth_rate=0.5, parallel_blocks=parallel, layers=layers)
  params = random_params(model, SHAPE)
  _, out = features(model, params, draw_images(256), train=True, rngs={'dropout': jax.random.key(4)})
  _, evaluated = features(model, params, draw_images(256))
  np.testing.assert_allclose(
    out['block00'], evaluated['block00'], atol=1e-4
  )  # the first block is always kept
  skipped = np.mean(np.all(np.asarray(out['block01'] == out['block00']), axis=(1, 2)))
  assert abs(skipped - share) < 4 * np.sqrt(share * (1 - share) / 256)
