"""The hybrid stem and the BiT ResNet: shapes, names, exact parameter counts, statistics, remat and dtypes."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.variants import TINY_RESNET, ResNetVariant, parse_variant
from vitjax.models import resnet


class Stem(nn.Module):
  """A host for apply_hybrid_stem, which needs a compact method to put its parameters into."""

  units: tuple[int, ...]
  width: int = 64
  groups: int = 32
  dtype: str = 'float32'
  param_dtype: str = 'float32'

  @nn.compact
  def __call__(self, x):
    return resnet.apply_hybrid_stem(
      x,
      self.units,
      dtype=jnp.dtype(self.dtype),
      param_dtype=jnp.dtype(self.param_dtype),
      width=self.width,
      groups=self.groups,
    )


def abstract_params(model, size=224):
  images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  return jax.eval_shape(model.init, jax.random.key(0), images)['params']


def randomised(params, seed=0):
  """Every parameter non-trivial, so that zero-initialised scales and heads hide nothing."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda p: jnp.asarray(rng.normal(0.5, 0.3, p.shape), p.dtype), params)


def init(model, x):
  return jax.jit(model.init)(jax.random.key(0), x)


def images_of(shape, seed=1):
  return jnp.asarray(np.random.default_rng(seed).normal(0, 1, shape), jnp.float32)


def stem_count(units):
  """Parameters of the trunk by hand: kernels, and two numbers per normalised channel."""
  total, c_in = 7 * 7 * 3 * 64 + 2 * 64, 64
  for i, num_units in enumerate(units):
    mid = 64 * 2**i
    for unit in range(num_units):
      total += c_in * mid + 9 * mid * mid + mid * 4 * mid + 2 * mid + 2 * mid + 2 * 4 * mid
      if unit == 0:
        total += c_in * 4 * mid + 2 * 4 * mid
      c_in = 4 * mid
  return total


def bit_count(units, width, num_classes, root=7):
  """Parameters of BiT by hand: norms stand before the convolutions, and the projection has none."""
  total, c_in = root * root * 3 * width, width
  for i, num_units in enumerate(units):
    mid = width * 2**i
    for unit in range(num_units):
      total += c_in * mid + 9 * mid * mid + mid * 4 * mid + 2 * c_in + 2 * mid + 2 * mid
      total += c_in * 4 * mid if unit == 0 else 0
      c_in = 4 * mid
  return total + 2 * c_in + c_in * num_classes + num_classes


@pytest.mark.parametrize(
  ('units', 'count'), [((3, 4, 9), 11_894_848), ((3, 4, 6, 3), None), ((2, 2, 2, 2), None)]
)
def test_stem_has_the_published_number_of_parameters(units, count):
  params = abstract_params(Stem(units))
  assert trees.num_params(params) == stem_count(units)
  assert count is None or trees.num_params(params) == count


def test_stem_parameters_stand_at_the_top_under_the_official_names():
  shapes = {path: leaf.shape for path, leaf in trees.flatten(abstract_params(Stem((1, 2)))).items()}
  unit = {
    'conv1/kernel': lambda c, m: (1, 1, c, m),
    'conv2/kernel': lambda c, m: (3, 3, m, m),
    'conv3/kernel': lambda c, m: (1, 1, m, 4 * m),
    'gn1/scale': lambda c, m: (m,),
    'gn2/scale': lambda c, m: (m,),
    'gn3/scale': lambda c, m: (4 * m,),
  }
  projection = {'conv_proj/kernel': lambda c, m: (1, 1, c, 4 * m), 'gn_proj/scale': lambda c, m: (4 * m,)}
  expected = {'conv_root/kernel': (7, 7, 3, 64), 'gn_root/scale': (64,)}
  for name, c, m, extra in [
    ('block1/unit1', 64, 64, projection),
    ('block2/unit1', 256, 128, projection),
    ('block2/unit2', 512, 128, {}),
  ]:
    expected |= {f'{name}/{leaf}': shape(c, m) for leaf, shape in {**unit, **extra}.items()}
  expected |= {p.replace('scale', 'bias'): s for p, s in expected.items() if p.endswith('scale')}
  assert shapes == expected


