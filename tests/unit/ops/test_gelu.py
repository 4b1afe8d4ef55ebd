"""ops.gelu against jax.nn.gelu and its gradient by autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.gelu import gelu_tanh


def plain(x):
  return jax.nn.gelu(x, approximate=True)


def test_value_and_gradient_are_those_of_autodiff():
  x = jnp.asarray(np.r_[np.linspace(-12, 12, 2401), -1e4, 1e4, 0.0], jnp.float32)
  np.testing.assert_array_equal(gelu_tanh(x), plain(x))
  np.testing.assert_allclose(
    jax.grad(lambda x: gelu_tanh(x).sum())(x), jax.grad(lambda x: plain(x).sum())(x), rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('value', [-np.inf, np.nan])
def test_what_is_not_finite_stays_so(value):
  assert not np.isfinite(jax.grad(gelu_tanh)(jnp.float32(value)))


def test_bfloat16_stays_bfloat16_and_its_gradient_is_exact_to_rounding():
  x = jnp.linspace(-4, 4, 257).astype(jnp.bfloat16)
  y, pull = jax.vjp(gelu_tanh, x)
  (dx,) = pull(jnp.ones_like(y))
  assert y.dtype == dx.dtype == jnp.bfloat16
  wide = jax.vmap(jax.grad(plain))(x.astype(jnp.float32))
  np.testing.assert_allclose(dx.astype(jnp.float32), wide, rtol=2**-7, atol=1e-6)
