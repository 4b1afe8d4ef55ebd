"""norm_eps and final_norm: every LayerNorm reads them, and ResNets refuse them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.errors import ConfigError
from vitjax.models import create_model, forward_flops
from vitjax.optim.layer_decay import layer_multipliers

TINY = {'variant': 'Ti/4', 'width': 16, 'depth': 1, 'mlp_dim': 24, 'num_heads': 2, 'num_classes': 5}
IMAGES = np.random.default_rng(0).standard_normal((2, 8, 8, 3), dtype=np.float32)


def randomised(model):
  params = model.init(jax.random.key(0), IMAGES)['params']
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.2, 0.5, leaf.shape), jnp.float32), params)


def outputs(model, params):
  return np.asarray(model.apply({'params': params}, IMAGES))


@pytest.mark.parametrize('pool', ['token', 'map'])
def test_norm_eps_reaches_every_norm(pool):
  knobs = TINY | {'pool': pool, 'qk_norm': True}
  params = randomised(create_model(**knobs))
  default, other = (outputs(create_model(**knobs, norm_eps=eps), params) for eps in (1e-6, 1e-2))
  assert np.abs(default - other).max() > 1e-3
  np.testing.assert_array_equal(default, outputs(create_model(**knobs), params))
  # No norm of the traced network has another epsilon: two per block, the last one, queries and keys, pooling.
  jaxpr = str(
    jax.make_jaxpr(lambda p: create_model(**knobs, norm_eps=0.123).apply({'params': p}, IMAGES))(params)
  )
  num_norms = 3 + 2 + (pool == 'map')
  assert jaxpr.count('0.123') >= num_norms
  assert '1e-06' not in jaxpr
  assert '9.99999997' not in jaxpr


def test_a_pooled_norm_of_the_class_token_is_the_norm_of_all_tokens():
  before, after = create_model(**TINY), create_model(**TINY, final_norm='pooled')
  params = randomised(before)
  flat = trees.flatten(params)
  moved = {path.replace('Transformer/encoder_norm', 'pool_norm'): leaf for path, leaf in flat.items()}
  assert set(trees.flatten(after.init(jax.random.key(0), IMAGES)['params'])) == set(moved)
  np.testing.assert_allclose(outputs(before, params), outputs(after, trees.unflatten(moved)), atol=1e-5)


@pytest.mark.parametrize('pool', ['gap', 'map'])
def test_a_pooled_norm_stands_after_the_pooling(pool):
  model = create_model(**TINY | {'num_classes': 0, 'pool': pool, 'final_norm': 'pooled', 'norm_eps': 1e-3})
  params = randomised(model)
  _, out = model.apply({'params': params}, IMAGES, return_features=True)
  np.testing.assert_array_equal(out['tokens'], out['block00'])
  scale, bias = (np.asarray(params['pool_norm'][name]) for name in ('scale', 'bias'))
  normed = (np.asarray(out['pooled']) - bias) / scale
  if pool == 'gap':
    mean = np.asarray(out['tokens'], np.float64).mean(axis=1)
    expected = (mean - mean.mean(-1, keepdims=True)) / np.sqrt(mean.var(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(normed, expected, atol=1e-4)
  assert np.abs(normed.mean(-1)).max() < 1e-3


def test_the_other_rooms_know_the_pooled_norm():
  model = create_model(**TINY, final_norm='pooled')
  params = model.init(jax.random.key(0), IMAGES)['params']
  assert layer_multipliers(params, 0.5)['pool_norm/scale'] == 1.0
  config = ModelConfig('Ti/4')
  flops = [forward_flops(config, image_size=(8, 8), num_classes=5)]
  flops.append(forward_flops(ModelConfig('Ti/4', final_norm='pooled'), image_size=(8, 8), num_classes=5))
  assert flops[0] == flops[1]


@pytest.mark.parametrize(('knob', 'value'), [('norm_eps', 1e-5), ('final_norm', 'pooled')])
def test_a_resnet_refuses_them(knob, value):
  with pytest.raises(ConfigError) as caught:
    create_model('R-tiny', num_classes=3, **{knob: value})
  assert [problem.where for problem in caught.value.problems] == [f'model.{knob}']


@pytest.mark.parametrize(('knob', 'value'), [('norm_eps', 0.0), ('final_norm', 'none')])
def test_values_out_of_range_are_refused(knob, value):
  with pytest.raises(ConfigError, match=knob):
    create_model(**TINY, **{knob: value})
