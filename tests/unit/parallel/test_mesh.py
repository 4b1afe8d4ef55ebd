import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from vitjax.config.schema import ParallelConfig
from vitjax.errors import ConfigError, DataError
from vitjax.parallel import mesh as mesh_lib


@pytest.mark.parametrize(
  ('config', 'shape'),
  [
    (ParallelConfig(), (8, 1, 1)),
    (ParallelConfig(fsdp=2), (4, 2, 1)),
    (ParallelConfig(data=2, fsdp=2, model=2), (2, 2, 2)),
    (ParallelConfig(model=8), (1, 1, 8)),
  ],
)
def test_mesh_has_the_asked_shape_and_auto_axes(config, shape):
  mesh = mesh_lib.make_mesh(config)
  assert mesh.axis_names == ('data', 'fsdp', 'model')
  assert mesh.devices.shape == shape
  assert set(mesh.axis_types) == {AxisType.Auto}
  assert {d.id for d in mesh.devices.flat} == {d.id for d in jax.devices()}


def test_mesh_takes_given_devices_in_their_order():
  devices = jax.devices()[:4][::-1]
  assert list(mesh_lib.make_mesh(ParallelConfig(model=2), devices).devices.flat) == devices


@pytest.mark.parametrize(
  ('config', 'where', 'nearest'),
  [
    (ParallelConfig(model=3), 'parallel.model', 'The nearest is 2'),
    (ParallelConfig(model=16), 'parallel.model', 'The nearest is 8'),
    (ParallelConfig(model=2, fsdp=3), 'parallel.fsdp', 'The nearest is 2'),
    (ParallelConfig(data=3, fsdp=2), 'parallel.data', '-1 or 4'),
    (ParallelConfig(data=0), 'parallel.data', '-1 or 8'),
  ],
)
def test_mesh_that_does_not_fit_names_the_knob_and_the_nearest_value(config, where, nearest):
  with pytest.raises(ConfigError, match='8 devices') as caught:
    mesh_lib.make_mesh(config)
  assert [p.where for p in caught.value.problems] == [where]
  assert nearest in str(caught.value)


def test_several_tpu_slices_are_joined_along_data_only():
  class Chip:
    platform = 'tpu'

    def __init__(self, i):
      self.id, self.slice_index = i, i // 4

  with pytest.raises(ConfigError, match='multiple of the 2 TPU slices'):
    mesh_lib.make_mesh(ParallelConfig(fsdp=8), [Chip(i) for i in range(8)])


@pytest.mark.parametrize('shape', [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_to_global_keeps_row_order_and_splits_rows(shape):
  mesh = mesh_lib.make_mesh(ParallelConfig(*shape))
  batch = {
    'image': np.arange(16 * 6, dtype=np.uint8).reshape(16, 2, 3),
    'label': np.arange(16, dtype=np.int32),
  }
  out = mesh_lib.to_global(mesh, batch)
  for name, rows in batch.items():
    np.testing.assert_array_equal(np.asarray(out[name]), rows)
    assert out[name].dtype == rows.dtype
    assert out[name].sharding == mesh_lib.batch_sharding(mesh)
    for shard in out[name].addressable_shards:
      assert shard.data.shape[0] == 16 // (shape[0] * shape[1])
      np.testing.assert_array_equal(np.asarray(shard.data), rows[shard.index])


def test_to_global_refuses_rows_that_differ_or_do_not_divide():
  mesh = mesh_lib.make_mesh(ParallelConfig())
  with pytest.raises(DataError, match='differ in rows'):
    mesh_lib.to_global(mesh, {'a': np.zeros(8), 'b': np.zeros(16)})
  with pytest.raises(DataError, match='a = 12 rows: expected a multiple of 8'):
    mesh_lib.to_global(mesh, {'a': np.zeros(12)})


def test_shardings():
  mesh = mesh_lib.make_mesh(ParallelConfig(fsdp=2))
  assert mesh_lib.batch_sharding(mesh).spec == PartitionSpec(('data', 'fsdp'))
  assert mesh_lib.replicated(mesh).is_fully_replicated


def test_one_process_feeds_everything():
  mesh = mesh_lib.make_mesh(ParallelConfig(fsdp=2, model=2))
  assert mesh_lib.local_share(mesh, 8) == (0, 1)
  assert mesh_lib.local_rows(mesh, 8) == slice(0, 8)


def test_batch_that_does_not_divide_names_knob_and_neighbours():
  mesh = mesh_lib.make_mesh(ParallelConfig(model=2))
  with pytest.raises(ConfigError, match=r'evals\.val\.batch_size = 510: .* = 4, such as 508 or 512'):
    mesh_lib.local_share(mesh, 510, where='evals.val.batch_size')
  with pytest.raises(ConfigError, match='such as 4$'):
    mesh_lib.local_rows(mesh, 3)


@pytest.mark.parametrize(
  ('grid', 'shares'),
  [
    ([[0], [0], [1], [1]], {0: (0, 2), 1: (1, 2)}),  # data parallel
    ([[0, 0], [1, 1]], {0: (0, 2), 1: (1, 2)}),  # tensor parallel inside a process
    ([[0, 1]], {0: (0, 1), 1: (0, 1)}),  # tensor parallel over processes: peers
    ([[0, 1], [2, 3]], {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
    ([[0], [0], [1], [1], [0], [0], [1], [1]], {0: (0, 2), 1: (1, 2)}),  # interleaved, as on a TPU torus
    ([[1], [0]], {0: (1, 2), 1: (0, 2)}),
  ],
)
def test_shares_of_processes(grid, shares):
  assert {p: tuple(mesh_lib.share_of_process(np.array(grid), p)) for p in shares} == shares


@pytest.mark.parametrize('grid', [[[0, 0], [0, 1], [1, 1]], [[0], [0], [1]]])
def test_partly_shared_rows_are_refused(grid):
  with pytest.raises(ConfigError, match='process 0: .*process 1: '):
    mesh_lib.share_of_process(np.array(grid), 0)
