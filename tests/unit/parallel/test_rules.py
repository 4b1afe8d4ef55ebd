import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vitjax import trees
from vitjax.config.schema import ParallelConfig
from vitjax.errors import ShardingRuleError
from vitjax.parallel import rules as rules_lib
from vitjax.parallel.mesh import make_mesh, replicated

P = PartitionSpec
BLOCK = 'Transformer/encoderblock_0'
ATTENTION = f'{BLOCK}/MultiHeadDotProductAttention_0'
VIT = {
  'cls': (1, 1, 8),
  'embedding/kernel': (4, 4, 3, 8),
  'embedding/bias': (8,),
  'Transformer/posembed_input/pos_embedding': (1, 5, 8),
  f'{BLOCK}/LayerNorm_0/scale': (8,),
  f'{ATTENTION}/query/kernel': (8, 4, 2),
  f'{ATTENTION}/query/bias': (4, 2),
  f'{ATTENTION}/out/kernel': (4, 2, 8),
  f'{ATTENTION}/out/bias': (8,),
  f'{BLOCK}/MlpBlock_0/Dense_0/kernel': (8, 32),
  f'{BLOCK}/MlpBlock_0/Dense_0/bias': (32,),
  f'{BLOCK}/MlpBlock_0/Dense_1/kernel': (32, 8),
  f'{BLOCK}/MlpBlock_0/Dense_1/bias': (8,),
  'head/kernel': (8, 10),
  'head/bias': (10,),
}
VIT_SPECS = {
  'cls': P(),
  'embedding/kernel': P(None, None, None, 'fsdp'),
  f'{ATTENTION}/query/kernel': P('fsdp', 'model', None),
  f'{ATTENTION}/query/bias': P('model', None),
  f'{ATTENTION}/out/kernel': P('model', None, 'fsdp'),
  f'{ATTENTION}/out/bias': P(),
  f'{BLOCK}/MlpBlock_0/Dense_0/kernel': P('fsdp', 'model'),
  f'{BLOCK}/MlpBlock_0/Dense_0/bias': P('model'),
  f'{BLOCK}/MlpBlock_0/Dense_1/kernel': P('model', 'fsdp'),
  f'{BLOCK}/MlpBlock_0/Dense_1/bias': P(),
  'head/kernel': P('fsdp', 'model'),
  'head/bias': P('model'),
}


def abstract(shapes, dtype=jnp.float32):
  return trees.unflatten({path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes.items()})


@pytest.fixture(scope='module')
def mesh():
  return make_mesh(ParallelConfig(data=2, fsdp=2, model=2))


def test_vit_specs(mesh):
  specs = trees.flatten(rules_lib.param_specs(abstract(VIT), mesh))
  assert {path: specs[path] for path in VIT_SPECS} == VIT_SPECS
  assert set(specs) == set(VIT)


def test_scanned_blocks_share_the_rules(mesh):
  name = BLOCK.replace('_0', '')
  scanned = {path.replace(BLOCK, name): (12, *shape) for path, shape in VIT.items() if path.startswith(BLOCK)}
  specs = trees.flatten(rules_lib.param_specs(abstract(scanned), mesh))
  for path, spec in VIT_SPECS.items():
    if path.startswith(BLOCK):
      assert specs[path.replace(BLOCK, name)] == (P(None, *spec) if spec else P())


@pytest.mark.parametrize(
  ('path', 'shape', 'spec'),
  [
    ('conv_root/kernel', (7, 7, 3, 64), P(None, None, None, 'fsdp')),
    ('gn_root/scale', (64,), P()),
    ('block1/unit1/conv2/kernel', (3, 3, 64, 64), P(None, None, None, 'fsdp')),
    ('block1/unit1/gn_proj/bias', (256,), P()),
    ('root_block/conv_root/kernel', (7, 7, 3, 64), P(None, None, None, 'fsdp')),
    ('norm-pre-head/scale', (2048,), P()),
    ('head/kernel', (1, 1, 2048, 10), P(None, None, 'fsdp', 'model')),
    ('MAPHead_0/probe', (1, 1, 8), P()),
    ('MAPHead_0/MultiHeadDotProductAttention_0/key/kernel', (8, 4, 2), P('fsdp', 'model', None)),
  ],
)
def test_hybrid_resnet_and_map_head_are_covered(mesh, path, shape, spec):
  assert trees.flatten(rules_lib.param_specs(abstract({path: shape}), mesh)) == {path: spec}


def test_shardings_place_arrays(mesh):
  shardings = rules_lib.param_shardings(abstract(VIT), mesh)
  params = jax.tree.map(lambda x, s: jax.device_put(jnp.zeros(x.shape), s), abstract(VIT), shardings)
  kernel = trees.flatten(params)[f'{BLOCK}/MlpBlock_0/Dense_0/kernel']
  assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 16)}


def test_dimension_that_does_not_divide_is_replicated_and_listed(mesh):
  (row,) = rules_lib.sharding_table(abstract({f'{ATTENTION}/query/kernel': (8, 3, 2)}, jnp.bfloat16), mesh)
  assert row.spec == P('fsdp', None, None)
  assert row.not_divided == ('dim 1 (3) over model (2)',)
  assert (row.bytes_per_device, row.dtype, row.shape) == (4 * 3 * 2 * 2, 'bfloat16', (8, 3, 2))


