"""A checkpoint of four processes with two devices each, read by a plain process with one device."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys

import pytest

RECIPE = pathlib.Path(__file__).with_name('fsdp_b16.py')
NUM_PROCESSES, DEVICES_EACH = 4, 2
LIMIT_S = 400

READ = """
import sys, numpy as np, jax, vitjax
from vitjax.trees import num_params
assert jax.device_count() == 1
loaded = vitjax.load(sys.argv[1])
print(num_params(loaded.params), loaded.predict(np.zeros((40, 40, 3), np.uint8)).shape)
print(loaded.report)
"""


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


@pytest.mark.slow
def test_b16_of_four_processes_under_fsdp_loads_on_one_device(tmp_path):
  coordinator = f'127.0.0.1:{free_port()}'
  command = [sys.executable, '-m', 'vitjax', 'train', f'--config={RECIPE}', f'--workdir={tmp_path / "run"}']
  with contextlib.ExitStack() as stack:
    processes = []
    for rank in range(NUM_PROCESSES):
      env = {
        **os.environ,
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={DEVICES_EACH} --xla_backend_optimization_level=0',
        'JAX_COORDINATOR_ADDRESS': coordinator,
        'JAX_NUM_PROCESSES': str(NUM_PROCESSES),
        'JAX_PROCESS_ID': str(rank),
      }
      log = stack.enter_context((tmp_path / f'rank{rank}.log').open('w'))
      processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
      stack.callback(processes[-1].wait)
      stack.callback(processes[-1].kill)
    codes = [process.wait(LIMIT_S) for process in processes]
  assert codes == [0] * NUM_PROCESSES, (tmp_path / 'rank0.log').read_text()[-3000:]

  plain = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  read = subprocess.run(
    [sys.executable, '-c', READ, str(tmp_path / 'run')],
    env=plain,
    capture_output=True,
    text=True,
    timeout=LIMIT_S,
  )
  assert read.returncode == 0, read.stderr[-3000:]
  # 86,567,656 of B/16 at 224 pixels and 1,000 classes, less 192 positions and 990 classes.
  assert read.stdout.startswith(f'{86_567_656 - 192 * 768 - 990 * 769} (1, 10)')
  assert 'golden self-test: logits as saved' in read.stdout
