"""How a step is written: Orbax's checkpoint manager, its array handler, the manifest, and what is kept."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers, future

from vitjax.checkpoint import leftovers, reading
from vitjax.checkpoint import manifest as manifests
from vitjax.config.schema import CheckpointConfig
from vitjax.errors import CheckpointError

logger = logging.getLogger(__name__)


def array_handler() -> ocp.PyTreeCheckpointHandler:
  """Returns the Orbax handler that writes the array items.

  One replica writes each shard: splitting the replicas' work compiles a slice per array and blocks the first
  save for seconds. Trained weights hardly compress, so compression would only cost time.
  """
  registry = ocp.type_handlers.create_type_handler_registry(
    (np.ndarray, ocp.type_handlers.NumpyHandler()),
    (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
  )
  return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_compression=False)


class ManifestHandler(ocp.AsyncCheckpointHandler):
  """Writes this process's manifest file into the step when its digests are ready, before the commit."""

  async def async_save(self, directory: Any, args: ManifestSave) -> list[future.Future]:  # pyright: ignore
    """Returns the future that waits for the text and writes it."""
    write = self._write(directory, args.text)
    return [future.CommitFutureAwaitingContractedSignals(write, name='vitjax_manifest')]

  async def _write(self, directory: Any, text: concurrent.futures.Future[str]) -> None:
    content = await asyncio.wrap_future(text)
    name = manifests.file_name(jax.process_index(), jax.process_count())
    (directory / name).write_text(content)

  def save(self, directory: Any, args: ManifestSave) -> None:  # pyright: ignore
    """Writes the manifest file and returns when it is there."""
    asyncio.run(self._write(directory, args.text))

  def restore(self, directory: Any, args: Any = None) -> None:  # pyright: ignore
    """Not used: manifest.load reads the files."""
    raise NotImplementedError('manifests are read by vitjax.checkpoint.manifest.load')


@ocp.args.register_with_handler(ManifestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ManifestSave(ocp.args.CheckpointArgs):
  """The text of the manifest file, in the making."""

  text: concurrent.futures.Future[str]


@dataclasses.dataclass
class KeepBest(checkpoint_managers.PreservationPolicy):
  """Preserves the one step whose value is largest; of equal ones the newest. `values` maps step to metric."""

  values: dict[int, float]

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
    """Returns for each checkpoint whether it is the best one; a step without a value never is."""
    del context
    known = [(self.values[info.step], info.step) for info in checkpoints if info.step in self.values]
    best = max(known)[1] if known else None
    return [info.step == best for info in checkpoints]


def _stored_values(directory: pathlib.Path, metric: str) -> dict[int, float]:
  """Returns {step: metric} of the stored steps that recorded it; a damaged manifest counts as none."""
  values = {}
  for step in reading.list_steps(directory):
    try:
      metrics = manifests.load(directory / str(step)).metrics
    except CheckpointError as error:
      logger.warning('%s', error)
      continue
    if metric in metrics:
      values[step] = metrics[metric]
  return values


def open_manager(
  directory: pathlib.Path, config: CheckpointConfig, values: dict[int, float]
) -> ocp.CheckpointManager:
  """Returns the Orbax manager of a checkpoints folder.

  Args:
    directory: WORKDIR/checkpoints.
    config: keep_last, keep_best and save_async.
    values: step -> metric of keep_best; shared with the caller, who adds each new step before saving it. The
      stored steps that lack in it are read from disk.
  """
  if config.keep_best is not None:
    values |= {**_stored_values(directory, config.keep_best), **values}
  policies = [checkpoint_managers.LatestN(config.keep_last), KeepBest(values)]
  options = ocp.CheckpointManagerOptions(
    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
    enable_async_checkpointing=config.save_async,
    # Were folders made in the background, a folder that cannot be made would surface only after a long timeout.
    async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    todelete_subdir=leftovers.DELETED,
    # Reads no file of the existing steps: a damaged one must not stop the run.
    lightweight_initialize=True,
  )
  handlers = {item: array_handler() for item in manifests.ARRAY_ITEMS}
  return ocp.CheckpointManager(
    directory,
    options=options,
    item_handlers={**handlers, 'meta': ocp.JsonCheckpointHandler(), 'manifest': ManifestHandler()},
  )
