"""A small training state for checkpoint tests, on one or on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding


class Sample:
  """Builds the trees that a Store saves: {'params', 'opt_state', 'aux'}, random from a seed."""

  def __init__(self):
    mesh = jax.make_mesh((4, 2), ('fsdp', 'model'), axis_types=(AxisType.Auto,) * 2)
    self._rows = NamedSharding(mesh, PartitionSpec('fsdp'))
    self._grid = NamedSharding(mesh, PartitionSpec('model', 'fsdp'))
    self._replicated = NamedSharding(mesh, PartitionSpec())

  def trees(self, seed=0):
    """Returns single-device trees with all kinds of leaves: float widths, optax tuples, scalars, keys."""
    rng = np.random.default_rng(seed)
    params = {
      'head': {'kernel': jnp.asarray(rng.normal(size=(16, 64)), jnp.float32), 'bias': jnp.zeros(64)},
      'Transformer': {'encoder_norm': {'scale': jnp.asarray(rng.normal(size=16), jnp.bfloat16)}},
      'empty': {},
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    aux = {
      'step': jnp.int32(seed),
      'rng': jax.random.key(seed),
      'raw_rng': jax.random.key_data(jax.random.key(seed + 1)),
      'count': np.int64(2**40 + seed),
    }
    opt_state = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype) if x.ndim else x + 3, optimizer.init(params)
    )
    return {'params': params, 'opt_state': opt_state, 'aux': aux}

  def abstract(self, trees, devices=1):
    """Returns abstract trees for one device, or sharded over eight."""

    def describe(leaf):
      if isinstance(leaf, np.generic):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(leaf, devices))

    return jax.tree.map(describe, trees)

  def sharding(self, leaf, devices):
    if devices == 1:
      return SingleDeviceSharding(jax.devices()[0])
    if leaf.ndim == 2:
      return self._grid
    return self._rows if leaf.ndim == 1 and leaf.shape[0] % 4 == 0 else self._replicated

  def spread(self, trees):
    """Returns the same trees, sharded over eight devices."""
    return jax.tree.map(
      lambda x: x if isinstance(x, np.generic) else jax.device_put(x, self.sharding(x, 8)), trees
    )

  def same(self, a, b):
    """Returns whether two groups of trees have equal structure, dtypes and bits."""

    def bits(leaf):
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
      host = np.asarray(leaf)
      return str(leaf.dtype), host.shape, host.tobytes()

    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.map(bits, a) == jax.tree.map(bits, b)


@pytest.fixture(scope='session')
def sample():
  return Sample()
