"""Start-up of several processes, and their orderly end when one of them fails."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import traceback
from collections.abc import Iterator, Mapping

import jax
from jax._src import clusters, xla_bridge
from jaxlib import _jax  # pyright: ignore[reportAttributeAccessIssue]

from vitjax.config import Launch, read_launch
from vitjax.errors import ConfigError, Preempted, Problem, TrainingError, VitjaxError, exit_code
from vitjax.parallel.agreement import coordination_client
from vitjax.parallel.coordination import leave, post_failure, read_failure, say
from vitjax.parallel.roll_call import is_loopback, roll_call

_logger = logging.getLogger(__name__)
_LOOK_EVERY_S, _FOLLOW_AFTER_S = 1.0, 4.0


def initialize(
  flags: Mapping[str, str] | None = None, *, start_timeout_s: float = 300, heartbeat_timeout_s: int = 100
) -> None:
  """Joins the processes of this run, if a launcher, variables or flags say that there are several.

  To be called before jax touches a device. A run of one process, and a second call, do nothing more than
  compare the number of processes with what was announced. `vitjax.config.read_launch` says what is read. With
  a coordinator on a loopback address all sockets listen there alone, gloo's too; otherwise the coordinator
  listens on all interfaces unless JAX_COORDINATOR_BIND_ADDRESS says which.

  Args:
    flags: --coordinator, --num_processes, --process_id as given on the command line.
    start_timeout_s: how long to wait for all processes to come up, in seconds.
    heartbeat_timeout_s: silence after which a process counts as dead and the others abort, in seconds; also
      the longest wait of a process that ends for its peers to end.

  Raises:
    ConfigError: incomplete variables, an address in use, processes that disagree on their number, or fewer of
      them than announced.
    TrainingError: processes that did not start in time; they are named where the coordinator was given.
  """
  # jax's own preemption service would take SIGTERM from training/preemption.py, and knows no other signal.
  jax.config.update('jax_enable_preemption_service', False)
  launch = read_launch(os.environ, flags)
  if launch is None:
    return
  if not jax.distributed.is_initialized():
    if launch.coordinator is None:
      _join_detected(launch, start_timeout_s, heartbeat_timeout_s)
    else:
      _join_at(launch.coordinator, launch, start_timeout_s, heartbeat_timeout_s)
  if launch.num_processes not in (None, jax.process_count()):
    said_by = ', '.join(launch.said_by) or launch.launcher
    expected = f'{launch.num_processes}, as announced by {said_by}'
    hint = 'Call initialize() before anything else uses jax, and install the jax build of this accelerator'
    problem = Problem('jax.process_count()', str(jax.process_count()), expected, hint)
    raise ConfigError('jax does not see all processes of this run.', [problem])


def is_main() -> bool:
  """Returns whether this is process 0, the one that writes logs and files."""
  return jax.process_index() == 0


@contextlib.contextmanager
def hard_exit_on_exception() -> Iterator[None]:
  """Ends the process at once when the block raises in a run of several processes; `with` or decorator.

  An ordinary exit would wait 300 s at jax's shutdown barrier for peers that wait for this process. Here the first
  process to fail prints its error and tells the others; they name it and leave as well, all with its exit code. A
  SystemExit passes, since it is deliberate, as does Preempted, which all processes raise together, and every
  exception in a run of one process.
  """
  try:
    with _following_others():
      yield
  except (SystemExit, Preempted):
    raise
  except BaseException as error:
    if not jax.distributed.is_initialized():
      raise
    cause = f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ""}'
    post_failure(cause, exit_code(error), everywhere=isinstance(error, TrainingError))
    failure = read_failure()
    if failure is not None and failure['rank'] != jax.process_index():
      say(f'failed on rank {failure["rank"]}: {failure["cause"]}')
      leave(failure['code'])
    if isinstance(error, VitjaxError):
      say(f'vitjax: {error}')
    else:
      say(traceback.format_exc().rstrip())
    leave(exit_code(error))


@contextlib.contextmanager
def _following_others() -> Iterator[None]:
  """Ends this process some seconds after another one has failed, wherever this one waits in the block.

  During training the supervisor is faster, and leaves stacks behind.
  """
  done = threading.Event()

  def watch() -> None:
    while not done.wait(_LOOK_EVERY_S):
      failure = read_failure()
      if failure is None or failure['everywhere'] or failure['rank'] == jax.process_index():
        continue
      if not done.wait(_FOLLOW_AFTER_S):
        say(f'failed on rank {failure["rank"]}: {failure["cause"]}')
        leave(failure['code'])

  if jax.distributed.is_initialized():
    threading.Thread(target=watch, name='vitjax-follow', daemon=True).start()
  try:
    yield
  finally:
    done.set()


def _join_detected(launch: Launch, start_timeout_s: float, heartbeat_timeout_s: int) -> None:
  """Lets jax find coordinator, number and rank: on TPUs, under SLURM on several nodes, Open MPI, Kubernetes."""
  count = 'all' if launch.num_processes is None else f'all {launch.num_processes}'
  text = f'{count} processes of this {launch.launcher} job did not come up within {start_timeout_s:g} s'
  try:
    with _at_most(start_timeout_s, text):
      address, num_processes, rank, device_ids = _ask_jax(start_timeout_s)
      if address is None or num_processes is None or rank is None:
        raise ValueError(f'jax.distributed finds no processes of a {launch.launcher} job')
  except (ValueError, RuntimeError) as error:
    if launch.launcher == 'tpu' and launch.num_processes in (None, 1):
      return  # A TPU host outside of any cluster that jax knows: it is alone.
    hint = 'Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; alone: --num_processes=1'
    expected = 'a launcher that jax.distributed can read'
    if launch.launcher == 'kubernetes':
      expected += ' (an indexed Job or JobSet, with jax[k8s] installed and leave to read pods)'
    problem = Problem(launch.launcher, str(error), expected, hint)
    raise ConfigError('The processes of this run could not be joined.', [problem]) from error
  found = dataclasses.replace(launch, num_processes=num_processes, process_id=rank, coordinator=address)
  _join_at(address, found, start_timeout_s, heartbeat_timeout_s, device_ids)


def _ask_jax(timeout_s: float) -> tuple[str | None, int | None, int | None, list[int] | None]:
  """Returns the coordinator's address, number of processes, rank and local devices, as jax.distributed finds them.

  jax has no public name for this part of its start; it is asked first so that a roll call can come before the rest.
  """
  address = os.environ['JAX_COORDINATOR_ADDRESS'] if 'JAX_COORDINATOR_ADDRESS' in os.environ else None
  return clusters.ClusterEnv.auto_detect_unset_distributed_params(
    address, None, None, None, None, round(timeout_s)
  )


def _join_at(
  address: str,
  launch: Launch,
  start_timeout_s: float,
  heartbeat_timeout_s: int,
  device_ids: list[int] | None = None,
) -> None:
  """Joins the others at a known address, after a roll call that names who is missing."""
  rank, count = launch.process_id, launch.num_processes
  assert rank is not None
  assert count is not None
  said_by = launch.said_by[1] if len(launch.said_by) > 1 else launch.launcher
  _logger.info('Process %d of %d: joining at %s, for at most %g s.', rank, count, address, start_timeout_s)
  roll_call(address, rank, count, start_timeout_s, said_by)
  # Under SLURM jax still finds out by itself which GPUs belong to this task of a node.
  detection = 'slurm' if launch.launcher == 'slurm' else 'deactivate'
  local = is_loopback(address)
  with _at_most(start_timeout_s, f'{count} processes reported at {address}, but jax could not join them'):
    jax.distributed.initialize(
      address,
      count,
      rank,
      device_ids,
      cluster_detection_method=detection,
      coordinator_bind_address=address if local else None,
      initialization_timeout=round(start_timeout_s) + 60,
      heartbeat_timeout_seconds=heartbeat_timeout_s,
      shutdown_timeout_seconds=heartbeat_timeout_s,
    )
  if local:
    _keep_gloo_local()


def _keep_gloo_local() -> None:
  """Makes the CPU backend's gloo listen on loopback, where jax would take the address of this host's name.

  jax has no option for it; it makes the backend when it is first used, by the function registered here.
  """
  if jax.config.jax_cpu_collectives_implementation != 'gloo':  # pyright: ignore[reportAttributeAccessIssue]
    return

  def make_client() -> object:
    collectives = _jax.make_gloo_tcp_collectives(
      distributed_client=coordination_client(), hostname='127.0.0.1'
    )
    return xla_bridge.make_cpu_client(collectives=collectives)

  xla_bridge.register_backend_factory('cpu', make_client, priority=0, fail_quietly=False)


@contextlib.contextmanager
def _at_most(limit_s: float, text: str) -> Iterator[None]:
  """Ends the process with a message when the block takes longer: jax itself would abort with a C++ stack."""

  def leave() -> None:
    say(f'vitjax: {text} (resilience.start_timeout_s).')
    os._exit(1)

  timer = threading.Timer(limit_s, leave)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
