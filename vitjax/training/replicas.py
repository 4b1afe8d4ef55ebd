"""Whether the copies of an array on several devices are still equal: a bit that flipped on one of them is found."""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from vitjax import trees
from vitjax.errors import Problem, TrainingError

_MAX_LISTED = 10


class ReplicaCheck:
  """Compares checksums of what each device holds of a tree. Called by all processes together.

  Every device sums up its own shards, word by word, each word multiplied by an odd number that depends on its place:
  one changed bit always changes the sum (modulo 2^32). No array is moved; the sums, one number per array and device,
  are compared on the hosts.

  Args:
    mesh: the run's.
    abstract: ShapeDtypeStructs with their shardings, of the trees that will be checked.
  """

  def __init__(self, mesh: Mesh, abstract: Any):
    self._mesh = mesh
    flat = trees.flatten(abstract)
    self._groups = {path: _replicas(leaf) for path, leaf in flat.items()}
    self._paths = [path for path, groups in self._groups.items() if any(len(g) > 1 for g in groups)]
    specs = [flat[path].sharding.spec for path in self._paths]
    axes = PartitionSpec(mesh.axis_names)
    # Each device looks at its own copy: what the compiler believes to be equal must not be read from one of them.
    self._sums = jax.jit(
      jax.shard_map(_checksums, mesh=mesh, in_specs=(specs,), out_specs=axes, check_vma=False)
    )

  @property
  def needed(self) -> bool:
    """Whether any array is held more than once."""
    return bool(self._paths)

  def run(self, tree: Any, step: int) -> None:
    """Compares all copies.

    Raises:
      TrainingError: copies differ; the arrays and the devices that disagree with the most are named.
    """
    flat = trees.flatten(tree)
    table = self._sums([flat[path] for path in self._paths])
    if jax.process_count() > 1:
      table = multihost_utils.process_allgather(table, tiled=True)
    sums = dict(zip(self._mesh.devices.flat, np.asarray(table), strict=True))
    problems = []
    for column, path in enumerate(self._paths):
      for group in self._groups[path]:
        odd = _odd_ones({device: int(sums[device][column]) for device in group})
        if odd:
          text = ', '.join(f'device {device.id} of rank {device.process_index}' for device in odd)
          expected = f'the same value on all {len(group)} devices that hold it'
          problems.append(Problem(path, f'different on {text}', expected))
    if problems:
      hint = 'Start again: the newest checkpoint before this step is restored; take a machine that does this twice out'
      more = [Problem(f'{len(problems) - _MAX_LISTED} more arrays')] if len(problems) > _MAX_LISTED else []
      raise TrainingError(
        f'step {step}: copies of the same array differ',
        [*problems[:_MAX_LISTED], *more, Problem('next step', hint=hint)],
      )


def _replicas(leaf: jax.ShapeDtypeStruct) -> list[list[Any]]:
  """Returns the devices of each shard, those with the same part of the array together."""
  groups = collections.defaultdict(list)
  assert leaf.sharding is not None
  for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
    groups[str(index)].append(device)
  return list(groups.values())


def _checksums(leaves: list[jax.Array]) -> jax.Array:
  """Returns uint32 [1, number of arrays] of one device's shards."""
  return jnp.stack([_checksum(leaf) for leaf in leaves])[None]


def _checksum(leaf: jax.Array) -> jax.Array:
  bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
  words = jax.lax.bitcast_convert_type(leaf, bits).reshape(-1).astype(jnp.uint32)
  place = jax.lax.iota(jnp.uint32, words.size)
  return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


def _odd_ones(sums: dict[Any, int]) -> list[Any]:
  """Returns the devices whose sum is not the most frequent one; all of them where no sum is more frequent."""
  counts = collections.Counter(sums.values()).most_common()
  if len(counts) == 1:
    return []
  if counts[0][1] == counts[1][1]:
    return list(sums)
  return [device for device, value in sums.items() if value != counts[0][0]]
