"""initialize_from: what is copied, resized, reset and dropped, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vitjax import trees
from vitjax.checkpoint import explain_differences, initialize_from
from vitjax.config.schema import ModelConfig
from vitjax.errors import CheckpointError, ConfigError
from vitjax.models import create_model
from vitjax.models.layout import stack_blocks, unstack_blocks
from vitjax.ops.positions import resample_positions

SIZES = {'width': 16, 'depth': 2, 'mlp_dim': 24, 'num_heads': 2}
TABLE = 'Transformer/posembed_input/pos_embedding'


@functools.cache
def shapes_of(image_size, num_classes, overrides):
  model = create_model('Ti/4', num_classes=num_classes, **SIZES, **dict(overrides))
  return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_size, 3))))['params']


def random_params(seed, image_size=(8, 8), num_classes=5, **overrides):
  """Returns numpy parameters of a tiny ViT with 4-pixel patches, every value random."""
  shapes = shapes_of(image_size, num_classes, tuple(sorted(overrides.items())))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(s.dtype), shapes)


def abstract(params):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


def equal(a, b):
  a, b = trees.flatten(a), trees.flatten(b)
  bits_a, bits_b = ({path: (x.dtype, x.tobytes()) for path, x in flat.items()} for flat in (a, b))
  return bits_a == bits_b


@pytest.mark.parametrize('make', [lambda p: p, abstract])
def test_the_same_model_is_copied_bit_for_bit(make):
  old = random_params(0)
  old['Transformer']['encoder_norm']['scale'][:3] = [np.nan, -0.0, 1e-42]
  new, report = initialize_from(make(random_params(1)), old, head='keep', old_grid=(2, 2), new_grid=(2, 2))
  assert equal(new, old)
  assert set(report.paths('loaded')) == set(trees.flatten(old))
  assert report.summary() == f'{len(trees.flatten(old))} loaded'
  new['cls'][:] = 7
  assert not np.any(old['cls'] == 7)


def test_reset_drops_head_and_pre_logits_for_one_zero_layer():
  old, fresh = random_params(0, representation_size=6), random_params(1, num_classes=3)
  new, report = initialize_from(fresh, old)
  assert new['head']['kernel'].shape == (16, 3)
  assert not new['head']['kernel'].any()
  np.testing.assert_array_equal(new['head']['bias'], fresh['head']['bias'])
  assert 'pre_logits' not in new
  assert set(report.paths('unused')) == {'head/kernel', 'head/bias', 'pre_logits/kernel', 'pre_logits/bias'}
  assert set(report.paths('reset')) == {'head/kernel', 'head/bias'}
  assert equal(new['Transformer'], old['Transformer'])
  text = str(report)
  assert text.splitlines()[0] == f'{len(trees.flatten(new)) - 2} loaded, 2 reset, 4 unused'
  assert 'pre_logits/kernel' in text
  zero_bias, _ = initialize_from(abstract(fresh), old)
  assert not zero_bias['head']['bias'].any()


def test_a_reset_head_has_no_hidden_layer():
  with pytest.raises(CheckpointError, match='unset model.representation_size'):
    initialize_from(random_params(0, representation_size=6), random_params(1, representation_size=6))


def test_keep_loads_head_and_pre_logits_and_wants_equal_shapes():
  old = random_params(0, representation_size=6)
  new, _ = initialize_from(random_params(1, representation_size=6), old, head='keep')
  assert equal(new, old)
  with pytest.raises(CheckpointError) as caught:
    initialize_from(random_params(1, num_classes=3), old, head='keep')
  found = {problem.where: str(problem) for problem in caught.value.problems}
  assert '[6, 5] in the checkpoint' in found['head/kernel']
  assert 'head/bias' in found
  assert "init.head='reset' drops it" in found['pre_logits/kernel']


@pytest.mark.parametrize('method', ['zoom', 'bilinear', 'bicubic'])
@pytest.mark.parametrize(('new_size', 'new_grid'), [((16, 16), (4, 4)), ((12, 20), (3, 5))])
def test_learned_positions_are_resampled(method, new_size, new_grid):
  old, fresh = random_params(0), random_params(1, new_size)
  grids = {'old_grid': (2, 2), 'new_grid': new_grid}
  new, report = initialize_from(fresh, old, position_resize=method, **grids)
  table = trees.flatten(old)[TABLE]
  wanted = resample_positions(table, num_prefix=1, method=method, **grids)
  np.testing.assert_array_equal(trees.flatten(new)[TABLE], wanted)
  np.testing.assert_array_equal(trees.flatten(new)[TABLE][:, 0], table[:, 0])
  assert report.paths('resized') == (TABLE,)
  num_rows = 1 + new_grid[0] * new_grid[1]
  assert f'[1, 5, 16] -> [1, {num_rows}, 16], grid (2, 2) -> {new_grid}, {method}' in str(report)


def test_equal_token_counts_on_other_grids_are_still_resampled():
  old = random_params(0, (8, 24))
  new, _ = initialize_from(random_params(1, (12, 16)), old, old_grid=(2, 6), new_grid=(3, 4))
  assert not np.array_equal(trees.flatten(new)[TABLE], trees.flatten(old)[TABLE])


def test_without_grids_a_longer_table_is_refused_with_the_next_step():
  with pytest.raises(CheckpointError, match='Give old_grid and new_grid'):
    initialize_from(random_params(1, (16, 16)), random_params(0))


def test_a_grid_that_the_table_does_not_hold_is_refused():
  with pytest.raises(CheckpointError, match=f'{TABLE} = shape'):
    initialize_from(random_params(1, (16, 16)), random_params(0), old_grid=(3, 3), new_grid=(4, 4))


@pytest.mark.parametrize('position_at', ['stem', 'every_layer'])
def test_two_dimensional_tables_are_resampled_per_axis(position_at):
  knobs = {'position': 'learned_2d', 'position_at': position_at}
  old, fresh = random_params(0, (8, 8), **knobs), random_params(1, (12, 20), **knobs)
  new, report = initialize_from(fresh, old, old_grid=(2, 2), new_grid=(3, 5))
  num_tables = 1 if position_at == 'stem' else SIZES['depth']
  assert len(report.paths('resized')) == 2 * num_tables
  for path in report.paths('resized'):
    before, after = trees.flatten(old)[path], trees.flatten(new)[path]
    assert after.shape[1] == (5 if path.endswith('_x') else 3)
    np.testing.assert_allclose(after[:, [0, -1]], before, rtol=1e-6)


def test_relative_keys_do_not_move_to_another_grid():
  old, fresh = random_params(0, (8, 16), position='relative'), random_params(1, (16, 8), position='relative')
  same, _ = initialize_from(old, old, head='keep', old_grid=(2, 4), new_grid=(2, 4))
  assert equal(same, old)
  with pytest.raises(CheckpointError, match='relative_keys'):
    initialize_from(fresh, old, old_grid=(2, 4), new_grid=(4, 2))


def test_a_class_token_row_may_be_dropped_but_not_invented():
  token, gap = random_params(0), random_params(1, pool='gap')
  knobs = explain_differences(
    ModelConfig(variant='Ti/4'), ModelConfig(variant='Ti/4', pool='gap'), old_size=(8, 8), new_size=(8, 8)
  )
  new, report = initialize_from(gap, token, **knobs)
  np.testing.assert_array_equal(trees.flatten(new)[TABLE], trees.flatten(token)[TABLE][:, 1:])
  assert 'cls' in report.paths('unused')
  with pytest.raises(CheckpointError, match='no position for the class token'):
    initialize_from(token, gap, old_grid=(2, 2), new_grid=(2, 2), old_num_prefix=0, expected=('cls',))


@pytest.mark.parametrize(('old_layers', 'new_layers'), [('loop', 'scan'), ('scan', 'loop'), ('scan', 'scan')])
def test_blocks_in_either_form(old_layers, new_layers):
  knobs = {'position_at': 'every_layer'}
  old = random_params(0, layers=old_layers, **knobs)
  fresh = random_params(1, (16, 16), layers=new_layers, **knobs)
  new, report = initialize_from(fresh, old, old_grid=(2, 2), new_grid=(4, 4))
  assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, fresh)
  assert len(report.paths('resized')) == SIZES['depth']
  kernel = 'Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel'
  before, after = trees.flatten(unstack_blocks(old))[kernel], trees.flatten(unstack_blocks(new))[kernel]
  np.testing.assert_array_equal(after, before)


def test_layout_alone_changes_no_bit():
  old = random_params(0)
  new, _ = initialize_from(abstract(stack_blocks(old)), old, head='keep')
  assert equal(unstack_blocks(new), old)


def test_every_unexplained_parameter_is_listed_at_once():
  old, fresh = random_params(0, pool='gap'), random_params(1, num_registers=2, layer_scale_init=0.1)
  del old['embedding']['bias']
  old['extra'] = {'kernel': np.zeros((2, 2), np.float32)}
  old['Transformer']['encoder_norm']['scale'] = np.zeros(3, np.float32)
  with pytest.raises(CheckpointError) as caught:
    initialize_from(fresh, old)
  where = [problem.where for problem in caught.value.problems]
  gains = {f'Transformer/encoderblock_{i}/LayerScale_{j}/scale' for i in range(2) for j in range(2)}
  wanted = {'embedding/bias', 'extra/kernel', 'Transformer/encoder_norm/scale', 'cls', 'registers', TABLE}
  assert set(where) == wanted | gains | {'next step'}
  assert str(caught.value).startswith(f'{len(where) - 1} parameters')


def test_expected_differences_stay_fresh_or_are_dropped():
  old, fresh = random_params(0), random_params(1, num_registers=2, layer_scale_init=0.1)
  base = ModelConfig(variant='Ti/4')
  new_config = ModelConfig(variant='Ti/4', num_registers=2, layer_scale_init=0.1)
  knobs = explain_differences(base, new_config, old_size=(8, 8), new_size=(8, 8))
  new, report = initialize_from(fresh, old, **knobs)
  np.testing.assert_array_equal(new['registers'], fresh['registers'])
  assert len(report.paths('fresh')) == 1 + 2 * SIZES['depth']
  with pytest.raises(CheckpointError, match='Give initialised parameters'):
    initialize_from(abstract(fresh), old, **knobs)
  back, report = initialize_from(
    old, fresh, **explain_differences(new_config, base, old_size=(8, 8), new_size=(8, 8))
  )
  assert 'registers' in report.paths('unused')
  assert equal(back['Transformer']['encoder_norm'], fresh['Transformer']['encoder_norm'])


def test_explain_differences_knows_grids():
  options = explain_differences(
    ModelConfig(variant='B/16'), ModelConfig(variant='R50+B/16'), old_size=(224, 224), new_size=(256, 384)
  )
  assert (options['old_grid'], options['new_grid']) == ((14, 14), (16, 24))
  assert options['expected'] == ()
  resnet = ModelConfig(variant='R50x1')
  assert explain_differences(resnet, resnet, old_size=(32, 32), new_size=(64, 64))['new_grid'] is None


def test_dtypes_are_cast_to_the_new_model_and_reported():
  old = random_params(0)
  fresh = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), random_params(1))
  new, report = initialize_from(fresh, old, head='keep')
  assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {np.dtype(ml_dtypes.bfloat16)}
  assert str(report).count('cast float32 -> bfloat16') == len(trees.flatten(new))
  np.testing.assert_array_equal(new['cls'], old['cls'].astype(ml_dtypes.bfloat16))


def test_unknown_choices_are_config_errors():
  with pytest.raises(ConfigError, match='init.head'):
    initialize_from(random_params(0), random_params(0), head='drop')
  grids = {'old_grid': (2, 2), 'new_grid': (4, 4)}
  with pytest.raises(ConfigError, match='position_resize'):
    initialize_from(random_params(1, (16, 16)), random_params(0), position_resize='nearest', **grids)


def test_a_resnet_moves_as_well():
  model = create_model('R-tiny', num_classes=3)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))['params']
  old = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
  new, report = initialize_from(shapes, old)
  assert not new['head']['kernel'].any()
  assert len(report.paths('loaded')) == len(trees.flatten(old)) - 2
