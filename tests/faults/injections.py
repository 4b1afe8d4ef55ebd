"""Faults that are armed inside a run's own process before it starts (see runs.Job): kills, signals, storage."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

NOT_PERMITTED = 77  # exit code of a run whose fault cannot be armed here
CLONE_NEWNS = 0x00020000

_at_end: list[Callable[[], None]] = []


def finish() -> None:
  """Does what injections left to be done when the command has ended."""
  for action in _at_end:
    action()


def _die() -> None:
  os.kill(os.getpid(), signal.SIGKILL)
  time.sleep(60)


def _before(owner: Any, name: str, nth: int, action: Callable[[], None]) -> None:
  """Makes the nth call of owner.name do `action` first."""
  original, calls = getattr(owner, name), [0]

  def wrapped(*args: Any, **kwargs: Any) -> Any:
    calls[0] += 1
    if calls[0] == nth:
      action()
    return original(*args, **kwargs)

  setattr(owner, name, wrapped)


def _after(owner: Any, name: str, nth: int, action: Callable[[], None]) -> None:
  """Makes the nth call of owner.name do `action` when it is done."""
  original, calls = getattr(owner, name), [0]

  def wrapped(*args: Any, **kwargs: Any) -> Any:
    result = original(*args, **kwargs)
    calls[0] += 1
    if calls[0] == nth:
      action()
    return result

  setattr(owner, name, wrapped)


SAVE_PHASES = (
  'copy to host', 'array files half written', 'manifest not yet written', 'before the commit', 'after the commit',
  'before the old step is renamed', 'old step renamed', 'old step half deleted',
)  # fmt: skip


def kill_in_save(phase: str, workdir: str) -> None:
  """SIGKILL in the third save (two steps are kept, so it is the first that deletes one), in that phase."""
  from orbax.checkpoint._src.path import atomicity, deleter

  from vitjax.checkpoint import leftovers, manifest, writing

  third = 3
  if phase == 'copy to host':
    _after(manifest, 'host_copies', 3 * (third - 1) + 2, _die)
  elif phase == 'array files half written':
    folder = pathlib.Path(workdir) / 'checkpoints'

    def watch() -> None:
      while True:
        tmp = list(folder.glob(f'15{leftovers.TMP_MARK}*')) if folder.is_dir() else []
        if tmp and len([file for file in tmp[0].rglob('*') if file.is_file()]) > 3:
          _die()
        time.sleep(0.0005)

    threading.Thread(target=watch, daemon=True).start()
  elif phase == 'manifest not yet written':
    _before(writing.ManifestHandler, '_write', third, _die)
  elif phase in ('before the commit', 'after the commit'):
    arm = _before if phase == 'before the commit' else _after
    _finalize(atomicity.AtomicRenameTemporaryPath, arm, third)
  elif phase == 'before the old step is renamed':
    _before(deleter.StandardCheckpointDeleter, '_rename_step_to_subdir', 1, _die)
  elif phase == 'old step renamed':
    _after(deleter.StandardCheckpointDeleter, '_rename_step_to_subdir', 1, _die)
  elif phase == 'old step half deleted':

    def half(directory: pathlib.Path) -> None:
      if (directory / leftovers.DELETED).is_dir():
        files = sorted(file for file in (directory / leftovers.DELETED).rglob('*') if file.is_file())
        for file in files[: len(files) // 2]:
          file.unlink()
        _die()

    leftovers.purge = half
  else:
    raise ValueError(phase)


def _finalize(owner: Any, arm: Callable[..., None], nth: int) -> None:
  """Arms the commit of the nth step; the items in it are committed with the same class, so steps are counted."""
  original, calls = owner.finalize, [0]

  async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
    is_step = pathlib.Path(str(self.get_final())).name.isdigit()
    calls[0] += is_step
    if is_step and calls[0] == nth and arm is _before:
      _die()
    result = await original(self, *args, **kwargs)
    if is_step and calls[0] == nth:
      _die()
    return result

  owner.finalize = wrapped


def terminate_during(moment: str) -> None:
  """SIGTERM to this process in the middle of something, which takes a second longer."""
  from jax.stages import Lowered

  from vitjax.checkpoint import Saver, Store
  from vitjax.evaluators.classification import ClassificationEvaluator

  places = {
    'compilation': (Lowered, 'compile'), 'restore': (Store, 'restore'), 'evaluation': (ClassificationEvaluator, 'run'),
    'final save': (Saver, 'settle'),
  }  # fmt: skip

  def terminate() -> None:
    os.write(1, f'SIGTERM during {moment}\n'.encode())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.0)

  _before(*places[moment], 1, terminate)


def kill_at_evaluation(nth: int) -> None:
  """SIGKILL when the nth evaluation begins."""
  from vitjax.evaluators.classification import ClassificationEvaluator

  _before(ClassificationEvaluator, 'run', nth, _die)


def kill_after_row(step: int) -> None:
  """SIGKILL when the row of `step` has been written, before anything of that step is saved."""
  from vitjax.training.metrics import MetricsWriter

  _after(MetricsWriter, 'write', step, _die)


def kill_after_last_save() -> None:
  """SIGKILL when the last step is committed, before the command ends."""
  from vitjax.checkpoint import Store

  _before(Store, 'close', 1, _die)


def log_start(ids: str, restored: str, segment: int) -> None:
  """Appends the example ids of each batch of this process to `ids`, and writes to `restored` what it starts from.

  Rows of `ids` are {'segment', 'step', 'index'}; `restored` is {'step', 'params': {path: SHA-256}}.
  """
  import jax

  from vitjax.checkpoint import manifest

  # By name: the room's __init__ has a function `build`.
  build, startup, resume = (
    importlib.import_module(f'vitjax.training.{name}') for name in ('build', 'startup', 'resume')
  )
  make, start = build.train_batches, startup.restore_or_init

  def logged_batches(*args: Any, start_step: int = 0, **kwargs: Any) -> Any:
    batches = make(*args, start_step=start_step, **kwargs)
    plain, step = type(batches), [start_step]

    class Logged(plain):
      def __next__(self) -> Any:
        batch = plain.__next__(self)
        step[0] += 1
        row = {'segment': segment, 'step': step[0], 'index': batch['index'].tolist()}
        with pathlib.Path(ids).open('a') as file:
          file.write(json.dumps(row) + '\n')
        return batch

    batches.__class__ = Logged
    return batches

  def logged_start(*args: Any) -> Any:
    result = start(*args)
    params = manifest.digests(jax.tree.map(resume._gathered, result[0].params))
    if jax.process_index() == 0:
      pathlib.Path(restored).write_text(json.dumps({'step': result[1].step, 'params': params}))
    return result

  build.train_batches, startup.restore_or_init = logged_batches, logged_start


def say_steps() -> None:
  """Prints 'step N' before the row of each step is written."""
  from vitjax.training.metrics import MetricsWriter

  write = MetricsWriter.write

  def said(self: Any, step: int, values: Any) -> None:
    os.write(1, f'step {step}\n'.encode())
    write(self, step, values)

  MetricsWriter.write = said


def stalls(input_s: float, evaluation_s: float, save_s: float, report: str) -> None:
  """Makes one batch, one evaluation and one save take so much longer; writes the clock's account to `report`."""
  from vitjax.checkpoint import Store
  from vitjax.evaluators.classification import ClassificationEvaluator

  clocks: list[Any] = []
  goodput = importlib.import_module('vitjax.training.goodput')
  build = importlib.import_module('vitjax.training.build')
  make, real = goodput.Clock.__init__, build.Run.batches

  def kept(self: Any, *args: Any) -> None:
    clocks.append(self)
    make(self, *args)

  def batches(self: Any, start: int) -> Any:
    for number, batch in enumerate(real(self, start), start + 1):
      if number == 4:
        time.sleep(input_s)
      yield batch

  goodput.Clock.__init__, build.Run.batches = kept, batches
  _before(ClassificationEvaluator, 'run', 1, lambda: time.sleep(evaluation_s))
  _before(Store, 'save', 1, lambda: time.sleep(save_s))

  def write() -> None:
    clock = clocks[0]
    pathlib.Path(report).write_text(json.dumps({'seconds': clock.seconds(), 'wall_s': clock.wall_s}))

  _at_end.append(write)


