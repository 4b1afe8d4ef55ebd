"""Two processes of two devices: told to leave together, ended together, and who was to blame."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from vitjax.training.metrics import read_metrics

PROGRAM = pathlib.Path(__file__).with_name('faulty.py')
RECIPE = pathlib.Path(__file__).with_name('faulty_recipe.py')
LIMIT_S = 200


@contextlib.contextmanager
def two_processes(workdir, faults=('', ''), flags=()):
  """Starts both; yields the Popens and a function that returns the exit codes and logs of their ends."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    coordinator = f'127.0.0.1:{probe.getsockname()[1]}'
  logs = [workdir.parent / f'{workdir.name}.rank{rank}.log' for rank in range(2)]
  command = [sys.executable, str(PROGRAM), 'train', f'--config={RECIPE}', f'--workdir={workdir}', *flags]
  with contextlib.ExitStack() as stack:
    processes = []
    for rank, fault in enumerate(faults):
      env = {
        **os.environ,
        'XLA_FLAGS': '--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0',
        'JAX_COORDINATOR_ADDRESS': coordinator,
        'JAX_NUM_PROCESSES': '2',
        'JAX_PROCESS_ID': str(rank),
        'FAULT': fault,
      }
      log = stack.enter_context(logs[rank].open('w'))
      process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
      stack.callback(process.wait)
      stack.callback(process.kill)
      processes.append(process)

    def ends():
      codes = [process.wait(LIMIT_S) for process in processes]
      return codes, [path.read_text() for path in logs]

    yield processes, ends


def wait_for_row(workdir, step, processes):
  deadline = time.monotonic() + LIMIT_S
  path = workdir / 'metrics.jsonl'
  while not path.exists() or path.read_text().count('\n') < step:
    assert all(process.poll() is None for process in processes), 'ended before the fault'
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.mark.slow
def test_a_signal_to_one_process_saves_the_same_step_on_both(tmp_path):
  workdir = tmp_path / 'run'
  with two_processes(workdir) as (processes, ends):
    wait_for_row(workdir, 8, processes)
    processes[1].send_signal(signal.SIGTERM)
    codes, logs = ends()
  assert codes == [42, 42], logs
  said = [re.search(r'SIGTERM on rank 1: saved and left\n  - step = (\d+) of 60', log) for log in logs]
  assert all(said), logs
  step = int(said[0][1])
  assert int(said[1][1]) == step
  # The row of a step whose evaluation was left comes with the next start.
  assert len(read_metrics(workdir)) in (step, step - 1)
  assert (workdir / f'checkpoints/{step}/manifest/process_1_of_2.json').exists()


@pytest.mark.slow
def test_an_exception_on_one_process_ends_both_with_its_cause(tmp_path):
  with two_processes(tmp_path / 'run', ('', 'raise@6')) as (_, ends):
    codes, logs = ends()
  assert codes == [1, 1], logs
  assert logs[0].count('RuntimeError: no space left on this device') == 1
  assert 'failed on rank 1: RuntimeError: no space left on this device' in logs[0]
  assert 'Traceback' not in logs[0]
  assert 'Traceback' in logs[1]


@pytest.mark.slow
def test_a_process_that_sleeps_is_named_and_both_leave_their_stacks(tmp_path):
  flags = ['--config.resilience.step_timeout_s=10', '--config.resilience.heartbeat_timeout_s=20']
  with two_processes(tmp_path / 'run', ('slow@3', 'sleep@8'), flags) as (_, ends):
    codes, logs = ends()
  assert codes == [42, 42], logs
  for rank, log in enumerate(logs):
    assert "rank 1 is behind the others, in 'waiting for images'" in log or (
      "the others wait for rank 1, in 'waiting for images'" in log
    )
    assert 'Thread' in (tmp_path / f'run/stacks/rank_{rank}.txt').read_text()
  assert 'faulty.py' in (tmp_path / 'run/stacks/rank_1.txt').read_text()
  assert 'rank 0 holds the others up' in logs[0]
