"""The built-in rules on the real models: every parameter is covered, and sharding changes no result."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.schema import ParallelConfig
from vitjax.models import create_model
from vitjax.parallel import (
  batch_sharding,
  make_mesh,
  on_mesh,
  param_shardings,
  replicated,
  sharding_table,
  to_global,
)

SMALL = {'width': 32, 'depth': 2, 'mlp_dim': 64, 'num_heads': 4}


def abstract_params(model, size):
  return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3))))['params']


@pytest.mark.parametrize(
  ('variant', 'overrides'),
  [
    ('Ti/16', SMALL | {'representation_size': 32, 'num_registers': 2, 'layer_scale_init': 1e-5}),
    ('Ti/16', SMALL | {'pool': 'map', 'layers': 'scan'}),
    ('Ti/16', SMALL | {'position': 'learned_2d', 'position_at': 'every_layer'}),
    ('Ti/16', SMALL | {'position': 'relative', 'position_at': 'every_layer_shared'}),
    ('22B/14', SMALL),
    ('R50+B/16', {'depth': 1}),
    ('R50x1', {}),
  ],
)
def test_every_parameter_of_every_model_is_covered(variant, overrides):
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, model=2))
  params = abstract_params(create_model(variant, num_classes=10, **overrides), 28 if '/14' in variant else 32)
  rows = sharding_table(params, mesh)
  assert [row.path for row in rows] == list(trees.flatten(params))
  assert not [row for row in rows if row.not_divided]
  # Everything large is split: what stays whole is positions, norms and biases.
  whole = [row.path for row in rows if not any(row.spec) and 'kernel' in row.path]
  assert whole == []


@pytest.mark.parametrize('layers', ['loop', 'scan'])
def test_sharded_gradients_equal_those_of_one_device(layers):
  model = create_model('Ti/16', num_classes=10, layers=layers, **SMALL)
  images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype(np.float32)
  params = jax.jit(model.init)(jax.random.key(0), images[:1])['params']
  params = jax.tree.map(lambda x: x + 0.02, params)  # the head starts at zero, and would hide the rest

  def loss(params, images):
    return jnp.square(model.apply({'params': params}, images, train=False)).mean()

  expected = jax.jit(jax.value_and_grad(loss))(params, images)
  mesh = make_mesh(ParallelConfig(data=2, fsdp=2, model=2))
  shardings = param_shardings(params, mesh)
  step = jax.jit(on_mesh(mesh, jax.value_and_grad(loss)), out_shardings=(replicated(mesh), shardings))
  actual = step(jax.device_put(params, shardings), to_global(mesh, {'image': images})['image'])
  gathered = trees.flatten(jax.tree.map(np.asarray, actual))
  for path, value in trees.flatten(expected).items():
    np.testing.assert_allclose(gathered[path], value, rtol=2e-4, atol=2e-6, err_msg=path)


def collective_shapes(hlo):
  """Returns the shapes of the results of all collectives in the text of a compiled program."""
  shapes = set()
  pattern = r' = (.*?) (?:all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
  for line in hlo.splitlines():
    if found := re.search(pattern, line):
      shapes |= {tuple(map(int, dims.split(','))) for dims in re.findall(r'\w\[([\d,]+)\]', found[1])}
  return shapes


@pytest.mark.parametrize(
  ('variant', 'overrides'),
  [('Ti/16', SMALL), pytest.param('R50+B/16', SMALL | {'depth': 1}, marks=pytest.mark.slow)],
)
def test_fsdp_moves_weights_and_never_activations(variant, overrides):
  """Left alone, the compiler may gather the batch on every device and split the features instead."""
  batch = 24  # a number that no parameter has
  model = create_model(variant, num_classes=10, **overrides)
  mesh = make_mesh(ParallelConfig(data=1, fsdp=8))
  params = abstract_params(model, 32)
  shardings = param_shardings(params, mesh)
  params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, shardings)
  images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32, sharding=batch_sharding(mesh))

  def loss(params, images):
    return jnp.square(model.apply({'params': params}, images, train=False)).mean()

  step = jax.jit(on_mesh(mesh, jax.value_and_grad(loss)), out_shardings=(replicated(mesh), shardings))
  shapes = collective_shapes(step.lower(params, images).compile().as_text())
  kernels = {leaf.shape for path, leaf in trees.flatten(params).items() if 'kernel' in path}
  assert shapes & kernels  # weights are gathered for use
  assert [shape for shape in shapes if batch in shape and len(shape) > 2] == []
