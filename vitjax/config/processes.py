"""Which process of how many this is: flags, environment variables and launchers, read before jax is imported."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
from collections.abc import Mapping

from vitjax.errors import ConfigError, Problem

DEFAULT_PORT = 8476
FLAGS = ('--coordinator', '--num_processes', '--process_id')
_COORDINATOR, _COUNT, _RANK = 'coordinator', 'num_processes', 'process_id'
# What may say each of the three, the first one wins: our flags, jax's names, torchrun's and xpk's, SkyPilot's.
_NAMES = {
  _COORDINATOR: (FLAGS[0], 'JAX_COORDINATOR_ADDRESS', 'MASTER_ADDR', 'SKYPILOT_NODE_IPS'),
  _COUNT: (FLAGS[1], 'JAX_NUM_PROCESSES', 'JAX_PROCESS_COUNT', 'NNODES', 'SKYPILOT_NUM_NODES'),
  _RANK: (FLAGS[2], 'JAX_PROCESS_ID', 'NODE_RANK', 'SKYPILOT_NODE_RANK'),
}
_PORTS = {'JAX_COORDINATOR_ADDRESS': 'JAX_COORDINATOR_PORT', 'MASTER_ADDR': 'MASTER_PORT'}


@dataclasses.dataclass(frozen=True)
class Launch:
  """What flags, variables and launcher say about this process.

  Attributes:
    launcher: 'flags', 'environment', 'slurm', 'ompi', 'tpu' or 'kubernetes'.
    num_processes: processes of the run, or None where only jax's own detection can tell.
    process_id: this one, None where jax's own detection fills it in.
    coordinator: 'host:port' of process 0, likewise.
    said_by: the flags or variables that were read, for messages.
  """

  launcher: str
  num_processes: int | None
  process_id: int | None = None
  coordinator: str | None = None
  said_by: tuple[str, ...] = ()


def read_launch(env: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Launch | None:
  """Returns what flags, environment variables and launcher say, or None for a run of one process.

  Flags win over variables, and within the variables JAX_* over NNODES, NODE_RANK, MASTER_ADDR over SKYPILOT_*;
  all of them win over SLURM (srun), Open MPI and indexed Kubernetes jobs. On a TPU host jax asks the TPU, and
  what variables say of the number of processes is only checked against its answer.

  Args:
    env: the environment.
    flags: {'--num_processes': '4', ...} as given on the command line, without those that were not.

  Raises:
    ConfigError: coordinator, number and rank are not all given, or make no sense; all problems are listed.
  """
  said = {**env, **(flags or {})}
  used = {role: name for role in _NAMES if (name := _first(_NAMES[role], said)) is not None}
  count_name = used[_COUNT] if _COUNT in used else ''
  if count_name and said[count_name].strip() == '1' and not _rank_above_zero(used, said):
    return None
  explicit = any(name.startswith(('--', 'JAX_')) for name in used.values())
  detected = _detect(env)
  if len(used) == len(_NAMES) and (explicit or detected is None or detected.launcher != 'tpu'):
    return _explicit(used, said)
  if detected is not None and not (explicit and set(used) != {_COORDINATOR}):
    # A TPU slice is asked itself; a stray NNODES without a rank does not override SLURM.
    if detected.launcher == 'tpu' and count_name:
      return dataclasses.replace(detected, num_processes=_number(said[count_name]), said_by=(count_name,))
    return detected
  if explicit or (count_name and _RANK in used):
    raise _incomplete(used, said)
  if count_name and _number(said[count_name]) not in (None, 1):
    raise _incomplete(used, said)
  return None


def _first(names: tuple[str, ...], said: Mapping[str, str]) -> str | None:
  return next((name for name in names if name in said and said[name].strip()), None)


def _number(text: str) -> int | None:
  return int(text) if text.strip().isdecimal() else None


def _rank_above_zero(used: Mapping[str, str], said: Mapping[str, str]) -> bool:
  return _RANK in used and _number(said[used[_RANK]]) != 0


def _explicit(used: Mapping[str, str], said: Mapping[str, str]) -> Launch:
  """Returns the launch that all three of coordinator, number and rank describe."""
  problems = []
  numbers = {role: _number(said[used[role]]) for role in (_COUNT, _RANK)}
  for role, number in numbers.items():
    if number is None:
      problems.append(Problem(used[role], repr(said[used[role]]), 'a whole number'))
  address = _address(used[_COORDINATOR], said)
  host, _, port = address.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 65536:
    problems.append(Problem(used[_COORDINATOR], repr(said[used[_COORDINATOR]]), "'host:port'"))
  count, rank = numbers[_COUNT], numbers[_RANK]
  if count is not None and rank is not None and not rank < count:
    problems.append(
      Problem(used[_RANK], str(rank), f'below {used[_COUNT]} = {count}; the first process is 0')
    )
  if problems:
    raise ConfigError('What starts several processes does not fit together.', problems)
  launcher = 'flags' if used[_COUNT].startswith('--') else 'environment'
  return Launch(launcher, count, rank, address, tuple(used.values()))


def _address(name: str, said: Mapping[str, str]) -> str:
  """Returns the coordinator's 'host:port', with the port from its own variable where the address has none."""
  text = said[name].strip()
  if name == 'SKYPILOT_NODE_IPS':
    return f'{text.split()[0]}:{DEFAULT_PORT}'
  if name in _PORTS and ':' not in text:
    port = _PORTS[name]
    return f'{text}:{said[port] if said.get(port) else DEFAULT_PORT}'
  return text


