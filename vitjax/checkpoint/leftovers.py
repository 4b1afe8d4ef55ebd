"""What is neither a step nor nothing: half-written, deleted, replaced and damaged steps, and their bounds.

Called by process 0 alone. In a bucket nothing is moved: half-written steps are those without their last file, deleted
steps go at once, and replaced and damaged steps are removed instead of kept.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any

from vitjax.checkpoint import reading

# Old steps are renamed into this folder and then removed: a kill in mid-delete leaves no half step.
DELETED = '.deleted'
# Steps that a forced save replaces stay here until it is committed.
REPLACED = '.replaced'
TMP_MARK = '.orbax-checkpoint-tmp'
# Damaged steps that are kept for inspection; older ones are removed, or they would fill the disk.
MAX_DAMAGED = 2


def _remove(path: Any) -> None:
  """Removes a file or folder; of a link only the link, so that nothing outside of the workdir changes."""
  if reading.in_bucket(path):
    if path.exists():
      path.rmtree()
  elif path.is_symlink():
    path.unlink()
  else:
    shutil.rmtree(path, ignore_errors=True)


def remove_tmp(directory: Any) -> None:
  """Removes half-written steps."""
  # After a failure, writers of other items may go on for a moment: try until they are done.
  for _ in range(50):
    entries = list(directory.iterdir()) if directory.is_dir() else []
    leftovers = [entry for entry in entries if TMP_MARK in entry.name or _half_written(entry)]
    if not leftovers:
      return
    for entry in leftovers:
      _remove(entry)
    time.sleep(0.02)


def _half_written(entry: Any) -> bool:
  return reading.in_bucket(entry) and entry.name.isdecimal() and not reading.is_whole(entry)


def purge(directory: Any) -> None:
  """Removes deleted steps for good."""
  _remove(directory / DELETED)


def replace(directory: Any, steps: Sequence[int]) -> None:
  """Moves steps out of the way of a forced save."""
  if reading.in_bucket(directory):
    for step in steps:
      _remove(directory / str(step))
    return
  (directory / REPLACED).mkdir(exist_ok=True)
  for step in steps:
    shutil.rmtree(directory / REPLACED / str(step), ignore_errors=True)
    (directory / str(step)).rename(directory / REPLACED / str(step))


def recover_replaced(directory: Any) -> None:
  """Puts replaced steps back where there is no other: the save that was to replace them did not come about."""
  if reading.in_bucket(directory):
    return
  if not reading.list_steps(directory) and not (directory / REPLACED).is_symlink():
    for step in reading.list_steps(directory / REPLACED):
      (directory / REPLACED / str(step)).rename(directory / str(step))
  forget_replaced(directory)


def forget_replaced(directory: Any) -> None:
  """Removes replaced steps for good."""
  _remove(directory / REPLACED)


def set_aside(directory: Any, steps: Sequence[int], target: Any) -> None:
  """Moves damaged steps to `target`, of which the newest MAX_DAMAGED stay."""
  if reading.in_bucket(directory):
    for step in steps:
      _remove(directory / str(step))
    return
  target.mkdir(exist_ok=True)
  for step in steps:
    shutil.rmtree(target / str(step), ignore_errors=True)
    (directory / str(step)).rename(target / str(step))
  for step in reading.list_steps(target)[:-MAX_DAMAGED]:
    shutil.rmtree(target / str(step), ignore_errors=True)
