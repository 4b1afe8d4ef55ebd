"""The same losses on any mesh, in any layer form, with and without remat and accumulation: the promise of step.py."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vitjax.models.layout import stack_blocks
from vitjax.training import build

NUM_STEPS = 20


def losses(num_devices, num_steps=NUM_STEPS, **edits):
  """Returns the training loss of num_steps steps on the first num_devices devices."""
  devices = jax.devices()[:num_devices]
  run = build(tiny.tiny_recipe(**edits), devices=devices)
  state = run.init_fn()
  if run.recipe.model.layers == 'scan':
    loop_run = build(tiny.tiny_recipe(**edits | {'model__layers': 'loop'}), devices=devices)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, run.abstract_state.params)
    state = state.replace(params=jax.device_put(stack_blocks(loop_run.init_fn().params), shardings))
  values = []
  batches = run.batches(0)
  for _ in range(num_steps):
    state, metrics = run.step_fn(state, next(batches))
    values.append(float(metrics['loss']))
  assert bool(metrics['finite'])
  return np.array(values)


@pytest.fixture(scope='module')
def reference():
  values = losses(1)
  assert values[-1] < 0.7 * values[0], 'the reference must learn, or equal losses prove nothing'
  return values


CASES = {
  'data 8': (8, {}),
  'fsdp 8': (8, {'parallel__fsdp': 8}),
  'fsdp 4 x model 2': (8, {'parallel__fsdp': 4, 'parallel__model': 2}),
  'scan': (1, {'model__layers': 'scan'}),
  'remat full': (1, {'model__remat': 'full'}),
  'remat dots': (1, {'model__remat': 'dots'}),
  'accumulation 4': (1, {'optim__accumulation_steps': 4}),
  'fsdp 2 x model 4, scan, remat, accumulation 4': (
    8,
    {
      'parallel__data': 1, 'parallel__fsdp': 2, 'parallel__model': 4, 'model__layers': 'scan',
      'model__remat': 'full', 'optim__accumulation_steps': 4,
    },
  ),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_losses_equal_the_reference(case, reference):
  num_devices, edits = CASES[case]
  np.testing.assert_allclose(losses(num_devices, **edits), reference, rtol=1e-5)


NUM_LONG_STEPS = 50


def _by_definition(query, key, value, lengths):
  assert lengths is None, 'images of one size'
  logits = jnp.einsum('nqke,njke->nkqj', query, key) / np.float32(np.sqrt(query.shape[-1]))
  return jnp.einsum('nkqj,njke->nqke', jax.nn.softmax(logits, axis=-1), value)


def _by_autodiff(x, kernel, num_axes=1):
  return jnp.tensordot(x, kernel, num_axes)


def _norm_by_autodiff(x, scale, bias, epsilon):
  params = {'scale': scale} if bias is None else {'scale': scale, 'bias': bias}
  return nn.LayerNorm(epsilon=epsilon, use_bias=bias is not None).apply({'params': params}, x)


PLAIN = {
  'dense': ('vitjax.models.dense.contract', _by_autodiff),
  'attention': ('vitjax.models.attention.attend', _by_definition),
  'norm': ('vitjax.models.norm.layer_norm', _norm_by_autodiff),
  'gelu': ('vitjax.models.encoder.gelu_tanh', functools.partial(jax.nn.gelu, approximate=True)),
}


@pytest.fixture(scope='module')
def fast_losses():
  return losses(1, num_steps=NUM_LONG_STEPS, total='50 steps')


@pytest.mark.parametrize('lever', PLAIN)
def test_each_fast_form_keeps_the_losses_of_the_plain_one(lever, fast_losses, monkeypatch):
  monkeypatch.setattr(*PLAIN[lever])
  plain = losses(1, num_steps=NUM_LONG_STEPS, total='50 steps')
  np.testing.assert_allclose(fast_losses, plain, rtol=1e-4)
