"""The digest manifest: what every array of a step must be, so that damage is named and never loaded.

Orbax does not notice a changed byte in array data. Each step therefore carries, as one of its items, the
SHA-256 of every array of params, optimiser state and aux, taken from host copies at the moment of the save.
The file is part of the atomically committed step: a step without a readable manifest is not a whole step.

A digest belongs to a *part*, a box of the global array in C order. One process digests whole arrays; with
several processes each digests the shards it owns (replica 0). Parts are verified by slicing, so that the
topology that reads need not be the one that wrote.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import trees
from vitjax.errors import CheckpointError, Problem

FORMAT = 1
FOLDER = 'manifest'
ARRAY_ITEMS = ('params', 'opt_state', 'aux')


@dataclasses.dataclass(frozen=True)
class Part:
  """The SHA-256 of array[start:stop], C order, little endian."""

  start: tuple[int, ...]
  stop: tuple[int, ...]
  sha256: str


@dataclasses.dataclass(frozen=True)
class Entry:
  """One array: logical shape, dtype text, PRNG name ('' unless it is a typed key), and its digested parts."""

  shape: tuple[int, ...]
  dtype: str
  key_impl: str = ''
  parts: tuple[Part, ...] = ()


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a step holds: entries by 'item/a/b/c', the metrics given with it, the digest of its meta JSON."""

  step: int
  arrays: dict[str, Entry]
  meta_sha256: str
  metrics: dict[str, float]


class DamagedCheckpoint(CheckpointError):
  """A step whose files are missing, unreadable, or not what was written."""


def is_key(leaf: Any) -> bool:
  """Returns whether `leaf` (array or ShapeDtypeStruct) has a typed PRNG key dtype."""
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def as_stored(leaf: Any) -> Any:
  """Returns the array that goes to disk: key data for typed PRNG keys, numpy for scalars, else `leaf`."""
  if isinstance(leaf, jax.Array):
    return jax.random.key_data(leaf) if is_key(leaf) else leaf
  return np.asarray(leaf)


def describe(leaf: Any) -> Entry:
  """Returns the Entry of an array or ShapeDtypeStruct, without parts."""
  if not hasattr(leaf, 'shape'):
    leaf = np.asarray(leaf)
  impl = str(jax.random.key_impl(leaf)) if isinstance(leaf, jax.Array) and is_key(leaf) else ''
  return Entry(tuple(leaf.shape), str(leaf.dtype), impl)


