"""Training runs in processes of their own, quick to start: forked from a server that has imported everything.

A run is `vitjax train ...` as the command does it, in a process (and process group) that may be killed. Before it
starts, an injection may be made in that process: a function of faults.injections that arms a fault.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

RECIPE = pathlib.Path(__file__).with_name('small_recipe.py')
TOTAL_STEPS = 30
LIMIT_S = 180
_ONE_DEVICE = '--xla_backend_optimization_level=0'
_PRELOADED = (
  'jax',
  'vitjax.cli.train',
  'vitjax.training',
  'vitjax.cli.environment',
  'faults.injections',
  'faults.poisons',
)


def devices(count: int) -> dict[str, str]:
  """Returns the environment of a process with that many virtual devices."""
  return {'XLA_FLAGS': f'{_ONE_DEVICE} --xla_force_host_platform_device_count={count}'}


def _server() -> Any:
  context = multiprocessing.get_context('forkserver')
  # The server is a new interpreter: it finds modules as this one does.
  os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, sys.path))
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  context.set_forkserver_preload(list(_PRELOADED))
  return context


def _child(
  argv: Sequence[str], log: str, env: Mapping[str, str], injection: tuple[str, dict[str, Any]]
) -> None:
  os.setsid()
  target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
  os.dup2(target, 1)
  os.dup2(target, 2)
  os.environ.update(env)
  import jax

  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  name, arguments = injection
  if name:
    module, function = f'injections.{name}'.split('.')[-2:]
    getattr(importlib.import_module(f'faults.{module}'), function)(**arguments)
  from vitjax.cli.main import end, main

  code = main(argv)
  importlib.import_module('faults.injections').finish()
  end(code)


class Job:
  """One process of a run; started at construction.

  Args:
    workdir: its --workdir; messages go to the file WORKDIR.log beside it.
    overrides: knobs, such as {'stop_after': '7 steps'}.
    injection: (name of a function of faults.injections, or 'poisons.NAME', its arguments).
    env: environment on top of this process's; one device unless it says otherwise.
    command: instead of training.
    rank: names the log of a process of several.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    injection: tuple[str, dict[str, Any]] = ('', {}),
    env: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
    rank: int | None = None,
  ):
    self.workdir = workdir
    self.log = workdir.with_name(f'{workdir.name}{"" if rank is None else f".{rank}"}.log')
    argv = list(command or ['train', f'--config={RECIPE}', f'--workdir={workdir}'])
    argv += [f'--config.{path}={value}' for path, value in (overrides or {}).items()]
    environment = {**devices(1), **(env or {})}
    self._process = _server().Process(target=_child, args=(argv, str(self.log), environment, injection))
    self._process.start()

  @property
  def pid(self) -> int:
    return self._process.pid

  @property
  def code(self) -> int | None:
    """The exit code; None while it runs, -9 after SIGKILL."""
    return self._process.exitcode

  def wait(self, limit_s: float = LIMIT_S) -> int | None:
    """Returns the exit code, or None when the process does not end in time; then it is killed."""
    self._process.join(limit_s)
    code = self._process.exitcode
    if code is None:
      self.kill_group()
    return code

  def wait_quietly(self, limit_s: float) -> None:
    """Returns when the process has ended or the time is up."""
    self._process.join(limit_s)

  def kill(self, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the process alone."""
    os.kill(self.pid, number)

  def kill_group(self, number: int = signal.SIGKILL) -> None:
    """Sends a signal to the process and all that it started."""
    try:
      os.killpg(self.pid, number)
    except ProcessLookupError:
      return
    if number == signal.SIGKILL:
      self._process.join(30)

  def text(self) -> str:
    """Returns what the process said, and those before it in the same workdir."""
    return self.log.read_text(errors='replace') if self.log.exists() else ''

  def steps_logged(self) -> int:
    """Returns the complete rows of metrics.jsonl."""
    path = self.workdir / 'metrics.jsonl'
    return path.read_text().count('\n') if path.exists() else 0

  def wait_for_step(self, step: int, limit_s: float = LIMIT_S) -> bool:
    """Returns True once the row of `step` is on disk, False if the process ended before."""
    deadline = time.monotonic() + limit_s
    while self.steps_logged() < step:
      if self._process.exitcode is not None or time.monotonic() > deadline:
        return False
      time.sleep(0.002)
    return True


def run_to_end(workdir: pathlib.Path, overrides: Mapping[str, Any] | None = None, **options: Any) -> str:
  """Runs a job to its end; returns '' or what went wrong."""
  job = Job(workdir, overrides, **options)
  code = job.wait()
  return '' if code == 0 else f'exit code {code}: {job.text().strip()[-600:]}'


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def together(
  workdir: pathlib.Path,
  count: int,
  overrides: Mapping[str, Any] | None = None,
  *,
  devices_each: int = 1,
  injections: Mapping[int, tuple[str, dict[str, Any]]] | None = None,
  overrides_of: Mapping[int, Mapping[str, Any]] | None = None,
  absent: Sequence[int] = (),
) -> list[Job]:
  """Returns the started jobs of one run of several processes on this machine."""
  coordinator = f'127.0.0.1:{free_port()}'
  jobs = []
  for rank in range(count):
    if rank in absent:
      continue
    env = {
      **devices(devices_each),
      'JAX_COORDINATOR_ADDRESS': coordinator,
      'JAX_NUM_PROCESSES': str(count),
      'JAX_PROCESS_ID': str(rank),
    }
    injection = injections[rank] if injections and rank in injections else ('', {})
    own = {**(overrides or {}), **(overrides_of[rank] if overrides_of and rank in overrides_of else {})}
    jobs.append(Job(workdir, own, injection=injection, env=env, rank=rank))
  return jobs


def end_all(jobs: Sequence[Job]) -> None:
  """Kills what is left of a run."""
  for job in jobs:
    job.kill_group()


def wait_all(jobs: Sequence[Job], limit_s: float = LIMIT_S) -> tuple[list[int | None], float]:
  """Returns the exit codes and the seconds that all took to end; those that did not end in time are killed."""
  began_s = time.monotonic()
  codes = [job.wait(max(0.1, limit_s - (time.monotonic() - began_s))) for job in jobs]
  return codes, time.monotonic() - began_s


def state_digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 over params, optimiser state, averages, step and RNG of the newest step, verified."""
  import tiny

  digest = hashlib.sha256()
  for name, array in sorted(tiny.restore_arrays(path).items()):
    digest.update(f'{name} {array.dtype} {array.shape}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def rows(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the metric log."""
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def rows_without_speed(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the metric log less the timings."""
  return [
    {name: value for name, value in row.items() if not name.startswith('perf/')} for row in rows(workdir)
  ]


def children(pid: int) -> list[int]:
  """Returns the input workers of a process: what it started itself and is no bookkeeper of Python's."""
  found = []
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit():
      try:
        parent = int((entry / 'stat').read_text().rsplit(')', 1)[1].split()[1])
        command = (entry / 'cmdline').read_text()
      except OSError:
        continue
      if parent == pid and 'resource_tracker' not in command:
        found.append(int(entry.name))
  return found


def listening(pid: int) -> list[str]:
  """Returns 'address:port' of every TCP socket on which a process listens."""
  inodes = set()
  for entry in pathlib.Path(f'/proc/{pid}/fd').iterdir():
    try:
      inodes.add(str(entry.readlink()))
    except OSError:
      continue
  found = []
  for name, family in (('tcp', socket.AF_INET), ('tcp6', socket.AF_INET6)):
    for line in pathlib.Path(f'/proc/{pid}/net/{name}').read_text().splitlines()[1:]:
      fields = line.split()
      if fields[3] == '0A' and f'socket:[{fields[9]}]' in inodes:
        host, port = fields[1].split(':')
        words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
        found.append(f'{socket.inet_ntop(family, b"".join(words))}:{int(port, 16)}')
  return found


def differs(workdir: pathlib.Path, reference: pathlib.Path, *, evals: bool = True) -> str:
  """Returns '' where two runs ended identically (state and metric log), else what differs.

  Args:
    workdir: of the one.
    reference: of the other.
    evals: False leaves evaluations out: a run that stop_after ends early evaluates once more, which is no difference.
  """
  try:
    if state_digest(workdir) != state_digest(reference):
      return 'another final state'
    found, expected = rows_without_speed(workdir), rows_without_speed(reference)
  except (ValueError, OSError) as error:
    return f'{type(error).__name__}: {error}'
  if [row['step'] for row in found] != list(range(1, len(expected) + 1)):
    return f'rows of steps {[row["step"] for row in found]}'
  if not evals:
    found, expected = (
      [{name: value for name, value in row.items() if not name.startswith('val/')} for row in rows]
      for rows in (found, expected)
    )
  return '' if found == expected else 'another metric log'


def files_in(workdir: pathlib.Path) -> dict[str, int]:
  """Returns {path: bytes} of every file in a workdir."""
  return {
    str(file.relative_to(workdir)): file.stat().st_size for file in workdir.rglob('*') if file.is_file()
  }
