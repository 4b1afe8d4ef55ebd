"""Start-up of several processes, and their orderly end when one of them fails."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import ipaddress
import logging
import os
import pathlib
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping

import jax

from vitjax.errors import ConfigError, Problem

_logger = logging.getLogger(__name__)
_EXPLICIT = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')


@dataclasses.dataclass(frozen=True)
class Launch:
  """What the launcher says about this process.

  Attributes:
    launcher: 'environment', 'slurm', 'ompi' or 'tpu'.
    num_processes: processes of the run, or None where only jax's own detection can tell (TPU).
    process_id: this one, None where jax's own detection fills it in.
    coordinator: 'host:port' of process 0, likewise.
  """

  launcher: str
  num_processes: int | None
  process_id: int | None = None
  coordinator: str | None = None


def read_launch(env: Mapping[str, str]) -> Launch | None:
  """Returns what the launcher's environment variables say, or None for a run of one process.

  JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID win over SLURM (srun), Open MPI and TPU hosts.

  Raises:
    ConfigError: the three JAX_* variables are incomplete or make no sense.
  """
  if any(name in env for name in _EXPLICIT):
    return _read_explicit(env)
  # SLURM_STEP_NODELIST exists only under srun, so a python started directly in a batch script stays alone.
  if 'SLURM_STEP_NODELIST' in env and 'SLURM_NTASKS' in env and int(env['SLURM_NTASKS']) > 1:
    return Launch('slurm', int(env['SLURM_NTASKS']))
  if 'OMPI_COMM_WORLD_SIZE' in env and int(env['OMPI_COMM_WORLD_SIZE']) > 1:
    return Launch('ompi', int(env['OMPI_COMM_WORLD_SIZE']))
  if _may_be_tpu_host(env):
    return Launch('tpu', None)
  return None


def initialize(*, start_timeout_s: int = 300, heartbeat_timeout_s: int = 100) -> None:
  """Joins the processes of this run, if the launcher started several.

  To be called before jax touches a device. A run of one process, and a second call, do nothing. A
  coordinator on a loopback address listens on that address only; otherwise jax listens on all interfaces
  unless JAX_COORDINATOR_BIND_ADDRESS says which.

  Args:
    start_timeout_s: how long to wait for all processes to come up, in seconds.
    heartbeat_timeout_s: silence after which a process counts as dead and the others abort, in seconds.

  Raises:
    ConfigError: incomplete variables, an address in use, or fewer processes than the launcher announced.
  """
  launch = read_launch(os.environ)
  if launch is None or jax.distributed.is_initialized():
    return
  if launch.coordinator is None:
    _join_detected(launch, start_timeout_s, heartbeat_timeout_s)
  else:
    _join_at(launch.coordinator, launch, start_timeout_s, heartbeat_timeout_s)
  if launch.num_processes not in (None, jax.process_count()):
    expected = f'{launch.num_processes}, as {launch.launcher} announced'
    hint = 'Call initialize() before anything else uses jax, and install the jax build of this accelerator'
    problem = Problem('jax.process_count()', str(jax.process_count()), expected, hint)
    raise ConfigError('jax does not see all processes of this run.', [problem])


def is_main() -> bool:
  """Returns whether this is process 0, the one that writes logs and files."""
  return jax.process_index() == 0


@contextlib.contextmanager
def hard_exit_on_exception() -> Iterator[None]:
  """Ends the process at once when the block raises in a run of several processes; `with` or decorator.

  An ordinary exit would wait 300 s at jax's shutdown barrier for peers that wait for this process. Here the
  traceback is printed and the process leaves with status 1 (130 for Ctrl-C); its peers then see a dead
  process and abort. A SystemExit passes, since it is deliberate, as does every exception in a run of one
  process.
  """
  try:
    yield
  except SystemExit:
    raise
  except BaseException as error:
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def _join_detected(launch: Launch, start_timeout_s: int, heartbeat_timeout_s: int) -> None:
  try:
    jax.distributed.initialize(
      initialization_timeout=start_timeout_s, heartbeat_timeout_seconds=heartbeat_timeout_s
    )
  except ValueError as error:
    if launch.launcher == 'tpu':
      return  # A TPU host outside of any cluster that jax knows: it is alone.
    hint = f'Set {", ".join(_EXPLICIT)} by hand'
    problem = Problem(launch.launcher, str(error), 'a launcher that jax.distributed can read', hint)
    raise ConfigError('The processes of this run could not be joined.', [problem]) from error


def _join_at(coordinator: str, launch: Launch, start_timeout_s: int, heartbeat_timeout_s: int) -> None:
  if launch.process_id == 0:
    _check_free(coordinator)
  # When a process never starts, jax aborts with a C++ stack: this line then tells who waited for whom.
  _logger.info(
    'Process %s of %s: joining at %s, for at most %d s.',
    launch.process_id,
    launch.num_processes,
    coordinator,
    start_timeout_s,
  )
  jax.distributed.initialize(
    coordinator,
    launch.num_processes,
    launch.process_id,
    cluster_detection_method='deactivate',
    coordinator_bind_address=coordinator if _is_loopback(coordinator) else None,
    initialization_timeout=start_timeout_s,
    heartbeat_timeout_seconds=heartbeat_timeout_s,
  )


def _read_explicit(env: Mapping[str, str]) -> Launch | None:
  hint = 'Set it, or unset the others'
  problems = [Problem(name, 'not set', 'all three or none', hint) for name in _EXPLICIT if name not in env]
  numbers = {}
  for name in _EXPLICIT[1:]:
    if name in env and not env[name].isdecimal():
      problems.append(Problem(name, repr(env[name]), 'a whole number'))
    elif name in env:
      numbers[name] = int(env[name])
  address = env[_EXPLICIT[0]] if _EXPLICIT[0] in env else ''
  if _EXPLICIT[0] in env and not address.rpartition(':')[2].isdecimal():
    problems.append(Problem(_EXPLICIT[0], repr(address), "'host:port'"))
  if len(numbers) == 2 and not numbers['JAX_PROCESS_ID'] < numbers['JAX_NUM_PROCESSES']:
    expected = f'below JAX_NUM_PROCESSES = {numbers["JAX_NUM_PROCESSES"]}; the first process is 0'
    problems.append(Problem('JAX_PROCESS_ID', str(numbers['JAX_PROCESS_ID']), expected))
  if problems:
    raise ConfigError('The variables that start several processes do not fit together.', problems)
  if numbers['JAX_NUM_PROCESSES'] == 1:
    return None
  return Launch('environment', numbers['JAX_NUM_PROCESSES'], numbers['JAX_PROCESS_ID'], address)


def _may_be_tpu_host(env: Mapping[str, str]) -> bool:
  wanted = env['JAX_PLATFORMS'] if 'JAX_PLATFORMS' in env else 'tpu'
  has_chip = any(pathlib.Path(path).exists() for path in ('/dev/accel0', '/dev/vfio/0'))
  return 'tpu' in wanted and has_chip and importlib.util.find_spec('libtpu') is not None


def _split_address(address: str) -> tuple[str, int]:
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def _is_loopback(address: str) -> bool:
  host, _ = _split_address(address)
  if host == 'localhost':
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def _check_free(address: str) -> None:
  """Raises while a message is still possible: the coordination service aborts the process on a port that is
  taken."""
  host, port = _split_address(address)
  interface = host if _is_loopback(address) else None
  try:
    family, kind, protocol, _, where = socket.getaddrinfo(
      interface, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(where)
  except OSError as error:
    hint = 'Choose another port, or end the earlier run that still holds this one'
    expected = f'an address with a free port ({error.strerror})'
    problem = Problem('JAX_COORDINATOR_ADDRESS', address, expected, hint)
    raise ConfigError('Process 0 cannot listen on the coordinator address.', [problem]) from error