def _incomplete(used: Mapping[str, str], said: Mapping[str, str]) -> ConfigError:
  given = ', '.join(f'{name}={said[name]}' for name in used.values())
  problems = [
    Problem(' or '.join(names[:-1]), 'not set', 'all of coordinator, number and rank', f'Given: {given}')
    for role, names in _NAMES.items()
    if role not in used
  ]
  for role in (_COUNT, _RANK):
    if role in used and _number(said[used[role]]) is None:
      problems.append(Problem(used[role], repr(said[used[role]]), 'a whole number'))
  if _COORDINATOR in used and not _address(used[_COORDINATOR], said).rpartition(':')[2].isdecimal():
    problems.append(Problem(used[_COORDINATOR], repr(said[used[_COORDINATOR]]), "'host:port'"))
  hint = 'To train on this machine alone: --num_processes=1'
  return ConfigError(f'What starts several processes is incomplete. {hint}.', problems)


def _detect(env: Mapping[str, str]) -> Launch | None:
  """Returns the launcher whose processes jax.distributed can find by itself."""
  if _may_be_tpu_host(env):
    return Launch('tpu', None)
  # SLURM_STEP_NODELIST exists only under srun, so a python started directly in a batch script stays alone.
  if 'SLURM_STEP_NODELIST' in env and 'SLURM_NTASKS' in env and int(env['SLURM_NTASKS']) > 1:
    return _slurm(env)
  if 'OMPI_COMM_WORLD_SIZE' in env and int(env['OMPI_COMM_WORLD_SIZE']) > 1:
    return Launch('ompi', int(env['OMPI_COMM_WORLD_SIZE']), said_by=('OMPI_COMM_WORLD_SIZE',))
  if 'KUBERNETES_SERVICE_HOST' in env and 'JOB_COMPLETION_INDEX' in env:
    return Launch('kubernetes', None, said_by=('JOB_COMPLETION_INDEX',))
  return None


def _slurm(env: Mapping[str, str]) -> Launch:
  """Returns the tasks of an srun step; those of one node meet on loopback, others where jax says."""
  count = int(env['SLURM_NTASKS'])
  wanted = ('SLURM_STEP_NUM_NODES', 'SLURM_PROCID', 'SLURM_JOB_ID')
  if any(name not in env for name in wanted) or env['SLURM_STEP_NUM_NODES'] != '1':
    return Launch('slurm', count, said_by=('SLURM_NTASKS',))
  port = 61440 + int(env['SLURM_JOB_ID']) % 4096  # jax's choice: one port per job, so jobs may share a node.
  return Launch('slurm', count, int(env['SLURM_PROCID']), f'127.0.0.1:{port}', ('SLURM_NTASKS',))


def _may_be_tpu_host(env: Mapping[str, str]) -> bool:
  wanted = env['JAX_PLATFORMS'] if 'JAX_PLATFORMS' in env else 'tpu'
  has_chip = any(pathlib.Path(path).exists() for path in ('/dev/accel0', '/dev/vfio/0'))
  return 'tpu' in wanted and has_chip and importlib.util.find_spec('libtpu') is not None
