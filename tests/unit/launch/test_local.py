import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from launch.local import run as local
from vitjax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[3]


def run(code, processes=2, **more):
  out = io.BytesIO()
  start = time.monotonic()
  status = local.run_processes([sys.executable, '-u', '-c', code], processes, out=out, **more)
  return status, out.getvalue().decode().splitlines(), time.monotonic() - start


def test_ranks_prefixes_and_variables():
  code = 'import os; print(*(os.environ["JAX_" + n] for n in ("PROCESS_ID", "NUM_PROCESSES")), os.environ["XLA_FLAGS"])'
  status, lines, _ = run(code, 3, devices=2)
  assert status == 0
  flags = local.environment(0, 3, 2, 1, os.environ)['XLA_FLAGS']
  assert sorted(lines) == [f'[{i}] {i} 3 {flags}' for i in range(3)]
  assert flags.endswith('--xla_force_host_platform_device_count=2')
  assert flags.count('device_count') == 1


def test_coordinator_is_a_free_port_of_loopback():
  status, lines, _ = run('import os, socket; print(os.environ["JAX_COORDINATOR_ADDRESS"])')
  assert status == 0
  (address,) = {line.split()[1] for line in lines}
  assert address.startswith('127.0.0.1:')


@pytest.mark.parametrize('ignores', [False, True])
def test_siblings_of_a_process_that_fails_are_ended(ignores):
  """Rank 1 fails; rank 0 would sleep, and must be killed if it ignores SIGTERM."""
  code = f"""
import os, signal, sys, time
if os.environ['JAX_PROCESS_ID'] == '1':
  time.sleep(0.5)
  sys.exit(7)
if {ignores}:
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(100)
"""
  status, lines, seconds = run(code, grace_s=1.0)
  assert status == 7
  assert 'launch local: process 1 ended with 7; ending the others' in lines
  assert seconds < 20


@pytest.mark.skipif(shutil.which('setpriv') is None, reason='needs setpriv of util-linux')
def test_processes_do_not_outlive_a_launcher_that_is_killed(tmp_path):
  code = f"""
import os, pathlib, signal, sys, time
place = pathlib.Path({str(tmp_path)!r}, os.environ['JAX_PROCESS_ID'])
def leave(*_):
  place.with_suffix('.left').touch()
  sys.exit(42)
signal.signal(signal.SIGTERM, leave)
place.touch()
time.sleep(100)
"""
  start = f'from launch.local.run import run_processes; run_processes({[sys.executable, "-c", code]!r}, 2)'
  launcher = subprocess.Popen([sys.executable, '-c', start], env={**os.environ, 'PYTHONPATH': str(ROOT)})
  wait_for(tmp_path / '0', tmp_path / '1')
  launcher.kill()
  launcher.wait()
  wait_for(tmp_path / '0.left', tmp_path / '1.left')


def wait_for(*paths):
  deadline = time.monotonic() + 30
  while not all(path.exists() for path in paths):
    assert time.monotonic() < deadline, paths
    time.sleep(0.02)


def test_a_killed_process_counts_with_its_signal():
  code = 'import os, time; os.environ["JAX_PROCESS_ID"] == "0" and os.kill(os.getpid(), 9); time.sleep(100)'
  status, _, _ = run(code)
  assert status == 128 + signal.SIGKILL


@pytest.mark.parametrize(('codes', 'expected'), [((42, 42), 42), ((0, 42), 42), ((42, 1), 1), ((1, 42), 1)])
def test_preempted_processes_end_nobody_and_42_is_handed_on(codes, expected):
  code = f"""
import os, sys, time
rank = int(os.environ['JAX_PROCESS_ID'])
time.sleep(0.3 * rank)
sys.exit({codes}[rank])
"""
  status, _, _ = run(code)
  assert status == expected


def test_signals_reach_all_processes():
  code = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
print('ready')
time.sleep(100)
"""
  out = io.BytesIO()

  def terminate():
    deadline = time.monotonic() + 30
    while out.getvalue().count(b'ready') < 2 and time.monotonic() < deadline:
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

  killer = threading.Thread(target=terminate)
  status = local.run_processes(
    [sys.executable, '-u', '-c', code], 2, out=out, started=lambda _: killer.start()
  )
  killer.join()
  assert status == 42
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_numbers_are_checked():
  import argparse

  parser = argparse.ArgumentParser()
  local.add_arguments(parser)
  with pytest.raises(ConfigError, match='--processes = 0'):
    local.run(parser.parse_args(['--processes=0', '--', 'doctor']))