def other_code() -> None:
  """As if this process ran another version of the code."""
  module = importlib.import_module('vitjax.parallel.agreement')
  real = module.code_facts

  def changed() -> dict[str, str]:
    return {**real(), 'vitjax source files': 'another digest'}

  module.code_facts = changed


def slow_storage(seconds: float, first: int) -> None:
  """Makes the background part of every save from the `first` on last `seconds` longer."""
  from vitjax.checkpoint import manifest

  original, calls = manifest.dump, [0]

  def slow(*args: Any) -> str:
    calls[0] += 1
    if calls[0] >= first:
      time.sleep(seconds)
    return original(*args)

  manifest.dump = slow


def on_tmpfs(workdir: str, size: str, step: int, ballast: int = 0, read_only_s: float = 0.0) -> None:
  """Puts the workdir on a tmpfs that this process alone sees, and spoils it when the row of `step` is written.

  What the tmpfs holds at the end is copied to WORKDIR.kept, from which it is filled too. Exits with 77 where mounting
  is not permitted.

  Args:
    workdir: mounted over.
    size: of the tmpfs, such as '3m'.
    step: when the fault begins.
    ballast: bytes of a file that leaves that little room; 0: none.
    read_only_s: it is read-only for so long.
  """
  kept = pathlib.Path(f'{workdir}.kept')
  kept.mkdir(exist_ok=True)
  pathlib.Path(workdir).mkdir(exist_ok=True)
  mounts = [['--make-rprivate', '/'], ['-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', workdir]]
  if ctypes.CDLL(None).unshare(CLONE_NEWNS) or any(_mount(*arguments) for arguments in mounts):
    os._exit(NOT_PERMITTED)
  shutil.copytree(kept, workdir, dirs_exist_ok=True)

  def keep() -> None:
    pathlib.Path(workdir, 'ballast').unlink(missing_ok=True)
    shutil.rmtree(kept)
    shutil.copytree(workdir, kept)

  def spoil() -> None:
    if ballast:
      free = shutil.disk_usage(workdir).free
      pathlib.Path(workdir, 'ballast').write_bytes(bytes(max(0, free - ballast)))
    if read_only_s:
      # Bound over itself: files that are open, such as the metric log, would make a plain remount fail.
      assert not _mount('--bind', workdir, workdir)
      assert not _mount('-o', 'remount,bind,ro', workdir)
      timer = threading.Timer(read_only_s, lambda: subprocess.run(['umount', '-l', workdir], check=True))
      timer.daemon = True
      timer.start()

  from vitjax.training.metrics import MetricsWriter

  _at_end.append(keep)
  _after(MetricsWriter, 'write', step, spoil)
  _say_when_failures_are_seen()


def _mount(*arguments: str) -> int:
  return subprocess.run(['mount', *arguments], check=False, capture_output=True).returncode


def _say_when_failures_are_seen() -> None:
  """Prints how many steps lie between the end of a failed save and the moment at which the loop knows of it."""
  import orbax.checkpoint as ocp

  from vitjax.checkpoint import Saver
  from vitjax.training.metrics import MetricsWriter

  rows, ended = [0], [0]
  finalize, note, write = ocp.CheckpointManager._finalize, Saver._note, MetricsWriter.write

  def counted(self: Any, *args: Any) -> None:
    rows[0] += 1
    write(self, *args)

  def finalized(self: Any, *args: Any) -> None:
    try:
      finalize(self, *args)
    finally:
      ended[0] = rows[0]

  def noted(self: Any, error: Exception) -> None:
    print(f'failure seen after {rows[0] - ended[0]} steps', flush=True)
    note(self, error)

  ocp.CheckpointManager._finalize, Saver._note, MetricsWriter.write = finalized, noted, counted