@pytest.mark.parametrize(
  ('units', 'size', 'side'), [((3, 4, 9), 224, 14), ((3, 4, 9), 225, 15), ((3, 4, 6, 3), 224, 7), ((), 32, 8)]
)
def test_stem_strides(units, size, side):
  model = Stem(units)
  shape = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), shape)
  assert out.shape == (2, side, side, 256 * 2 ** (len(units) - 1) if units else 64)


def test_stem_stride_sits_on_the_3x3_convolution():
  """A unit whose 1x1 convolutions took the stride would not see odd pixels; this one does."""
  unit = resnet.PostActUnit(4, 2, 2, jnp.float32, jnp.float32)
  x = images_of((1, 8, 8, 16))
  params = randomised(init(unit, x)['params'])
  params['gn_proj'] = jax.tree.map(jnp.zeros_like, params['gn_proj'])
  moved = x.at[0, 3, 3, 0].add(1.0)  # one channel: standardised kernels do not see a shift of all
  apply = jax.jit(unit.apply)
  difference = apply({'params': params}, x) - apply({'params': params}, moved)
  assert difference.shape == (1, 4, 4, 16)
  assert float(jnp.max(jnp.abs(difference))) > 1e-2


def test_fresh_stem_units_pass_only_their_shortcut():
  unit = resnet.PostActUnit(4, 1, 2, jnp.float32, jnp.float32)
  x = images_of((1, 4, 4, 16))
  y = jax.jit(unit.apply)(init(unit, x), x)
  np.testing.assert_array_equal(y, jnp.maximum(x, 0))


@pytest.mark.parametrize('standardize', [resnet.standardize_by_std, resnet.standardize_by_variance])
def test_standardised_kernels_have_mean_0_and_variance_1_per_output(standardize):
  kernel = jnp.asarray(np.random.default_rng(0).normal(3.0, 0.2, (3, 3, 5, 7)), jnp.float32)
  out = np.asarray(standardize(kernel), np.float64)
  np.testing.assert_allclose(out.mean((0, 1, 2)), np.zeros(7), atol=1e-5)
  np.testing.assert_allclose(out.var((0, 1, 2)), np.ones(7), rtol=3e-4)


def test_the_two_forms_put_epsilon_where_the_checkpoints_have_it():
  kernel = jnp.asarray(np.random.default_rng(0).normal(0, 1e-5, (1, 1, 64, 2)), jnp.float32)
  w = np.asarray(kernel, np.float64)
  centred = w - w.mean((0, 1, 2), keepdims=True)
  std = w.std((0, 1, 2), keepdims=True)
  np.testing.assert_allclose(resnet.standardize_by_std(kernel), centred / (std + 1e-5), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    resnet.standardize_by_variance(kernel), centred / np.sqrt(std**2 + 1e-10), rtol=1e-4, atol=1e-6
  )
  assert abs(float(jnp.std(resnet.standardize_by_std(kernel))) - 0.5) < 0.1  # the two differ at this scale
  assert abs(float(jnp.std(resnet.standardize_by_variance(kernel))) - 0.7) < 0.1


@pytest.mark.parametrize(
  ('name', 'count'),
  [('R50x1', 25_549_352), ('R101x1', 44_541_480), ('R152x2', None), ('R200x3', None), ('R50x2', None)],
)
def test_bit_has_the_published_number_of_parameters(name, count):
  variant = parse_variant(name)
  assert isinstance(variant, ResNetVariant)
  params = abstract_params(resnet.BiTResNet(variant, 1000))
  assert trees.num_params(params) == bit_count(variant.units, variant.width, 1000)
  assert count is None or trees.num_params(params) == count