def sha256(array: np.ndarray) -> str:
  """Returns the hex SHA-256 of an array's bytes in C order (host memory, any dtype)."""
  return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def text_sha256(value: Any) -> str:
  """Returns the hex SHA-256 of a JSON value, whatever the order of its keys."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass
class HostCopy:
  """One array on its way into the manifest: description and host copies of the parts this process owns."""

  entry: Entry
  parts: list[tuple[tuple[int, ...], np.ndarray]]

  def digest(self) -> Entry:
    """Returns the entry with digested parts; drops the copies."""
    parts = []
    while self.parts:
      start, data = self.parts.pop()
      parts.append(Part(start, tuple(a + b for a, b in zip(start, data.shape, strict=True)), sha256(data)))
    return dataclasses.replace(self.entry, parts=tuple(parts))


def host_copies(tree: Any, prefix: str = '') -> dict[str, HostCopy]:
  """Returns {prefix + path: HostCopy} of every array; blocks until the copies are made.

  The copies keep their values when the caller donates or overwrites the arrays afterwards.

  Args:
    tree: a pytree of jax or numpy arrays (global arrays of several processes included).
    prefix: put before each path, such as 'params/'.
  """
  flat = trees.flatten(tree)
  stored = {path: as_stored(leaf) for path, leaf in flat.items()}
  for leaf in stored.values():
    if isinstance(leaf, jax.Array):
      leaf.copy_to_host_async()
  return {prefix + path: HostCopy(describe(flat[path]), _owned_parts(leaf)) for path, leaf in stored.items()}


def _owned_parts(leaf: Any) -> list[tuple[tuple[int, ...], np.ndarray]]:
  if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
    start = (0,) * leaf.ndim
    return [(start, _private(leaf))] if jax.process_index() == 0 else []
  shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
  return [(tuple(axis.start or 0 for axis in shard.index), _private(shard.data)) for shard in shards]


def _private(leaf: Any) -> np.ndarray:
  # On CPU np.asarray is a view, and JAX does not reuse a donated buffer while a view of it lives. A numpy array
  # may be overwritten in place at any time.
  return np.asarray(leaf) if isinstance(leaf, jax.Array) else np.array(leaf)


def _pool() -> concurrent.futures.ThreadPoolExecutor:
  return concurrent.futures.ThreadPoolExecutor(
    min(8, os.cpu_count() or 1), thread_name_prefix='vitjax-digest'
  )


def digests(tree: Any) -> dict[str, str]:
  """Returns {path: hex SHA-256} of each array, whole and in C order: equal for equal values, however sharded.

  Args:
    tree: a pytree of arrays that this process can address in full.
  """
  flat = trees.flatten(tree)
  with _pool() as pool:
    return dict(
      zip(flat, pool.map(lambda leaf: sha256(np.asarray(as_stored(leaf))), flat.values()), strict=True)
    )


def fault(host: np.ndarray, entry: Entry) -> str:
  """Returns what is wrong with the stored form of an array (key data for typed keys), or ''."""
  if not entry.key_impl and (host.shape, str(host.dtype)) != (entry.shape, entry.dtype):
    return f'{host.dtype}{list(host.shape)} where {entry.dtype}{list(entry.shape)} was saved'
  for part in entry.parts:
    found = sha256(host[tuple(slice(a, b) for a, b in zip(part.start, part.stop, strict=True))])
    if found != part.sha256:
      return f'data with SHA-256 {found[:12]}... where {part.sha256[:12]}... was saved'
  return ''


def verify(tree: Any, entries: Mapping[str, Entry]) -> list[Problem]:
  """Returns one Problem for each array of `tree` that differs from its entry; [] when none does.

  Args:
    tree: a pytree of arrays that this process can address in full, with the paths of `entries`.
    entries: {path: Entry} with parts.
  """
  flat = trees.flatten(tree)
  missing = [Problem(path, 'no such array', 'an array') for path in entries if path not in flat]

  def check(path: str) -> Problem | None:
    found = fault(np.asarray(as_stored(flat[path])), entries[path])
    return Problem(path, found) if found else None

  with _pool() as pool:
    return missing + [p for p in pool.map(check, [path for path in entries if path in flat]) if p is not None]


def compare(wanted: Mapping[str, Any], entries: Mapping[str, Entry]) -> list[Problem]:
  """Returns every difference in paths, shapes and dtypes between the wanted arrays and those of a step.

  Args:
    wanted: {path: array or ShapeDtypeStruct} of the program.
    entries: {path: Entry} of the checkpoint.
  """
  problems = []
  for path in [*wanted, *(path for path in entries if path not in wanted)]:
    if path not in entries:
      mine = describe(wanted[path])
      problems.append(Problem(path, 'not in the checkpoint', f'{mine.dtype}{list(mine.shape)}'))
    elif path not in wanted:
      problems.append(
        Problem(path, f'{entries[path].dtype}{list(entries[path].shape)} in the checkpoint', 'no such array')
      )
    else:
      mine, theirs = describe(wanted[path]), entries[path]
      if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
        found = f'{theirs.dtype}{list(theirs.shape)} in the checkpoint'
        problems.append(Problem(path, found, f'{mine.dtype}{list(mine.shape)}'))
  return problems


def file_name(index: int, count: int) -> str:
  """Returns the manifest file of process `index` of `count`."""
  return f'process_{index}_of_{count}.json'


def dump(manifest: Manifest) -> str:
  """Returns the text of this process's manifest file: a body and the body's own SHA-256."""
  body = {'format': FORMAT, **dataclasses.asdict(manifest)}
  return json.dumps({'sha256': text_sha256(body), 'body': body}, indent=1)


def load(step_dir: Any) -> Manifest:
  """Returns the manifest of a step, merged over the processes that wrote it.

  Args:
    step_dir: a text, pathlib.Path, or the epath.Path of a bucket.

  Raises:
    DamagedCheckpoint: a manifest file is missing or is not what was written.
    CheckpointError: the step was written in a newer format.
  """
  folder: Any = (pathlib.Path(step_dir) if isinstance(step_dir, str) else step_dir) / FOLDER
  files = sorted(folder.glob('process_*_of_*.json'))
  if not files:
    raise DamagedCheckpoint(
      f'{step_dir} is not a whole checkpoint', [Problem(f'{folder}', 'no manifest file')]
    )
  count = int(files[0].stem.split('_')[-1])
  paths = [folder / file_name(index, count) for index in range(count)]
  bodies = [_read_body(path) for path in paths]
  return Manifest(bodies[0]['step'], _merge(bodies), bodies[0]['meta_sha256'], bodies[0]['metrics'])


def _read_body(path: Any) -> dict[str, Any]:
  headline = f'{path.parent.parent} is damaged'
  try:
    text = json.loads(path.read_bytes())
    body, recorded = text['body'], text['sha256']
    version = body['format']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DamagedCheckpoint(headline, [Problem(f'{path}', f'{type(error).__name__}: {error}')]) from error
  if text_sha256(body) != recorded:
    raise DamagedCheckpoint(headline, [Problem(f'{path}', 'text that differs from its own SHA-256')])
  if version != FORMAT:
    problem = Problem(
      f'{path}', f'format {version}', f'format {FORMAT}', 'Read it with the vitjax that wrote it'
    )
    raise CheckpointError(f'{path.parent.parent} has an unknown format', [problem])
  return body


def _merge(bodies: Sequence[dict[str, Any]]) -> dict[str, Entry]:
  arrays: dict[str, Entry] = {}
  for body in bodies:
    for path, raw in body['arrays'].items():
      if path.split('/')[0] not in ARRAY_ITEMS:
        raise DamagedCheckpoint('unknown item in a manifest', [Problem(path, '', ' or '.join(ARRAY_ITEMS))])
      parts = tuple(Part(tuple(p['start']), tuple(p['stop']), p['sha256']) for p in raw['parts'])
      if path in arrays:
        parts = arrays[path].parts + parts
      arrays[path] = Entry(tuple(raw['shape']), raw['dtype'], raw['key_impl'], parts)
  return arrays