def test_uncovered_parameters_are_all_listed(mesh):
  with pytest.raises(ShardingRuleError) as caught:
    rules_lib.param_specs(abstract(VIT | {'new/thing': (3,), 'other/weight': (2, 2)}), mesh)
  assert [p.where for p in caught.value.problems] == ['new/thing', 'other/weight']


def test_extra_rules_come_first(mesh):
  extra = (('head/kernel', 'fsdp+model,none'), ('embedding/.*', 'replicated'))
  specs = trees.flatten(rules_lib.param_specs(abstract(VIT), mesh, extra))
  assert specs['head/kernel'] == P(('fsdp', 'model'), None)
  assert specs['embedding/kernel'] == P()
  assert specs['head/bias'] == P('model')


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    (('haed/.*', 'replicated'), r'rules\[0\] = .haed.*matches the whole path'),
    (('head', 'replicated'), 'matches the whole path'),
    (('head/kernel', 'fsdp,modle'), "Unknown: 'modle'"),
    (('head/kernel', ''), "Unknown: ''"),
    (('head/kernel', 'fsdp,fsdp'), 'each axis at most once'),
    (('head/.*', 'fsdp,model'), r'at most 1 entries for head/bias of shape \(10,\)'),
    (('head/kernel', 'none,data+fsdp'), r'dim 1 \(10\) over data\+fsdp \(4\).*head/kernel'),
    (('head/(kernel', 'replicated'), 'a regular expression'),
  ],
)
def test_wrong_extra_rules(mesh, rule, message):
  with pytest.raises(ShardingRuleError, match=message):
    rules_lib.param_specs(abstract(VIT), mesh, (rule,))


def test_shadowed_extra_rule_and_all_problems_at_once(mesh):
  extra = (('head/.*', 'replicated'), ('head/kernel', 'fsdp,model'), ('nothing', 'replicated'))
  with pytest.raises(ShardingRuleError) as caught:
    rules_lib.param_specs(abstract(VIT), mesh, extra)
  assert [p.where for p in caught.value.problems] == ['parallel.rules[1]', 'parallel.rules[2]']
  assert 'move it up' in str(caught.value)


@pytest.mark.parametrize(
  'optimizer',
  [
    optax.adamw(1e-3),
    optax.chain(
      optax.clip_by_global_norm(1.0),
      optax.trace(0.9),
      optax.scale_by_learning_rate(optax.constant_schedule(1.0)),
    ),
    optax.masked(optax.adam(1e-3), lambda tree: jax.tree.map(lambda _: True, tree)),
    optax.partition(
      {'train': optax.adam(1e-3), 'freeze': optax.set_to_zero()},
      lambda tree: trees.map_with_path(
        lambda path, _: 'freeze' if path.startswith('embedding') else 'train', tree
      ),
    ),
  ],
  ids=['adamw', 'sgd', 'masked', 'partition'],
)
def test_moments_lie_where_their_parameters_lie(mesh, optimizer):
  params = abstract(VIT)
  shardings = rules_lib.param_shardings(params, mesh)
  state = jax.eval_shape(optimizer.init, params)
  placed = rules_lib.shardings_like(optimizer, state, shardings, replicated(mesh), params)
  assert jax.tree.structure(placed) == jax.tree.structure(state)
  by_path = trees.flatten(shardings)
  num_followers = 0
  for path, sharding in trees.flatten(placed).items():
    followed = [name for name in by_path if path.endswith(f'/{name}')]
    if followed:
      num_followers += 1
      assert sharding == by_path[max(followed, key=len)], path
    else:
      assert sharding == replicated(mesh), path
  assert num_followers >= len(VIT) - 2
  assert all(isinstance(s, NamedSharding) for s in jax.tree.leaves(placed))


def test_row_and_column_means_lie_as_what_is_left_of_their_parameter(mesh):
  params = abstract(VIT)
  shardings = rules_lib.param_shardings(params, mesh)
  optimizer = optax.scale_by_factored_rms(min_dim_size_to_factor=2)
  state = jax.eval_shape(optimizer.init, params)
  placed = rules_lib.shardings_like(optimizer, state, shardings, replicated(mesh), params)
  num_split = 0
  for (path, leaf), sharding in zip(trees.flatten(state).items(), jax.tree.leaves(placed), strict=True):
    shard = sharding.shard_shape(leaf.shape)  # raises where the sharding does not fit
    name = path.partition('/')[2]
    if path.startswith(('v_row/', 'v_col/')) and leaf.shape != (1,):
      whole, split = VIT[name], trees.flatten(shardings)[name].shard_shape(VIT[name])
      kept = [axis for axis in range(len(whole)) if whole[:axis] + whole[axis + 1 :] == leaf.shape]
      assert shard in [split[:axis] + split[axis + 1 :] for axis in kept], path
      num_split += shard != leaf.shape
    elif leaf.shape in ((1,), ()):
      assert sharding.is_fully_replicated, path
    else:
      assert sharding == trees.flatten(shardings)[name], path
  assert num_split > 5


def test_bytes_add_up(mesh):
  rows = rules_lib.sharding_table(abstract(VIT), mesh)
  for row in rows:
    split = np.prod([mesh.shape[name] for name in row.spec if name is not None])
    assert row.bytes_per_device == np.prod(row.shape) * 4 / split
