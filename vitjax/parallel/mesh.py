"""The device mesh ('data', 'fsdp', 'model'), and batches on it: which rows a process feeds, and how they
become global arrays.

Rows of a batch are split over ('data', 'fsdp') and replicated over 'model'. Processes whose devices differ
only along 'model' (tensor-parallel peers) must therefore feed identical rows: `local_share` gives them the
same share.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitjax.config.schema import ParallelConfig
from vitjax.errors import ConfigError, DataError, Problem

AXES = ('data', 'fsdp', 'model')
BATCH_AXES = ('data', 'fsdp')


def mesh_shape(config: ParallelConfig, num_devices: int) -> tuple[int, int, int]:
  """Returns the sizes of (data, fsdp, model), with data=-1 replaced by what remains.

  Raises:
    ConfigError: the sizes do not multiply to `num_devices`; the nearest valid value is named.
  """
  problems = []
  if num_devices % config.model:
    problems.append(_indivisible('parallel.model', config.model, num_devices, 'devices'))
  else:
    remaining = num_devices // config.model
    if remaining % config.fsdp:
      problems.append(_indivisible('parallel.fsdp', config.fsdp, remaining, 'devices after parallel.model'))
    elif config.data not in (-1, remaining // config.fsdp):
      sizes = f'{config.data} x {config.fsdp} x {config.model}'
      problems.append(
        Problem(
          'parallel.data',
          str(config.data),
          f'-1 or {remaining // config.fsdp}: data x fsdp x model is the number of devices, {num_devices}',
          f'{sizes} is {config.data * config.fsdp * config.model}',
        )
      )
  if problems:
    raise ConfigError(f'The mesh does not fit {num_devices} devices.', problems)
  return num_devices // (config.fsdp * config.model), config.fsdp, config.model


def make_mesh(config: ParallelConfig, devices: Sequence[Any] | None = None) -> Mesh:
  """Returns the mesh with axes ('data', 'fsdp', 'model'), all of them Auto. Host-side.

  On TPU the device order follows the physical torus, and several slices are joined along 'data'. Elsewhere
  the order is that of `devices`, so 'model' varies fastest and stays inside a host whenever it fits there.

  Args:
    config: sizes of the axes; data=-1 takes the devices that remain.
    devices: devices to use; None: all of them. Devices of an ahead-of-time topology work too.

  Raises:
    ConfigError: the axes do not multiply to the number of devices.
  """
  devices = list(jax.devices() if devices is None else devices)
  shape = mesh_shape(config, len(devices))
  return Mesh(_arrange(devices, shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of a batch: rows over ('data', 'fsdp'), everything else replicated."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def local_share(mesh: Mesh, global_batch: int, *, where: str = 'data.batch_size') -> tuple[int, int]:
  """Returns (index, count): this process feeds share `index` of `count` equal shares of each batch.

  That is what an input pipeline takes for process_index and process_count. Tensor-parallel peers get the same
  index.

  Args:
    mesh: a mesh from `make_mesh`.
    global_batch: rows over all devices.
    where: the knob that an error should name.

  Raises:
    ConfigError: the batch does not divide over ('data', 'fsdp'), and the nearest sizes that do are named; or
      processes overlap in part, so that no equal shares exist.
  """
  num_shards = _num_row_shards(mesh)
  if global_batch % num_shards:
    below = global_batch // num_shards * num_shards
    nearest = f'{below} or {below + num_shards}' if below else str(num_shards)
    expected = f'a multiple of data x fsdp = {num_shards}, such as {nearest}'
    problem = Problem(where, str(global_batch), expected)
    raise ConfigError('The batch does not divide over the devices.', [problem])
  return share_of_process(_process_grid(mesh), jax.process_index())


def local_rows(mesh: Mesh, global_batch: int, *, where: str = 'data.batch_size') -> slice:
  """Returns the contiguous rows of the global batch that this process must supply; arguments as for
  `local_share`.

  Row numbers are those of the logical batch, shares one after the other. Where a device order interleaves
  processes (some TPU topologies), the rows of the assembled array are a permutation of it; no loss or metric
  depends on that order.
  """
  index, count = local_share(mesh, global_batch, where=where)
  rows = global_batch // count
  return slice(index * rows, (index + 1) * rows)


def to_global(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Returns global arrays made of this process's rows: [local rows, ...] becomes [global rows, ...].
  Host-side.

  Rows are sharded over ('data', 'fsdp') and replicated over 'model'. The global shape is always stated, and
  each device gets its rows by position, so tensor-parallel peers agree as long as they feed the same share
  (`local_share`).

  Args:
    mesh: a mesh from `make_mesh`.
    batch: {name: rows of this process}; all have the same number of rows.

  Raises:
    DataError: the arrays differ in their number of rows, or the rows do not divide over this process's
      devices.
  """
  shards, sharding = _shards_of_this_process(mesh)
  counts = {name: len(rows) for name, rows in batch.items()}
  _check_rows(counts, len(shards))
  return {name: _assemble(rows, shards, _num_row_shards(mesh), sharding) for name, rows in batch.items()}


