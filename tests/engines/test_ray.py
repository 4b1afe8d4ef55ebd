"""Ray on this machine runs launch/ray/train.py: two workers, the losses of a run without Ray."""

import io
import os
import subprocess
import sys

import pytest
from engine_programs import ROOT, program

from launch.local.run import run_processes
from vitjax.training.metrics import read_metrics

pytestmark = pytest.mark.engines
RECIPE = ROOT / 'tests' / 'faults' / 'small_recipe.py'
FLAGS = ['train', f'--config={RECIPE}', '--config.total=8 steps', '--config.evals.val.every=8 steps']


def test_two_workers_train_as_two_processes(tmp_path, monkeypatch):
  python = program('python', 'ray')
  done = subprocess.run([python, '-c', 'import ray, jax, flax'], capture_output=True, text=True, timeout=120)
  if done.returncode:
    pytest.skip(f'Ray is not installed beside vitjax: see `make engines` ({done.stderr.splitlines()[-1]})')
  ours, plain = tmp_path / 'ray', tmp_path / 'plain'
  flags = '--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0'
  env = {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': flags, 'RAY_USAGE_STATS_ENABLED': '0'}
  driver = [
    python,
    '-m',
    'launch.ray.train',
    '--name=test',
    '--hosts=2',
    f'--storage={tmp_path / "records"}',
    '--',
  ]
  done = subprocess.run(
    [*driver, *FLAGS, f'--workdir={ours}'], env=env, cwd=ROOT, capture_output=True, text=True, timeout=240
  )
  assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
  out = io.BytesIO()
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv('XLA_FLAGS', flags)
  command = [sys.executable, '-m', 'vitjax', *FLAGS, f'--workdir={plain}']
  assert run_processes(command, 2, devices=2, out=out) == 0, out.getvalue().decode()[-3000:]
  losses = [[row['train/loss'] for row in read_metrics(w)] for w in (ours, plain)]
  assert len(losses[0]) == 8
  assert losses[0] == pytest.approx(losses[1], rel=1e-5)
