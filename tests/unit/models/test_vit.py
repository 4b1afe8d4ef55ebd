"""VisionTransformer: parameter trees, counts, initial values, features, and errors for people."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.errors import ConfigError, DataError
from vitjax.models import BiTResNet, VisionTransformer, build_model, create_model

TINY = {'patch_size': 4, 'width': 16, 'depth': 2, 'mlp_dim': 24, 'num_heads': 2}
IMAGES = (2, 8, 12, 3)


def tiny(num_classes=5, **overrides):
  return create_model('B/16', num_classes=num_classes, **{**TINY, **overrides})


def draw_images(shape=IMAGES, seed=1):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
  ('variant', 'image_size', 'expected'),
  [
    ('Ti/16', 224, 5_717_416),
    ('S/16', 224, 22_050_664),
    ('B/16', 224, 86_567_656),
    ('B/16', 384, 86_859_496),
    ('L/16', 224, 304_326_632),
    ('H/14', 224, 632_045_800),
  ],
)
@pytest.mark.parametrize('layers', ['loop', 'scan'])
def test_parameter_counts(variant, image_size, expected, layers, param_shapes):
  model = create_model(variant, num_classes=1000, layers=layers)
  assert trees.num_params(param_shapes(model, (1, image_size, image_size, 3))) == expected


@pytest.mark.parametrize(
  ('variant', 'overrides', 'expected'),
  [
    ('B/16', {'num_classes': 21843, 'representation_size': 768}, 103_186_515),
    ('B/16', {'num_classes': 21843}, 102_595_923),
    ('R50+B/16', {'num_classes': 21843, 'representation_size': 768}, 115_277_971),
    (
      'S/16',
      {'num_classes': 1000, 'pool': 'gap', 'position': 'sincos_2d', 'representation_size': 384},
      22_122_472,
    ),
    ('S/16', {'num_classes': 1000, 'pool': 'gap', 'position': 'sincos_2d'}, 21_974_632),
  ],
)
def test_parameter_counts_of_released_models(variant, overrides, expected, param_shapes):
  assert trees.num_params(param_shapes(create_model(variant, **overrides), (1, 224, 224, 3))) == expected


def test_parameter_count_of_22b(param_shapes):
  params = param_shapes(create_model('22B/14', num_classes=0, layers='scan'), (1, 224, 224, 3))
  d, m = 6144, 24576
  block = 3 * d * d + d * d + d + 2 * 128 + 2 * d * m + m + d + d  # qkv, out, q/k norms, MLP, one norm
  assert trees.num_params(params) == 48 * block + 14 * 14 * 3 * d + d + 257 * d + d + d
  assert 21.7e9 < trees.num_params(params) < 22e9


def test_tree_of_b16_is_the_official_one(param_shapes):
  shapes = {
    path: leaf.shape
    for path, leaf in trees.flatten(
      param_shapes(create_model('B/16', num_classes=1000), (1, 224, 224, 3))
    ).items()
  }
  expected = {
    'cls': (1, 1, 768),
    'embedding/kernel': (16, 16, 3, 768),
    'embedding/bias': (768,),
    'Transformer/posembed_input/pos_embedding': (1, 197, 768),
    'Transformer/encoder_norm/scale': (768,),
    'Transformer/encoder_norm/bias': (768,),
    'head/kernel': (768, 1000),
    'head/bias': (1000,),
  }
  for i in range(12):
    block = f'Transformer/encoderblock_{i}'
    for name in ('query', 'key', 'value'):
      expected[f'{block}/MultiHeadDotProductAttention_0/{name}/kernel'] = (768, 12, 64)
      expected[f'{block}/MultiHeadDotProductAttention_0/{name}/bias'] = (12, 64)
    expected[f'{block}/MultiHeadDotProductAttention_0/out/kernel'] = (12, 64, 768)
    expected[f'{block}/MultiHeadDotProductAttention_0/out/bias'] = (768,)
    expected[f'{block}/MlpBlock_0/Dense_0/kernel'] = (768, 3072)
    expected[f'{block}/MlpBlock_0/Dense_0/bias'] = (3072,)
    expected[f'{block}/MlpBlock_0/Dense_1/kernel'] = (3072, 768)
    expected[f'{block}/MlpBlock_0/Dense_1/bias'] = (768,)
    for norm in ('LayerNorm_0', 'LayerNorm_1'):
      expected[f'{block}/{norm}/scale'] = (768,)
      expected[f'{block}/{norm}/bias'] = (768,)
  assert shapes == expected


def added(overrides, param_shapes):
  """Returns ({path: shape} that `overrides` adds to the tiny model, [paths that it takes away])."""
  base = {path: leaf.shape for path, leaf in trees.flatten(param_shapes(tiny(), IMAGES)).items()}
  shapes = {path: leaf.shape for path, leaf in trees.flatten(param_shapes(tiny(**overrides), IMAGES)).items()}
  return {k: v for k, v in shapes.items() if base.get(k) != v}, sorted(set(base) - set(shapes))


POSITIONS = 'Transformer/posembed_input'
BLOCK = 'Transformer/encoderblock'


def per_block(tail, shape):
  return {f'{BLOCK}_{i}/{tail}': shape for i in range(2)}


@pytest.mark.parametrize(
  ('overrides', 'more', 'fewer'),
  [
    ({'position': 'none'}, {}, [f'{POSITIONS}/pos_embedding']),
    ({'position': 'sincos_2d'}, {}, [f'{POSITIONS}/pos_embedding']),
    (
      {'position': 'learned_2d'},
      {
        f'{POSITIONS}/pos_embedding_x': (1, 3, 8),
        f'{POSITIONS}/pos_embedding_y': (1, 2, 8),
        f'{POSITIONS}/pos_embedding_cls': (1, 1, 16),
      },
      [f'{POSITIONS}/pos_embedding'],
    ),
    ({'pool': 'gap'}, {f'{POSITIONS}/pos_embedding': (1, 6, 16)}, ['cls']),
    (
      {'position_at': 'every_layer'},
      per_block('posembed_input/pos_embedding', (1, 7, 16)),
      [f'{POSITIONS}/pos_embedding'],
    ),
    ({'position_at': 'every_layer_shared'}, {}, []),
    (
      {'position': 'relative'},
      per_block('posembed_input/relative_keys', (13, 8)),
      [f'{POSITIONS}/pos_embedding'],
    ),
    (
      {'position': 'relative', 'position_at': 'every_layer_shared', 'num_registers': 2},
      {f'{POSITIONS}/relative_keys': (17, 8), 'registers': (1, 2, 16)},
      [f'{POSITIONS}/pos_embedding'],
    ),
    (
      {'layer_scale_init': 0.1},
      {**per_block('LayerScale_0/scale', (16,)), **per_block('LayerScale_1/scale', (16,))},
      [],
    ),
    (
      {'qk_norm': True},
      {
        **per_block('MultiHeadDotProductAttention_0/query_ln/scale', (8,)),
        **per_block('MultiHeadDotProductAttention_0/key_ln/scale', (8,)),
      },
      [],
    ),
    (
      {'parallel_blocks': True},
      {},
      sorted([*per_block('LayerNorm_1/scale', ()), *per_block('LayerNorm_1/bias', ())]),
    ),
    (
      {'representation_size': 9},
      {'pre_logits/kernel': (16, 9), 'pre_logits/bias': (9,), 'head/kernel': (9, 5)},
      [],
    ),
    ({'num_classes': 0}, {}, ['head/bias', 'head/kernel']),
  ],
)
def test_what_each_knob_adds_to_the_tree(overrides, more, fewer, param_shapes):
  assert added(overrides, param_shapes) == (more, fewer)


def test_map_head_has_the_released_names(param_shapes):
  more, fewer = added({'pool': 'map'}, param_shapes)
  assert fewer == ['cls']
  attention = {
    f'MAPHead_0/MultiHeadDotProductAttention_0/{name}/{leaf}': shape
    for name in ('query', 'key', 'value')
    for leaf, shape in (('kernel', (16, 2, 8)), ('bias', (2, 8)))
  }
  assert more == {
    f'{POSITIONS}/pos_embedding': (1, 6, 16),
    'MAPHead_0/probe': (1, 1, 16),
    **attention,
    'MAPHead_0/MultiHeadDotProductAttention_0/out/kernel': (2, 8, 16),
    'MAPHead_0/MultiHeadDotProductAttention_0/out/bias': (16,),
    'MAPHead_0/LayerNorm_0/scale': (16,),
    'MAPHead_0/LayerNorm_0/bias': (16,),
    'MAPHead_0/MlpBlock_0/Dense_0/kernel': (16, 24),
    'MAPHead_0/MlpBlock_0/Dense_0/bias': (24,),
    'MAPHead_0/MlpBlock_0/Dense_1/kernel': (24, 16),
    'MAPHead_0/MlpBlock_0/Dense_1/bias': (16,),
  }


def test_initial_values_follow_the_paper():
  model = tiny(
    head_bias_init=-10.0,
    layer_scale_init=0.25,
    num_registers=64,
    representation_size=8,
    width=64,
    mlp_dim=96,
    depth=1,
  )
  variables = jax.jit(model.init)(jax.random.key(3), draw_images((1, 64, 64, 3)))
  flat = {path: np.asarray(leaf) for path, leaf in trees.flatten(variables['params']).items()}
  block = 'Transformer/encoderblock_0'
  attention = f'{block}/MultiHeadDotProductAttention_0'
  for path in (
    'cls',
    'head/kernel',
    'embedding/bias',
    'pre_logits/bias',
    f'{attention}/query/bias',
    f'{attention}/out/bias',
  ):
    assert not flat[path].any(), path
  np.testing.assert_array_equal(flat['head/bias'], -10)
  np.testing.assert_array_equal(flat[f'{block}/LayerScale_0/scale'], 0.25)
  deviations = {
    'registers': 0.02,
    'Transformer/posembed_input/pos_embedding': 0.02,
    f'{block}/MlpBlock_0/Dense_0/bias': 1e-6,
    f'{block}/MlpBlock_0/Dense_1/bias': 1e-6,
    f'{block}/MlpBlock_0/Dense_0/kernel': np.sqrt(2 / (64 + 96)),
    f'{attention}/query/kernel': np.sqrt(2 / (64 + 64)),
    f'{attention}/out/kernel': np.sqrt(2 / (64 + 64)),
    'embedding/kernel': np.sqrt(1 / 48),
    'pre_logits/kernel': np.sqrt(1 / 64),
  }
  for path, deviation in deviations.items():
    assert abs(flat[path].std() / deviation - 1) < 0.25, path
  limit = np.sqrt(6 / (64 + 64))  # Xavier uniform is bounded, and no head's share may be scaled apart
  assert 0.9 * limit < np.abs(flat[f'{attention}/query/kernel']).max() <= limit


def test_features_and_shapes(random_params):
  model = tiny(num_registers=2, representation_size=9)
  params = random_params(model, IMAGES)
  logits, out = jax.jit(lambda p, x: model.apply({'params': p}, x, return_features=True))(
    params, draw_images()
  )
  shapes = {name: array.shape for name, array in out.items()}
  assert shapes == {
    'block00': (2, 9, 16),
    'block01': (2, 9, 16),
    'tokens': (2, 9, 16),
    'pooled': (2, 16),
    'pre_logits': (2, 9),
  }
  assert logits.shape == (2, 5)
  np.testing.assert_array_equal(out['pooled'], out['tokens'][:, 0])
  expected = (
    np.asarray(out['pre_logits']) @ np.asarray(params['head']['kernel'])
    + np.asarray(params['head']['bias'])[None]
  )
  np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_zero_classes_return_what_a_head_would_see(random_params):
  model = tiny(num_classes=0)
  logits, out = model.apply({'params': random_params(model, IMAGES)}, draw_images(), return_features=True)
  assert logits.dtype == jnp.float32
  np.testing.assert_array_equal(logits, out['pooled'])


@pytest.mark.parametrize('layers', ['loop', 'scan'])
def test_bfloat16_computes_in_bfloat16_and_returns_float32(layers, random_params):
  exact = tiny(pool='map', layers=layers)
  rounded = tiny(pool='map', layers=layers, dtype='bfloat16')
  params = random_params(exact, IMAGES)
  expected = jax.jit(exact.apply)({'params': params}, draw_images())
  logits, out = jax.jit(lambda p, x: rounded.apply({'params': p}, x, return_features=True))(
    params, draw_images()
  )
  assert logits.dtype == jnp.float32
  assert out['pooled'].dtype == jnp.float32
  assert out['tokens'].dtype == jnp.bfloat16
  assert out['block00'].dtype == jnp.bfloat16
  error = float(jnp.abs(logits - expected).max() / jnp.abs(expected).max())
  assert 1e-5 < error < 0.05


def test_bfloat16_parameters(param_shapes):
  model = tiny(
    pool='map',
    num_registers=1,
    layer_scale_init=0.1,
    qk_norm=True,
    param_dtype='bfloat16',
    representation_size=4,
  )
  shapes = param_shapes(model, IMAGES)
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes)} == {'bfloat16'}


def test_hybrid_runs_and_keeps_its_stem_at_the_top(random_params):
  model = create_model('R26+S/32', num_classes=4, width=16, depth=1, mlp_dim=8, num_heads=2)
  params = random_params(model, (1, 64, 96, 3))
  assert {'conv_root', 'gn_root', 'block1', 'block4', 'embedding', 'cls', 'Transformer', 'head'} <= set(
    params
  )
  assert params['embedding']['kernel'].shape == (1, 1, 2048, 16)
  _, out = jax.eval_shape(
    lambda p, x: model.apply({'params': p}, x, return_features=True), params, draw_images((1, 64, 96, 3))
  )
  assert out['tokens'].shape == (1, 7, 16)


def test_create_model_dispatches():
  assert isinstance(create_model('B/32', num_classes=3), VisionTransformer)
  resnet = create_model('R50x1', num_classes=3, head_bias_init=-2.0, dtype='bfloat16')
  assert isinstance(resnet, BiTResNet)
  assert (resnet.num_classes, resnet.head_bias_init, resnet.dtype) == (3, -2.0, jnp.bfloat16)


@pytest.mark.parametrize(
  ('shape', 'dtype', 'match'),
  [
    ((1, 9, 12, 3), jnp.float32, r'9x12 pixels: expected multiples of the patch size, 4. .*8x12 or 12x16'),
    ((1, 3, 3, 3), jnp.float32, r'3x3 pixels'),
    ((8, 12, 3), jnp.float32, r'shape \(8, 12, 3\).*batch axis'),
    ((1, 8, 12, 3), jnp.uint8, r'dtype uint8.*Normalise'),
  ],
)
def test_images_that_do_not_fit_at_init(shape, dtype, match):
  with pytest.raises(DataError, match=match):
    tiny().init(jax.random.key(0), jnp.ones(shape, dtype))


@pytest.mark.parametrize(
  'overrides',
  [
    {},
    {'layers': 'scan', 'position_at': 'every_layer'},
    {'position': 'learned_2d', 'remat': 'full'},
    {'position': 'relative', 'layers': 'scan', 'remat': 'dots'},
  ],
)
def test_images_that_do_not_fit_the_stored_table(overrides, random_params):
  model = tiny(**overrides)
  params = random_params(model, IMAGES)
  with pytest.raises(DataError, match=r'posembed_input/\w+ = a table of shape .*3x4 grid.*resample'):
    model.apply({'params': params}, jnp.ones((1, 12, 16, 3)))


def test_images_with_other_channels(random_params):
  model = tiny()
  with pytest.raises(
    DataError, match=r'images = 1 channels: expected 3. embedding/kernel has shape \(4, 4, 3, 16\)'
  ):
    model.apply({'params': random_params(model, IMAGES)}, jnp.ones((1, 8, 12, 1)))


def test_positions_without_a_table_take_any_grid(random_params):
  model = tiny(position='sincos_2d', position_at='every_layer_shared')
  params = random_params(model, IMAGES)
  assert model.apply({'params': params}, jnp.ones((1, 16, 4, 3))).shape == (1, 5)


def test_hybrid_patches_that_do_not_tile_the_feature_map():
  model = create_model('R50+B/16', num_classes=2, patch_size=2)
  with pytest.raises(DataError, match=r'48x32 pixels.*feature map of 3x2'):
    jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 48, 32, 3)))


def test_unknown_settings_and_unclear_classes():
  with pytest.raises(ConfigError, match="Did you mean 'dropout_rate'") as error:
    create_model('B/16', num_classes=3, dropout_rat=0.1, zzz=1)
  assert len(error.value.problems) == 2
  with pytest.raises(ConfigError, match='num_classes = 7'):
    build_model(ModelConfig(num_classes=7), num_classes=8)
  with pytest.raises(ConfigError, match='num_classes'):
    create_model('B/16', num_classes=-1)
  with pytest.raises(ConfigError, match='model.head_bias_init = -10.0'):
    create_model('R50x1', num_classes=0, head_bias_init=-10.0)
  assert build_model(ModelConfig(num_classes=7), num_classes=7).num_classes == 7
