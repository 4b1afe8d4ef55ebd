"""Reading checkpoints without owning the workdir: steps, their JSON, and verified arrays on any devices.

On disk, WORKDIR/checkpoints/STEP holds the items params, opt_state and aux (Orbax arrays, nested by path),
meta (JSON) and manifest (digests; see manifest.py). An item without arrays has no folder. Everything here
works on local or mounted file systems and on gs:// buckets; nothing here executes code or unpickles data from a
checkpoint. On a bucket, where nothing can be renamed at once, a step is whole when it holds the file that Orbax
writes last.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding

from vitjax import trees
from vitjax.checkpoint import manifest as manifests
from vitjax.checkpoint.manifest import DamagedCheckpoint, Entry, Manifest
from vitjax.errors import CheckpointError, Problem

Path = str | os.PathLike[str]

CHECKPOINTS = 'checkpoints'
_MAX_LISTED = 20
_STEP = re.compile(r'0|[1-9][0-9]*')
_BUCKET = 'gs://'
_COMMITTED = 'commit_success.txt'


@dataclasses.dataclass(frozen=True)
class StepDir:
  """One committed step: its folder (pathlib.Path, or epath.Path in a bucket), its number, all steps beside it."""

  path: Any
  step: int
  steps: tuple[int, ...]


def absolute(path: Path) -> Any:
  """Returns an absolute local pathlib.Path (Orbax accepts no other; '~' is expanded), or the epath.Path of a bucket.

  Raises:
    CheckpointError: a URL that is not gs://: commits need the atomic rename of a file system, or what Orbax does on
      Google Cloud Storage instead.
  """
  text = os.fspath(path)
  if '://' not in text:
    return pathlib.Path(path).expanduser().absolute()
  if not text.startswith(_BUCKET):
    hint = 'Mount the bucket, or copy the checkpoint to a local folder'
    raise CheckpointError(
      'checkpoints live on local or mounted file systems, or in gs:// buckets',
      [Problem(str(path), '', '', hint)],
    )
  import fsspec
  from etils import epath

  try:
    fsspec.get_filesystem_class('gcs')
  except ImportError as error:
    hint = 'pip install "vitjax[gcs]"'
    raise CheckpointError('gs:// needs the package gcsfs', [Problem(text, '', '', hint)]) from error
  return epath.Path(text)


def local(workdir: Path) -> pathlib.Path:
  """Returns the absolute workdir; raises CheckpointError for a URL: a log that grows needs a file system."""
  if '://' in os.fspath(workdir):
    hint = 'Take a local workdir and, for gs:// buckets, checkpoint.directory; or mount the bucket'
    raise CheckpointError('a workdir is a local or mounted folder', [Problem(str(workdir), '', '', hint)])
  return absolute(workdir)


def in_bucket(path: Any) -> bool:
  """Returns whether `absolute` made this path from a gs:// URL."""
  return str(path).startswith(_BUCKET)


def is_whole(step_dir: Any) -> bool:
  """Returns whether a folder named by a number is a committed step."""
  return step_dir.is_dir() and (not in_bucket(step_dir) or (step_dir / _COMMITTED).exists())


def list_steps(folder: Any) -> list[int]:
  """Returns the committed steps in a checkpoints folder, ascending; [] when there is none or no folder."""
  if not folder.is_dir():
    return []
  return sorted(
    int(entry.name) for entry in folder.iterdir() if _STEP.fullmatch(entry.name) and is_whole(entry)
  )


def has_checkpoints(path: Path) -> bool:
  """Returns whether a workdir (or the folder or bucket that stands in for it) holds a committed step."""
  return bool(list_steps(absolute(path) / CHECKPOINTS))