def test_tiny_bit_counts_and_names():
  params = abstract_params(resnet.BiTResNet(TINY_RESNET, 10), size=8)
  assert trees.num_params(params) == bit_count((1, 1, 1), 8, 10, root=3)
  names = set(trees.flatten(params))
  unit = {f'{part}/kernel' for part in ('conv1', 'conv2', 'conv3', 'conv_proj')}
  unit |= {f'gn{i}/{leaf}' for i in (1, 2, 3) for leaf in ('scale', 'bias')}
  expected = {f'block{b}/unit01/{leaf}' for b in (1, 2, 3) for leaf in unit}
  expected |= {f'{name}/{leaf}' for name, leaf in [('norm-pre-head', 'scale'), ('norm-pre-head', 'bias')]}
  assert names == expected | {'head/kernel', 'head/bias', 'root_block/conv_root/kernel'}


def test_second_units_have_two_digits_and_no_projection():
  params = abstract_params(resnet.BiTResNet(ResNetVariant((2,), 8, 2), 3), size=32)
  assert set(params['block1']) == {'unit01', 'unit02'}
  assert 'conv_proj' in params['block1']['unit01']
  assert 'conv_proj' not in params['block1']['unit02']


@pytest.mark.parametrize(('size', 'side'), [(8, 1), (28, 4), (32, 4)])
def test_small_root_downsamples_by_eight_in_three_stages(size, side):
  model = resnet.BiTResNet(TINY_RESNET, 10)
  shape = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), shape)
  logits, out = jax.eval_shape(lambda p, x: model.apply(p, x, return_features=True), params, shape)
  assert logits.shape == (2, 10)
  assert logits.dtype == jnp.float32
  shapes = {name: leaf.shape for name, leaf in out.items() if not name.startswith('stage')}
  assert out['stage3'].shape == (2, side, side, 128)
  assert shapes == {'tokens': (2, side * side, 128), 'pooled': (2, 128), 'pre_logits': (2, 128)}


@pytest.mark.parametrize(('size', 'side'), [(224, 7), (160, 5), (32, 1)])
def test_standard_root_downsamples_by_32(size, side):
  model = resnet.BiTResNet(ResNetVariant((1, 1, 1, 1), 8, 2), 5)
  shape = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), shape)
  _, out = jax.eval_shape(lambda p, x: model.apply(p, x, return_features=True), params, shape)
  assert out['tokens'].shape == (1, side * side, 256)


def test_fresh_head_gives_its_bias_and_features_are_the_mean_of_tokens():
  variant = ResNetVariant((1,), 4, 2, small_root=True)
  model = resnet.BiTResNet(variant, 3, head_bias_init=-6.9)
  x = images_of((2, 8, 8, 3))
  variables = jax.jit(lambda key: model.init({'params': key}, x, train=False))(jax.random.key(0))
  logits, out = jax.jit(lambda v: model.apply(v, x, train=True, return_features=True))(variables)
  np.testing.assert_array_equal(logits, np.full((2, 3), -6.9, np.float32))
  np.testing.assert_allclose(out['pooled'], np.mean(out['tokens'], axis=1), rtol=1e-5, atol=1e-6)
  assert float(jnp.min(out['tokens'])) >= 0
  assert float(jnp.std(out['pooled'])) > 0

  headless = resnet.BiTResNet(variant, 0)
  params = dict(variables['params'])
  del params['head']
  assert set(init(headless, x)['params']) == set(params)
  np.testing.assert_allclose(jax.jit(headless.apply)({'params': params}, x), out['pooled'], rtol=1e-6)


