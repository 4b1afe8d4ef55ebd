"""ops.attention against the definition, its gradients against autodiff of the definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.attention import attend, fused_attend_fits


def definition(query, key, value):
  logits = jnp.einsum('nqke,njke->nkqj', query, key) / jnp.sqrt(query.shape[-1])
  return jnp.einsum('nkqj,njke->nqke', jax.nn.softmax(logits, axis=-1), value)


def inputs(dtype, scale=1.0, num_queries=7):
  rng = np.random.default_rng(0)
  shapes = (2, num_queries, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8), (2, num_queries, 3, 8)
  return [jnp.asarray(scale * rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize('num_queries', [7, 1])
def test_value_and_gradients_are_those_of_the_definition(num_queries):
  *args, g = inputs(jnp.float32, num_queries=num_queries)
  ours, pull = jax.vjp(attend, *args)
  theirs, pull_definition = jax.vjp(definition, *args)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
  for a, b in zip(pull(g), pull_definition(g), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_large_logits_do_not_overflow():
  *args, g = inputs(jnp.float32, scale=60.0)
  value, pull = jax.vjp(attend, *args)
  assert all(np.isfinite(x).all() for x in (value, *pull(g)))


def test_bfloat16_is_as_close_as_its_eight_bits_allow():
  *args, g = inputs(jnp.bfloat16)
  exact = [x.astype(jnp.float32) for x in args]
  value, pull = jax.vjp(attend, *args)
  expected, pull_exact = jax.vjp(definition, *exact)
  for a, b in zip((value, *pull(g)), (expected, *pull_exact(g.astype(jnp.float32))), strict=True):
    assert a.dtype == jnp.bfloat16
    error = np.linalg.norm(a.astype(jnp.float32) - b) / np.linalg.norm(b)
    assert error < 2e-2, error


@pytest.mark.parametrize(
  ('dtype', 'head_dim', 'fits'),
  [(jnp.bfloat16, 64, True), (jnp.bfloat16, 80, True), (jnp.bfloat16, 20, False), (jnp.bfloat16, 136, False),
   (jnp.float32, 64, False)],
)  # fmt: skip
def test_what_the_fused_kernel_takes(dtype, head_dim, fits):
  assert fused_attend_fits(jnp.dtype(dtype), head_dim) is fits
