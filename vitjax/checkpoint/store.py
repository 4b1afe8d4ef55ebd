"""The checkpoints of a run: asynchronous, atomic, verified saves, and restores that name what is damaged."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vitjax import trees
from vitjax.checkpoint import leftovers, reading, writing
from vitjax.checkpoint import manifest as manifests
from vitjax.checkpoint.lock import WorkdirLock
from vitjax.checkpoint.manifest import DamagedCheckpoint, HostCopy, Manifest
from vitjax.config.schema import CheckpointConfig
from vitjax.errors import CheckpointError, Problem, SaveError

logger = logging.getLogger(__name__)

DAMAGED = 'damaged'
_MAX_STEPS_AGREED = 256
_STALL_WORTH_A_WARNING_S = 1.0


class Restored(NamedTuple):
  """A restored step: the trees have the structure of the abstract trees given to `restore`."""

  step: int
  params: Any
  opt_state: Any
  aux: Any
  meta: dict[str, Any]


class Store:
  """Owns WORKDIR/checkpoints: saves, prunes and restores the steps of one run.

  One job at a time: construction takes WORKDIR/.lock. All processes of a job construct a Store and call its
  methods together; files are written by all, renamed and deleted by process 0.

  With checkpoint.directory the steps lie in DIRECTORY/checkpoints instead, which may be in a gs:// bucket; the lock
  stays in the workdir, and keeps no job away that has another one.

  Args:
    workdir: the run's folder; made if missing. A relative path is resolved at once.
    config: directory, keep_last, keep_best and save_async are used here; `every` and `retries` are the loop's affair.

  Attributes:
    workdir: absolute.
    directory: WORKDIR/checkpoints, or DIRECTORY/checkpoints.
    stalled_s: how long saves have waited so far for an earlier save to be written: storage that is slower
      than checkpoint.every.

  Raises:
    CheckpointError: another job works in `workdir`.
  """

  def __init__(self, workdir: str | os.PathLike[str], config: CheckpointConfig | None = None):
    self._config = config or CheckpointConfig()
    self.workdir = reading.local(workdir)
    self._root = self.workdir if not self._config.directory else reading.absolute(self._config.directory)
    self.directory = self._root / reading.CHECKPOINTS
    self._manager: ocp.CheckpointManager | None = None
    self._values: dict[int, float] = {}
    self._pending: int | None = None
    self.stalled_s = 0.0
    self._lock: WorkdirLock | None = None
    failure: CheckpointError | None = None
    if self._is_main():
      self.workdir.mkdir(parents=True, exist_ok=True)
      self.directory.mkdir(parents=True, exist_ok=True)
      try:
        self._lock = WorkdirLock(self.workdir)
      except CheckpointError as error:
        failure = error
    if reading.any_process(failure is not None):
      raise failure or CheckpointError(f'{self.workdir} is in use by another job (see process 0)')
    self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='vitjax-checkpoint')
    if self._is_main():
      leftovers.remove_tmp(self.directory)
      leftovers.recover_replaced(self.directory)
      leftovers.purge(self.directory)

  def __enter__(self) -> Store:
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def steps(self) -> list[int]:
    """Returns the committed steps on disk, ascending; a save in flight is not among them."""
    return reading.list_steps(self.directory)

  def latest_step(self) -> int | None:
    """Returns the newest committed step, or None. It may be damaged: `restore` finds that out."""
    steps = self.steps()
    return steps[-1] if steps else None

  def save(
    self,
    step: int,
    *,
    params: Any,
    opt_state: Any,
    aux: Any,
    meta: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    force: bool = False,
  ) -> bool:
    """Starts saving a step; returns True, or False where the step is on disk already and `force` is not set.

    Blocks while the arrays are copied to host memory and while an earlier save is still being written.
    Afterwards the caller may donate or overwrite the arrays. A failure of the background part is raised by
    `check_for_errors`, `wait` or the next `save`.

    Args:
      step: optimiser steps done, >= 0; larger than any stored step unless `force`.
      params: a pytree of arrays. Typed PRNG keys are stored as key data, Python scalars as 0-d arrays.
      opt_state: a pytree of arrays.
      aux: a pytree of arrays: everything else that the run needs (averaged weights, RNG key, counters).
      meta: a JSON value: recipe, preprocessing, class names, versions.
      metrics: what `keep_best` chooses by; None: this step is no candidate.
      force: discards the stored steps from `step` on, as after a rollback, and saves.

    Raises:
      SaveError: this or an earlier save failed.
      CheckpointError: `step` is older than a stored one, `meta` is not JSON, or `metrics` lacks the metric of
        keep_best.
    """
    self._wait_for_earlier()
    stored = self._agreed_steps()
    if newer := [old for old in stored if old >= step]:
      if not force and step in newer:
        return False
      if not force:
        hint = 'Restore the newest step, or save with force=True to discard the newer ones'
        raise CheckpointError(
          f'step {step} is older than stored steps',
          [Problem(f'{self.directory}', f'steps {newer}', '', hint)],
        )
      self._discard(newer)
    if self._is_main():
      leftovers.remove_tmp(self.directory)
    meta_copy = self._checked_meta(meta)
    chosen = self._checked_metrics(metrics)
    items = {'params': params, 'opt_state': opt_state, 'aux': aux}
    copies: dict[str, HostCopy] = {}
    args: dict[str, ocp.args.CheckpointArgs] = {'meta': ocp.args.JsonSave(meta_copy)}
    for item, tree in items.items():
      copies.update(manifests.host_copies(tree, prefix=item + '/'))
      flat = {path: manifests.as_stored(leaf) for path, leaf in trees.flatten(tree).items()}
      if flat:
        args[item] = ocp.args.PyTreeSave(trees.unflatten(flat))
    args['manifest'] = writing.ManifestSave(
      self._worker.submit(_manifest_text, step, copies, manifests.text_sha256(meta_copy), chosen)
    )
    if self._config.keep_best in chosen:
      self._values[step] = chosen[self._config.keep_best]
    self._pending = step
    try:
      self._open_manager().save(step, args=ocp.args.Composite(**args), force=True)
    except Exception as error:  # noqa: BLE001 - Orbax raises many types; all mean that nothing was saved
      self._fail(error)
    if not self._config.save_async:
      self.wait()
    return True

  def _checked_meta(self, meta: Mapping[str, Any]) -> dict[str, Any]:
    try:
      return json.loads(json.dumps(meta))
    except (TypeError, ValueError) as error:
      raise CheckpointError(
        'meta is not JSON', [Problem('meta', str(error), 'dicts, lists, text, numbers')]
      ) from error

  def _checked_metrics(self, metrics: Mapping[str, float] | None) -> dict[str, float]:
    values = {name: float(value) for name, value in (metrics or {}).items()}
    wanted = self._config.keep_best
    if metrics is not None and wanted is not None and wanted not in values:
      problem = Problem(
        'checkpoint.keep_best', repr(wanted), 'one of ' + (', '.join(sorted(values)) or 'no metrics')
      )
      raise CheckpointError('keep_best names a metric that is not there', [problem])
    # A run that turned NaN must not displace the best step.
    return {name: value for name, value in values.items() if math.isfinite(value)}

  def check_for_errors(self) -> bool:
    """Returns whether the last save is committed; at once, so that it can be asked at every step.

    Raises:
      SaveError: the last asynchronous save has failed. Said once.
    """
    if self._pending is not None and self._manager is not None and not self._manager.is_saving_in_progress():
      self._finish()
    return self._pending is None

  def wait(self) -> None:
    """Returns when the save in flight is committed and old steps are gone; raises SaveError if it failed."""
    self._finish()
    self._worker.submit(lambda: None).result()

  def _wait_for_earlier(self) -> None:
    """Finishes the save in flight, and keeps the book of the time that takes."""
    earlier, began_s = self._pending, time.monotonic()
    self._finish()
    waited_s = time.monotonic() - began_s
    if earlier is None:
      return
    if waited_s > _STALL_WORTH_A_WARNING_S:
      logger.warning(
        'waited %.1f s for step %d to be written: storage is slower than checkpoint.every', waited_s, earlier
      )
    self.stalled_s += waited_s

  def _finish(self) -> None:
    if self._pending is None or self._manager is None:
      return
    try:
      self._manager.wait_until_finished()
    except Exception as error:  # noqa: BLE001
      self._fail(error)
    self._pending = None
    if self._is_main():
      self._worker.submit(leftovers.purge, self.directory)
      self._worker.submit(leftovers.forget_replaced, self.directory)

  def _fail(self, error: Exception) -> None:
    """Drops the half-written step and raises; the store stays usable, so the caller may try again."""
    step, self._pending = self._pending, None
    self._drop_manager()
    if self._is_main():
      leftovers.remove_tmp(self.directory)
    if step is not None:
      self._values.pop(step, None)
    stored = ', '.join(map(str, self.steps())) or 'none'
    problem = Problem(
      f'{self.directory / str(step)}',
      str(error).strip().splitlines()[0] if str(error).strip() else repr(error),
      '',
      f'Look at free space and permissions; intact steps: {stored}',
    )
    raise SaveError(f'saving step {step} failed', [problem]) from error

  def restore(self, step: int | None = None, *, params: Any, opt_state: Any, aux: Any) -> Restored | None:
    """Returns a verified step, or None where nothing was ever saved.

    Without `step`, a damaged newest step is skipped with a warning that names the arrays or files and the
    step restored instead, and is moved to WORKDIR/damaged so that the run may save it again.

    Args:
      step: which step; None: the newest undamaged one.
      params: abstract tree: leaves with shape, dtype and sharding (jax.ShapeDtypeStruct or arrays); each
        array comes back with that sharding, whatever devices wrote it. Without a sharding it comes back as
        numpy.
      opt_state: abstract tree.
      aux: abstract tree; a leaf with a typed PRNG key dtype comes back as a typed key.

    Raises:
      CheckpointError: `step` is not there; the trees differ from the checkpoint's in paths, shapes or dtypes
        (all listed; nothing is ever cast); or every candidate is damaged (each one's faults listed).
    """
    self.wait()
    stored = self._agreed_steps()
    if step is not None and step not in stored:
      found = f'steps {", ".join(map(str, stored))}' if stored else 'no steps'
      raise CheckpointError(
        f'no checkpoint of step {step}', [Problem(f'{self.directory}', found, f'step {step}')]
      )
    candidates = [step] if step is not None else stored[::-1]
    wanted = {'params': params, 'opt_state': opt_state, 'aux': aux}
    faults: list[Problem] = []
    for place, candidate in enumerate(candidates):
      error, restored = None, None
      try:
        restored = _read_step(self.directory / str(candidate), candidate, wanted)
      except DamagedCheckpoint as damage:
        error = damage
      if not reading.any_process(error is not None):
        self._set_aside(candidates[:place], candidate, faults)
        return restored
      faults.extend(
        error.problems if error else [Problem(f'{candidate}', 'damaged as another process saw it')]
      )
    if not candidates:
      return None
    if step is not None:
      others = [str(other) for other in stored if other != step]
      faults.append(Problem(f'{self.directory}', f'other steps: {", ".join(others) or "none"}'))
    raise CheckpointError(f'no undamaged checkpoint in {self.directory}', faults)

  def _set_aside(self, damaged: Sequence[int], restored: int, faults: Sequence[Problem]) -> None:
    for step in damaged:
      logger.warning(
        'checkpoint step %d is damaged; falling back to step %d. It is %s',
        step,
        restored,
        'removed' if reading.in_bucket(self._root) else f'kept in {self._root / DAMAGED}',
      )
    for fault in faults:
      logger.warning('%s', fault)
    if not damaged:
      return
    self._drop_manager()
    if self._is_main():
      leftovers.set_aside(self.directory, damaged, self._root / DAMAGED)
    _barrier('vitjax_set_aside')

  def close(self) -> None:
    """Finishes the save in flight, releases the lock; raises CheckpointError if that save failed."""
    try:
      self.wait()
    finally:
      self._drop_manager()
      self._worker.shutdown()
      if self._lock is not None:
        self._lock.release()

  def _open_manager(self) -> ocp.CheckpointManager:
    if self._manager is None:
      self._manager = writing.open_manager(self.directory, self._config, self._values)
    return self._manager

  def _drop_manager(self) -> None:
    manager, self._manager = self._manager, None
    if manager is not None:
      try:
        manager.close()
      except Exception as error:  # noqa: BLE001 - the save's own failure, raised by wait() already
        logger.debug('closing the checkpoint manager: %s', error)

  def _discard(self, steps: Sequence[int]) -> None:
    self.wait()
    self._drop_manager()
    if self._is_main():
      leftovers.replace(self.directory, steps)
    for step in steps:
      self._values.pop(step, None)
    _barrier('vitjax_discard')

  def _agreed_steps(self) -> list[int]:
    """Returns the newest steps as process 0 sees them; on shared file systems listings may differ."""
    steps = self.steps()
    if jax.process_count() == 1:
      return steps
    padded = np.full(_MAX_STEPS_AGREED, -1, np.int32)
    newest = steps[-_MAX_STEPS_AGREED:]
    padded[: len(newest)] = newest
    return [int(step) for step in multihost_utils.broadcast_one_to_all(padded) if step >= 0]

  @staticmethod
  def _is_main() -> bool:
    return jax.process_index() == 0


def _manifest_text(
  step: int, copies: dict[str, HostCopy], meta_sha256: str, metrics: dict[str, float]
) -> str:
  arrays = {path: copies.pop(path).digest() for path in list(copies)}
  return manifests.dump(Manifest(step, arrays, meta_sha256, metrics))


def _read_step(step_dir: Any, step: int, wanted: Mapping[str, Any]) -> Restored:
  """Returns a step in the structure of the wanted trees.

  Raises:
    DamagedCheckpoint: files are missing or not what was written.
    CheckpointError: the step is whole but holds other arrays than wanted.
  """
  manifest = manifests.load(step_dir)
  leaves = {
    f'{item}/{path}': leaf for item, tree in wanted.items() for path, leaf in trees.flatten(tree).items()
  }
  if problems := manifests.compare(leaves, manifest.arrays):
    hint = 'Did the recipe change? Use the one this run began with, or another workdir with init.checkpoint'
    raise CheckpointError(f'{step_dir} does not fit this run', [*problems, Problem('next step', hint=hint)])
  place = {path: getattr(leaf, 'sharding', None) for path, leaf in leaves.items()}
  meta = reading.load_meta(step_dir, manifest)
  arrays = reading.read_arrays(step_dir, manifest.arrays, place)
  restored = {
    item: trees.map_with_path(lambda path, _, item=item: arrays[f'{item}/{path}'], tree)
    for item, tree in wanted.items()
  }
  return Restored(step, restored['params'], restored['opt_state'], restored['aux'], meta)


def _barrier(name: str) -> None:
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)