@functools.lru_cache(maxsize=8)
def _shards_of_this_process(mesh: Mesh) -> tuple[list[int], NamedSharding]:
  """Returns this process's row shards, ascending, and the sharding of a batch; on a pod, milliseconds to find out."""
  return sorted(_row_shards(_process_grid(mesh), jax.process_index())), batch_sharding(mesh)


def share_of_process(grid: np.ndarray, process: int) -> tuple[int, int]:
  """Returns (index, count) of the share of `process`; see `local_share`.

  Args:
    grid: [data x fsdp, model] process index of each device of the mesh.
    process: the process asked about.

  Raises:
    ConfigError: the processes' row shards neither coincide nor are apart, or differ in number.
  """
  owned = {int(p): _row_shards(grid, int(p)) for p in np.unique(grid)}
  groups = sorted(set(owned.values()), key=min)
  disjoint = sum(len(group) for group in groups) == len(grid)
  if not disjoint or len({len(group) for group in groups}) > 1:
    rows = '; '.join(f'process {p}: {sorted(shards)}' for p, shards in owned.items())
    hint = 'Choose parallel.model so that it divides, or is a multiple of, the devices of one process'
    expected = 'processes that share all of their batch shards or none'
    raise ConfigError('No equal shares of the batch exist.', [Problem('parallel', rows, expected, hint)])
  return groups.index(owned[process]), len(groups)


def _row_shards(grid: np.ndarray, process: int) -> frozenset[int]:
  return frozenset(np.flatnonzero((grid == process).any(axis=1)).tolist())


def _process_grid(mesh: Mesh) -> np.ndarray:
  devices = mesh.devices.reshape(_num_row_shards(mesh), -1)
  return np.vectorize(lambda device: device.process_index, otypes=[np.int64])(devices)


def _num_row_shards(mesh: Mesh) -> int:
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _check_rows(counts: dict[str, int], num_local_shards: int) -> None:
  if len(set(counts.values())) > 1:
    raise DataError(
      'The arrays of a batch differ in rows.', [Problem(k, f'{n} rows') for k, n in counts.items()]
    )
  for name, rows in counts.items():
    if rows == 0 or rows % num_local_shards:
      expected = f"a multiple of {num_local_shards}, this process's shards of the batch"
      raise DataError('Rows do not divide over the devices.', [Problem(name, f'{rows} rows', expected)])


def _assemble(rows: np.ndarray, shards: Sequence[int], num_shards: int, sharding: NamedSharding) -> jax.Array:
  per_shard = len(rows) // len(shards)
  position = {shard: i for i, shard in enumerate(shards)}

  def block(index: Any) -> np.ndarray:
    first = position[(index[0].start or 0) // per_shard] * per_shard
    return rows[first : first + per_shard]

  return jax.make_array_from_callback((per_shard * num_shards, *rows.shape[1:]), sharding, block)


def _arrange(devices: list[Any], shape: tuple[int, int, int]) -> np.ndarray:
  if devices[0].platform != 'tpu':
    # jax.make_mesh keeps this order as well, but refuses several GPU hosts, which it takes for TPU slices.
    return np.array(devices).reshape(shape)
  # Devices of a single slice may not say which slice they are in.
  num_slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if num_slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  data, fsdp, model = shape
  if data % num_slices:
    expected = f'a multiple of the {num_slices} TPU slices, which are joined along data'
    hint = 'Lower parallel.fsdp or parallel.model so that both stay inside a slice'
    raise ConfigError(
      'The mesh does not fit the TPU slices.', [Problem('parallel.data', str(data), expected, hint)]
    )
  inside, across = (data // num_slices, fsdp, model), (num_slices, 1, 1)
  return mesh_utils.create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)


def _indivisible(where: str, value: int, total: int, what: str) -> Problem:
  divisors = [d for d in range(1, total + 1) if total % d == 0]
  nearest = min(divisors, key=lambda d: (abs(d - value), d))
  return Problem(where, str(value), f'a divisor of {total} ({what})', f'The nearest is {nearest}')
