"""Real runs of several processes through launch/local: losses, checkpoints, example ids, sockets."""

import collections
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import sockets

from launch.local.run import environment, run_processes
from vitjax.training.metrics import read_metrics

ROOT = pathlib.Path(__file__).parents[2]
LIMIT_S = 300
BATCH, EXAMPLES, TOTAL = 48, 240, 10  # two epochs
SMALL = (
  f'--config={ROOT / "configs" / "quickstart.py"}',
  '--config.data.batch_size=48',
  '--config.optim.warmup=2 steps',
  '--config.log.every=1 steps',
  '--config.log.tensorboard=False',
  '--config.evals.val.source.split=test[:80]',
  '--config.evals.val.batch_size=40',
  '--config.evals.val.every=1000 steps',
)


def loopback_only(pid):
  """Returns how many sockets a process listens on; all of them must be loopback."""
  found = sockets.listening(pid)
  assert all(sockets.is_loopback(host) for host, _ in found), found
  return len(found)


def children(pid):
  return [int(child) for child in pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def wait_for_rows(workdir, count, is_alive):
  deadline = time.monotonic() + LIMIT_S
  path = workdir / 'metrics.jsonl'
  while time.monotonic() < deadline:
    if path.exists() and path.read_text().count('\n') >= count:
      return
    assert is_alive(), 'the run ended too early'
    time.sleep(0.02)
  raise AssertionError(f'{count} rows of metrics did not come')


def losses(workdir):
  return [row['train/loss'] for row in read_metrics(workdir)]


READ = """
import sys, numpy as np, jax, vitjax
assert jax.device_count() == 1
loaded = vitjax.load(sys.argv[1])
print(loaded.predict(np.zeros((28, 28, 3), np.uint8)).shape, loaded.report)
"""


@pytest.mark.slow
def test_four_processes_train_as_one_and_their_checkpoint_reads_on_one_device(tmp_path):
  flags = ['train', *SMALL, '--config.parallel.fsdp=8', '--config.total=6 steps']
  four, one = tmp_path / 'four', tmp_path / 'one'
  log = (tmp_path / 'four.log').open('wb')
  command = [sys.executable, '-m', 'launch', 'local', '--processes=4', '--devices=2', '--', *flags]
  launcher = subprocess.Popen([*command, f'--workdir={four}'], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
  try:
    wait_for_rows(four, 1, lambda: launcher.poll() is None)
    counts = [loopback_only(pid) for pid in children(launcher.pid)]
    assert launcher.wait(LIMIT_S) == 0, (tmp_path / 'four.log').read_text()[-3000:]
  finally:
    launcher.terminate()
    launcher.wait(30)
    log.close()
  assert sorted(counts) == [1, 1, 1, 2], 'gloo in each process, the coordinator in one'
  env = environment(0, 1, 8, 1, os.environ) | {'JAX_NUM_PROCESSES': '1'}
  done = subprocess.run(
    [sys.executable, '-m', 'vitjax', *flags, f'--workdir={one}'],
    env=env,
    capture_output=True,
    timeout=LIMIT_S,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  assert len(losses(four)) == 6
  assert losses(four) == pytest.approx(losses(one), rel=1e-5)
  plain = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
  read = subprocess.run(
    [sys.executable, '-c', READ, str(four)], env=plain, capture_output=True, text=True, timeout=LIMIT_S
  )
  assert read.returncode == 0, read.stderr[-3000:]
  assert read.stdout.startswith('(1, 10)')
  assert 'golden self-test: logits as saved' in read.stdout


def recorded(prefix):
  """Returns {step: ids in all processes}."""
  found = collections.defaultdict(list)
  for path in prefix.parent.glob(f'{prefix.name}-*.jsonl'):
    for line in path.read_text().splitlines():
      row = json.loads(line)
      found[row['step']] += row['ids']
  return found


@pytest.mark.slow
def test_killed_on_four_processes_and_resumed_on_two_each_example_counts_once_an_epoch(tmp_path, monkeypatch):
  workdir = tmp_path / 'run'
  flags = [
    'train', *SMALL, f'--workdir={workdir}', f'--config.data.source.split=train[:{EXAMPLES}]',
    f'--config.total={TOTAL} steps', '--config.checkpoint.every=2 steps',
  ]  # fmt: skip
  command = [sys.executable, '-P', '-u', str(pathlib.Path(__file__).with_name('recorded_ids.py')), *flags]
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('RECORD', str(tmp_path / 'first'))
  killers = []

  def kill_later(processes):
    def kill():
      wait_for_rows(workdir, 7, lambda: all(process.poll() is None for process in processes))
      for process in processes:
        process.send_signal(signal.SIGKILL)

    killers.append(threading.Thread(target=kill))
    killers[0].start()

  out = io.BytesIO()
  code = run_processes(command, 4, devices=2, out=out, started=kill_later)
  killers[0].join()
  assert code == 128 + signal.SIGKILL, out.getvalue().decode()[-3000:]
  monkeypatch.setenv('RECORD', str(tmp_path / 'second'))
  out = io.BytesIO()
  assert run_processes(command, 2, devices=2, out=out) == 0, out.getvalue().decode()[-3000:]
  first, second = recorded(tmp_path / 'first'), recorded(tmp_path / 'second')
  resumed_from = min(second) - 1
  assert 0 < resumed_from < TOTAL
  seen = [i for step in range(1, resumed_from + 1) for i in first[step]]
  seen += [i for step in range(resumed_from + 1, TOTAL + 1) for i in second[step]]
  for epoch in range(math.ceil(TOTAL * BATCH / EXAMPLES)):
    assert sorted(seen[epoch * EXAMPLES : (epoch + 1) * EXAMPLES]) == list(range(EXAMPLES))
  assert [row['step'] for row in read_metrics(workdir)] == list(range(1, TOTAL + 1))
