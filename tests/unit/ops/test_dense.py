"""ops.dense against lax.dot_general and its own gradients by autodiff."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.dense import contract

CASES = {
  'wide': ((3, 5, 8), (8, 12), 1),
  'tall': ((3, 5, 12), (12, 8), 1),
  'into heads': ((3, 5, 8), (8, 2, 6), 1),
  'out of heads': ((3, 5, 2, 6), (2, 6, 8), 2),
  'out of heads, tall': ((3, 5, 4, 6), (4, 6, 8), 2),
  'one row axis': ((7, 12), (12, 8), 1),
}


@pytest.mark.parametrize('case', CASES)
def test_value_and_gradients_are_those_of_dot_general(case):
  x_shape, kernel_shape, num_axes = CASES[case]
  rng = np.random.default_rng(0)
  x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, kernel_shape))

  def plain(x, kernel):
    return jnp.tensordot(x, kernel, num_axes)

  def loss(fn, x, kernel):
    return jnp.sin(fn(x, kernel)).sum()

  np.testing.assert_allclose(contract(x, kernel, num_axes), plain(x, kernel), rtol=1e-5, atol=1e-6)
  ours = jax.grad(lambda *args: loss(lambda a, b: contract(a, b, num_axes), *args), (0, 1))(x, kernel)
  theirs = jax.grad(lambda *args: loss(plain, *args), (0, 1))(x, kernel)
  for a, b in zip(ours, theirs, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16():
  x, kernel = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((8, 4), jnp.bfloat16)
  value, pull = jax.vjp(lambda x, kernel: contract(x, kernel, 1), x, kernel)
  assert {value.dtype, *(g.dtype for g in pull(value))} == {jnp.dtype(jnp.bfloat16)}
