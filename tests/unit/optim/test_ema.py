"""Averaged weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.optim import ema_init, ema_update


def test_formula_over_five_steps():
  rng = np.random.default_rng(0)
  values = rng.normal(0, 1, (6, 3, 2))
  ema = ema_init({'a': {'b': jnp.asarray(values[0], jnp.float32)}})
  for value in values[1:]:
    ema = jax.jit(ema_update, static_argnums=2)(ema, {'a': {'b': jnp.asarray(value, jnp.float32)}}, 0.7)
  wanted = 0.7**5 * values[0] + sum(0.3 * 0.7 ** (5 - t) * values[t] for t in range(1, 6))
  np.testing.assert_allclose(ema['a']['b'], wanted, rtol=1e-5, atol=1e-6)


def test_the_start_weighs_decay_to_the_t():
  ema = ema_init({'w': jnp.ones(2)})
  for _ in range(10):
    ema = ema_update(ema, {'w': jnp.zeros(2)}, 0.9)
  np.testing.assert_allclose(ema['w'], np.full(2, 0.9**10), rtol=1e-5)


def test_extreme_decays():
  old, new = {'w': jnp.full(2, 3.0)}, {'w': jnp.full(2, 5.0)}
  np.testing.assert_array_equal(ema_update(old, new, 0.0)['w'], new['w'])
  np.testing.assert_array_equal(ema_update(old, new, 1.0)['w'], old['w'])


def test_bfloat16_parameters_are_averaged_in_float32():
  params = {'w': jnp.ones(2, jnp.bfloat16)}
  ema = ema_init(params)
  assert ema['w'].dtype == jnp.float32
  ema = ema_update(ema, {'w': jnp.zeros(2, jnp.bfloat16)}, 0.9999)
  assert ema['w'].dtype == jnp.float32
  np.testing.assert_allclose(ema['w'], np.full(2, 0.9999), rtol=1e-6)


def test_the_start_is_a_copy():
  params = {'w': jnp.ones(2)}
  assert ema_init(params)['w'] is not params['w']
  assert ema_init(params)['w'].unsafe_buffer_pointer() != params['w'].unsafe_buffer_pointer()