@pytest.mark.parametrize('remat', ['dots', 'full'])
def test_remat_changes_neither_names_nor_gradients(remat):
  variant = ResNetVariant((1,), 4, 2, small_root=True)
  x = images_of((1, 4, 4, 3))
  plain = resnet.BiTResNet(variant, 3)
  params = randomised(init(plain, x)['params'])

  def gradient(model):
    return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.apply({'params': p}, x)))))

  other = dataclasses.replace(plain, remat=remat)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
    gradient(plain)(params),
    gradient(other)(params),
  )
  recomputed = {
    name: str(jax.make_jaxpr(jax.grad(lambda p, m=model: m.apply({'params': p}, x).sum()))(params)).count(
      'conv_general_dilated['
    )
    for name, model in [('plain', plain), ('remat', other)]
  }
  # In a unit the backward pass needs what conv1 and conv2 put out, but not conv3 and conv_proj.
  assert recomputed['remat'] - recomputed['plain'] == (0 if remat == 'dots' else 2)


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32():
  model = resnet.BiTResNet(TINY_RESNET, 3, dtype=jnp.bfloat16)
  x = images_of((2, 8, 8, 3))
  params = init(model, x)['params']
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
  params = randomised(params)
  logits, out = jax.jit(lambda p: model.apply({'params': p}, x, return_features=True))(params)
  assert logits.dtype == out['pooled'].dtype == jnp.float32
  assert out['tokens'].dtype == jnp.bfloat16
  exact = jax.jit(dataclasses.replace(model, dtype=jnp.float32).apply)({'params': params}, x)
  assert float(jnp.max(jnp.abs(logits - exact))) < 0.03 * float(jnp.max(jnp.abs(exact)))
  assert float(jnp.max(jnp.abs(logits - exact))) > 0


def test_norm_statistics_of_bfloat16_activations_are_float32():
  """4096 values near 4: summed in bfloat16 their mean would be far off; in float32 it is not."""
  unit = resnet.PreActUnit(2, 1, 1, jnp.bfloat16, jnp.float32)
  x = jnp.asarray(4 + np.random.default_rng(0).normal(0, 1, (1, 64, 64, 8)), jnp.bfloat16)
  variables = init(unit, x)
  apply = jax.jit(lambda v: unit.apply(v, x, capture_intermediates=True, mutable=['intermediates']))
  _, state = apply(variables)
  out = np.asarray(state['intermediates']['gn1']['__call__'][0], np.float64)
  wanted = np.asarray(x, np.float64)
  wanted = (wanted - wanted.mean()) / np.sqrt(wanted.var() + 1e-5)
  assert state['intermediates']['gn1']['__call__'][0].dtype == jnp.bfloat16
  np.testing.assert_allclose(out, wanted, atol=0.03)
  assert abs(out.mean()) < 1e-3


def test_kernel_statistics_are_float32_under_bfloat16():
  kernel = jnp.asarray(100 + np.random.default_rng(0).normal(0, 0.1, (3, 3, 8, 4)), jnp.float32)
  conv = resnet.StdConv(4, 3, padding=1, dtype=jnp.bfloat16)
  x = images_of((1, 5, 5, 8))
  exact = resnet.StdConv(4, 3, padding=1).apply({'params': {'kernel': kernel}}, x)
  rounded = conv.apply({'params': {'kernel': kernel}}, x)
  assert rounded.dtype == jnp.bfloat16
  largest = float(jnp.max(jnp.abs(exact)))
  np.testing.assert_allclose(np.asarray(rounded, np.float32), exact, atol=0.03 * largest)


def test_param_dtype_reaches_every_parameter():
  stem = abstract_params(Stem((1,), 8, 2, param_dtype='bfloat16'), 16)
  bit = abstract_params(resnet.BiTResNet(TINY_RESNET, 3, param_dtype=jnp.bfloat16), 16)
  assert {leaf.dtype for leaf in jax.tree.leaves((stem, bit))} == {jnp.dtype(jnp.bfloat16)}


def test_stem_computes_in_the_dtype_asked_for():
  model = Stem((1,), 8, 2, dtype='bfloat16')
  x = images_of((1, 16, 16, 3))
  out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
  assert out.dtype == jnp.bfloat16
