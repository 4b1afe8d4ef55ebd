"""ops.norm against flax.linen's LayerNorm and its gradients by autodiff."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops import norm

EPSILON = 1e-6


def plain(x, scale, bias):
  params = {'scale': scale} if bias is None else {'scale': scale, 'bias': bias}
  return nn.LayerNorm(epsilon=EPSILON, use_bias=bias is not None).apply({'params': params}, x)


@pytest.fixture(params=['products', 'sums'])
def form(request, monkeypatch):
  """Both forms of the backward pass, whatever the platform of the tests is."""
  chosen = {'products': norm._sums_by_products, 'sums': norm._sums}[request.param]
  monkeypatch.setattr(norm.jax.lax, 'platform_dependent', lambda *args, cpu, default: chosen(*args))


@pytest.mark.usefixtures('form')
@pytest.mark.parametrize('shape', [(3, 5, 8), (7, 8), (2, 3, 4, 8)])
@pytest.mark.parametrize('use_bias', [True, False])
def test_value_and_gradients_are_those_of_autodiff(shape, use_bias):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(1.0, 2.0, shape), jnp.float32)
  scale = jnp.asarray(rng.normal(1.0, 0.3, shape[-1:]), jnp.float32)
  bias = jnp.asarray(rng.normal(size=shape[-1:]), jnp.float32) if use_bias else None
  np.testing.assert_allclose(
    norm.layer_norm(x, scale, bias, EPSILON), plain(x, scale, bias), rtol=1e-5, atol=1e-6
  )

  def gradients(fn):
    return jax.grad(lambda *args: jnp.sin(fn(*args)).sum(), (0, 1, 2) if use_bias else (0, 1))(x, scale, bias)

  ours = gradients(lambda *args: norm.layer_norm(*args, EPSILON))
  for a, b in zip(ours, gradients(plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_input_gets_a_bfloat16_gradient_and_float32_arithmetic():
  x = jnp.asarray(np.random.default_rng(0).normal(5.0, 1.0, (4, 16)), jnp.bfloat16)
  scale, bias = jnp.ones(16), jnp.zeros(16)
  y, pull = jax.vjp(lambda x: norm.layer_norm(x, scale, bias, EPSILON), x)
  wide = x.astype(jnp.float32)
  np.testing.assert_allclose(y, plain(wide, scale, bias), rtol=1e-5, atol=1e-5)
  (dx,) = pull(jnp.sin(y))
  assert dx.dtype == jnp.bfloat16
  (expected,) = jax.vjp(lambda x: plain(x, scale, bias), wide)[1](jnp.sin(y))
  np.testing.assert_allclose(dx.astype(jnp.float32), expected, rtol=1e-2, atol=1e-2)