def open_checkpoint(path: Path, step: int | None = None) -> StepDir:
  """Returns the step that `path` means: a workdir, its checkpoints folder, or one step's folder.

  Args:
    path: what the user gave.
    step: which step of a workdir; None: the newest.

  Raises:
    CheckpointError: no such step; the message says what exists there instead.
  """
  given: Any = absolute(path)
  if _STEP.fullmatch(given.name) and given.parent.name == CHECKPOINTS and given.is_dir():
    folder, step = given.parent, int(given.name) if step is None else step
  else:
    folder = given / CHECKPOINTS if (given / CHECKPOINTS).is_dir() else given
  steps = list_steps(folder)
  if not steps:
    raise CheckpointError(f'no checkpoint at {given}', [_what_exists(given)])
  chosen = steps[-1] if step is None else step
  if chosen not in steps:
    problem = Problem(f'{folder}', f'steps {", ".join(map(str, steps))}', f'step {chosen}')
    raise CheckpointError(f'no checkpoint of step {chosen}', [problem])
  return StepDir(folder / str(chosen), chosen, tuple(steps))


def _what_exists(path: Any) -> Problem:
  hint = 'Give a workdir (it holds checkpoints/), its checkpoints folder, or one step in it'
  if not path.exists():
    parent = next((parent for parent in path.parents if parent.exists()), None)
    if parent is None:
      return Problem(f'{path}', 'no such file or folder', '', hint)
    names = ', '.join(sorted(entry.name for entry in parent.iterdir())[:10]) or 'nothing'
    return Problem(f'{path}', 'no such file or folder', '', f'{parent} holds {names}. {hint}')
  if not path.is_dir():
    return Problem(f'{path}', 'a file', 'a folder', hint)
  names = ', '.join(sorted(entry.name for entry in path.iterdir())[:10]) or 'nothing'
  return Problem(f'{path}', f'a folder that holds {names}', 'step folders named by numbers', hint)


def read_meta(path: Path, step: int | None = None) -> dict[str, Any]:
  """Returns the JSON saved with a step (recipe, preprocessing, class names, versions); reads no arrays.

  Raises:
    CheckpointError: no such step, or its JSON is not what was written.
  """
  found = open_checkpoint(path, step)
  return load_meta(found.path, manifests.load(found.path))


def load_meta(step_dir: Any, manifest: Manifest) -> dict[str, Any]:
  """Returns the meta JSON of a step folder, checked against the manifest; raises DamagedCheckpoint."""
  path = step_dir / 'meta' / 'metadata'
  try:
    meta = json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise DamagedCheckpoint(
      f'{step_dir} is damaged', [Problem(f'{path}', f'{type(error).__name__}: {error}')]
    ) from error
  if manifests.text_sha256(meta) != manifest.meta_sha256:
    problem = Problem(f'{path}', 'JSON that differs from what was saved')
    raise DamagedCheckpoint(f'{step_dir} is damaged', [problem])
  return meta


def restore_params(
  path: Path,
  *,
  step: int | None = None,
  subtree: str = 'params',
  shardings: Any = None,
  as_numpy: bool = False,
) -> dict[str, Any]:
  """Returns one subtree of a checkpoint, verified, as a nested dict: for notebooks, evaluation and transfer.

  Reads neither the optimiser state nor anything else outside the subtree, needs no lock, and is independent
  of the number of devices that wrote the checkpoint. A damaged step raises; it never falls back by itself.

  Args:
    path: workdir, checkpoints folder or step folder.
    step: which step of a workdir; None: the newest.
    subtree: 'params', or a path such as 'aux/ema_params'.
    shardings: one Sharding for every array, a nested dict of them with the subtree's paths, or None: the
      first local device.
    as_numpy: returns numpy arrays (key data for typed PRNG keys) and touches no device. Without it, 64-bit
      arrays still come back as numpy unless jax_enable_x64 is set.

  Raises:
    CheckpointError: no such step or subtree, or its data is damaged (each damaged array is named).
  """
  found = open_checkpoint(path, step)
  manifest = manifests.load(found.path)
  prefix = subtree.strip('/') + '/'
  entries = {name: entry for name, entry in manifest.arrays.items() if name.startswith(prefix)}
  if not entries:
    roots = sorted(
      {
        '/'.join(name.split('/')[:2]) if not name.startswith('params/') else 'params'
        for name in manifest.arrays
      }
    )
    raise CheckpointError(
      f'{found.path} has no {subtree!r}', [Problem('subtree', repr(subtree), 'one of ' + ', '.join(roots))]
    )
  if as_numpy:
    place: dict[str, Sharding | None] = dict.fromkeys(entries)
  elif shardings is None or isinstance(shardings, Sharding):
    place = dict.fromkeys(entries, shardings or SingleDeviceSharding(jax.local_devices()[0]))
  else:
    place = {prefix + name: sharding for name, sharding in trees.flatten(shardings).items()}
    if missing := [name for name in entries if name not in place]:
      raise CheckpointError(
        'shardings do not cover the checkpoint', [Problem(name, 'no sharding') for name in missing]
      )
  arrays = read_arrays(found.path, entries, place)
  return trees.unflatten({name.removeprefix(prefix): array for name, array in arrays.items()})


