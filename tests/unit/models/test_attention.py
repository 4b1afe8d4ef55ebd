"""Which form of attention a model runs, and that padding for the fused kernel changes nothing."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.schema import ModelConfig
from vitjax.models import build_model

SIZES = {'width': 32, 'depth': 2, 'mlp_dim': 48, 'num_heads': 4, 'patch_size': 4}
CALLS = []


@pytest.fixture
def kernel_stand_in(monkeypatch):
  """cuDNN's kernel played by XLA, with the rule that it breaks on: an odd length cannot be trained."""
  original = jax.nn.dot_product_attention

  def stand_in(query, key, value, *, implementation, **lengths):
    assert implementation == 'cudnn'
    assert query.dtype == jnp.bfloat16
    assert query.shape[1] % 2 == 0
    CALLS.append(query.shape[1])
    return original(query, key, value, implementation='xla', **lengths)

  CALLS.clear()
  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  return CALLS


def network(device_class, **knobs):
  config = ModelConfig(variant='Ti/16', dtype='bfloat16', **SIZES | knobs)
  return build_model(config, num_classes=5, device_class=device_class)


def images(side=8):
  return jnp.asarray(np.random.default_rng(0).normal(size=(2, side, side, 3)), jnp.float32)


FORMS = {
  'class token, odd': ({}, 6),
  'positions in every layer, odd': ({'position_at': 'every_layer'}, 6),
  'scan and remat, odd': ({'layers': 'scan', 'remat': 'full'}, 6),
}


@pytest.mark.parametrize('form', FORMS)
def test_fused_attention_gives_the_plain_loss_and_gradients(form, kernel_stand_in, random_params):
  knobs, length = FORMS[form]
  plain, fused = network('cpu', **knobs), network('gpu-sm80', **knobs)
  params = random_params(plain, (2, 8, 8, 3))

  def loss(model, params):
    return jnp.square(model.apply({'params': params}, images(), train=True)).sum()

  expected, expected_grads = jax.jit(jax.value_and_grad(functools.partial(loss, plain)))(params)
  assert not kernel_stand_in
  value, grads = jax.jit(jax.value_and_grad(functools.partial(loss, fused)))(params)
  assert set(kernel_stand_in) == {length}
  np.testing.assert_allclose(value, expected, rtol=0.03)
  a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (grads, expected_grads))
  assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(b)


def test_features_have_no_padding(kernel_stand_in, random_params):
  model = network('gpu-sm80')
  params = random_params(model, (2, 8, 8, 3))
  apply = functools.partial(model.apply, train=False, return_features=True)
  _, out = jax.eval_shape(apply, {'params': params}, images())
  assert {out[name].shape for name in ('tokens', 'block00', 'block01')} == {(2, 5, 32)}
  assert kernel_stand_in


@pytest.mark.parametrize(
  ('knobs', 'mutable'),
  [({}, ['intermediates']), ({'position': 'relative'}, False), ({'attention_dropout_rate': 0.1}, False),
   ({'dtype': 'float32'}, False), ({'attention': 'plain'}, False)],
)  # fmt: skip
def test_probabilities_that_something_needs_are_made(knobs, mutable, kernel_stand_in):
  config = dataclasses.replace(network('gpu-sm80').config, **knobs)
  model = build_model(config, num_classes=5, device_class='gpu-sm80')
  rngs = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  params = jax.eval_shape(functools.partial(model.init, train=True), rngs, images())['params']
  kernel_stand_in.clear()
  apply = functools.partial(model.apply, train=True, mutable=mutable)
  out = jax.eval_shape(lambda p: apply({'params': p}, images(), rngs={'dropout': jax.random.key(0)}), params)
  assert not kernel_stand_in
  if mutable:
    block = out[1]['intermediates']['Transformer']['encoderblock_0']
    assert block['MultiHeadDotProductAttention_0']['attention'][0].shape == (2, 4, 5, 5)
