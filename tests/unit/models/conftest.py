"""Fixtures for tests of networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def param_shapes():
  """(model, image shape) -> its parameter tree of ShapeDtypeStructs, without computing anything."""

  def shapes(model, image_shape):
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)['params']

  return shapes


@pytest.fixture
def random_params(param_shapes):
  """(model, image shape) -> parameters drawn from normal(0, 0.3), so that none is zero from the start."""

  def params(model, image_shape, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), leaf.dtype),
      param_shapes(model, image_shape),
    )

  return params