def read_arrays(
  step_dir: Any, entries: Mapping[str, Entry], place: Mapping[str, Sharding | None]
) -> dict[str, Any]:
  """Returns {'item/a/b': array} of the given entries, verified against their digests.

  Arrays are read with TensorStore rather than through Orbax's restore: an error stays with the array it
  belongs to, and data is checked in host memory before it goes to a device. With several processes each one
  verifies a share of the arrays, and the caller has to agree on the outcome (`any_process`).

  Args:
    step_dir: a step's folder.
    entries: which arrays, with shapes, dtypes and digests.
    place: the sharding of each; None: a numpy array in host memory (64-bit arrays too, unless
      jax_enable_x64).

  Raises:
    DamagedCheckpoint: arrays are unreadable or differ from their digests; names every one.
  """
  # One cache for all arrays: they share the index of their item.
  context = ts.Context({'cache_pool': {'total_bytes_limit': 100_000_000}})

  def read(path: str) -> Any:
    item, name = path.split('/', 1)
    spec = _array_spec(step_dir / item, name.replace('/', '.'))
    try:
      return _read_array(
        ts.open(spec, context=context).result(), entries[path], place[path], verified=path in share
      )
    except (ValueError, OSError, KeyError) as error:  # what TensorStore raises for a bad file
      text = str(error).split(' [tensorstore_spec=')[0].split(' [source locations=')[0]
      return Problem(f'{step_dir}: {path}', text)

  share = set(sorted(entries)[jax.process_index() :: jax.process_count()])
  with concurrent.futures.ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)), 'vitjax-read') as pool:
    arrays = dict(zip(entries, pool.map(read, entries), strict=True))
  if problems := [array for array in arrays.values() if isinstance(array, Problem)]:
    more = [Problem(f'{len(problems) - _MAX_LISTED} more arrays')] if len(problems) > _MAX_LISTED else []
    raise DamagedCheckpoint(f'{step_dir} is damaged', problems[:_MAX_LISTED] + more)
  return arrays


def _array_spec(item_dir: Any, name: str) -> dict[str, Any]:
  base: Any = f'{item_dir}/' if in_bucket(item_dir) else {'driver': 'file', 'path': f'{item_dir}/'}
  kvstore = {'driver': 'ocdbt', 'base': base, 'path': f'{name}/'}
  return {'driver': 'zarr', 'kvstore': kvstore, 'fill_missing_data_reads': False, 'open': True}


def _read_array(store: Any, entry: Entry, sharding: Sharding | None, *, verified: bool) -> Any:
  """Returns one array, placed; raises ValueError where the data is not what the entry says."""
  if not entry.key_impl and tuple(store.shape) != entry.shape:
    raise ValueError(f'shape {list(store.shape)} where {list(entry.shape)} was saved')
  if jax.process_count() > 1 and sharding is not None:
    if verified:
      _verified(store.read().result(), entry)
    array = jax.make_array_from_callback(
      tuple(store.shape), sharding, lambda index: store[index].read().result()
    )
  else:
    host = _verified(store.read().result(), entry)
    # Without jax_enable_x64 a device would silently hold 32 bits of these 64.
    wide = host.dtype.itemsize == 8 and not jax.config.read('jax_enable_x64')
    array = host if sharding is None or wide else jax.device_put(host, sharding)
  if entry.key_impl and isinstance(array, jax.Array):
    return jax.random.wrap_key_data(array, impl=entry.key_impl)
  return array


def _verified(host: np.ndarray, entry: Entry) -> np.ndarray:
  if fault := manifests.fault(host, entry):
    raise ValueError(fault)
  return host


def any_process(flag: bool) -> bool:
  """Returns whether `flag` is set on any process; all processes of the job must call this together."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
