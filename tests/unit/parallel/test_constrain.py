import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitjax.config.schema import ParallelConfig
from vitjax.parallel.constrain import constrain, on_mesh
from vitjax.parallel.mesh import BATCH_AXES, make_mesh

P = PartitionSpec


@pytest.fixture(scope='module')
def mesh():
  return make_mesh(ParallelConfig(data=2, fsdp=2, model=2))


def replicated_ones(mesh, shape):
  return jax.device_put(jnp.ones(shape), NamedSharding(mesh, P()))


def hinted(x):
  return constrain(x * 2, BATCH_AXES, None, 'model')


def test_without_a_mesh_it_is_the_identity():
  x = jnp.ones((4, 3, 2))
  assert constrain(x, BATCH_AXES) is x
  assert 'sharding_constraint' not in str(jax.make_jaxpr(hinted)(x))


@pytest.mark.parametrize('use_set_mesh', [False, True])
def test_hint_decides_the_sharding_under_jit(mesh, use_set_mesh):
  x = replicated_ones(mesh, (4, 3, 2))
  if use_set_mesh:
    with jax.set_mesh(mesh):
      y = jax.jit(hinted)(x)
  else:
    y = jax.jit(on_mesh(mesh, hinted))(x)
  assert y.sharding.is_equivalent_to(NamedSharding(mesh, P(BATCH_AXES, None, 'model')), 3)


def test_trace_without_a_mesh_is_not_reused_with_one(mesh):
  x = replicated_ones(mesh, (4, 3, 2))
  assert jax.jit(hinted)(x).sharding.is_fully_replicated
  assert not jax.jit(on_mesh(mesh, hinted))(x).sharding.is_fully_replicated


def test_eager_arrays_stay_as_they_are_under_a_mesh(mesh):
  x = jnp.ones((4, 3, 2))
  with jax.set_mesh(mesh):
    assert constrain(x, BATCH_AXES) is x


def test_axes_that_do_not_divide_are_left_out(mesh):
  y = jax.jit(on_mesh(mesh, lambda x: constrain(x, BATCH_AXES, None, 'model')))(
    replicated_ones(mesh, (4, 2, 3))
  )
  assert y.sharding.is_equivalent_to(NamedSharding(mesh, P(BATCH_AXES)), 3)


def test_grad_scan_and_remat_pass_through(mesh):
  @jax.checkpoint
  def layer(x, _):
    return jnp.sin(constrain(x, BATCH_AXES, None)), None

  def loss(x):
    return jax.lax.scan(layer, x, None, length=2)[0].sum()

  x = replicated_ones(mesh, (4, 2))
  expected = jax.jit(jax.grad(loss))(x)
  actual = jax.jit(on_mesh(mesh, jax.grad(loss)))(x)
  assert jnp.allclose(expected, actual)


def test_inside_shard_map_the_hint_is_silent(mesh):
  fn = jax.shard_map(
    lambda x: constrain(x, BATCH_AXES), mesh=mesh, in_specs=P(BATCH_AXES), out_specs=P(BATCH_AXES)
  )
  assert jax.jit(fn)(jnp.ones((4, 2))).shape == (4, 2)


def test_mesh_of_somebody_else_is_tolerated():
  other = Mesh(jax.devices()[:2], ('x',), axis_types=(jax.sharding.AxisType.Auto,))
  y = jax.jit(on_mesh(other, hinted))(replicated_ones(other, (4, 3, 2)))
  assert y.sharding.is_fully_replicated


@pytest.mark.parametrize('spec', [('batch',), (None, None, 'model')])
def test_unknown_axes_and_too_many_entries_raise_without_a_mesh(spec):
  with pytest.raises(ValueError, match='entries are'):
    constrain(jnp.ones((4, 2)), *spec)
