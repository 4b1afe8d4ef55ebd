"""The TPU compiler itself, where libtpu is installed: fits, refuses, and agrees with the estimate."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
KNOBS = ('model.layers=scan', 'model.depth=6', 'parallel.fsdp=4')

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None, reason='libtpu (vitjax[plan]) is not installed'
  ),
]

CODE = """
import json, sys
from vitjax.config import load_config
from vitjax.planning.job import compile_job, estimate_job, what_helps
from vitjax.planning.standin import stand_in
from vitjax.planning.topology import Topology, describe_devices, prepare_process
topology = Topology.parse('v5e:2x2')
prepare_process(topology)
devices = describe_devices(topology)
config = load_config('configs/pretrain.py', [knob.split('=') for knob in sys.argv[1:]])
job = compile_job(estimate_job(stand_in(config, num_devices=len(devices)).recipe, devices, topology.hardware))
print(json.dumps({
  'estimated': job.memory.total,
  'arguments': job.memory.arguments,
  'compiled': job.compiled and job.compiled.total,
  'compiled_arguments': job.compiled and job.compiled.arguments,
  'collectives': sorted({f'{c.kind} {"+".join(c.axes)}' for c in job.compiled.collectives}) if job.compiled else [],
  'needed': job.refusal and job.refusal.needed,
  'limit': job.refusal and job.refusal.limit,
  'data_sheet': topology.hardware.hbm_bytes,
  'helps': [change for change, _ in what_helps(job)] if job.refusal else [],
}))
"""


def plan(*knobs):
  """Returns the plan of a six-block B/16 on v5e:2x2, made in a process of its own: libtpu starts once per process."""
  env = os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''}
  command = [sys.executable, '-c', CODE, *KNOBS, *knobs]
  run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
  assert run.returncode == 0, run.stderr[-3000:]
  return json.loads(run.stdout.splitlines()[-1])


def test_the_estimate_is_within_ten_percent_of_the_compiler():
  found = plan('data.batch_size=256', 'model.remat=dots')
  assert found['arguments'] == pytest.approx(found['compiled_arguments'], rel=0.01)
  assert found['estimated'] == pytest.approx(found['compiled'], rel=0.1)
  assert 'all-gather fsdp' in found['collectives']
  assert {'reduce-scatter fsdp', 'all-reduce fsdp'} & set(found['collectives'])


def test_a_job_that_is_too_large_is_refused_with_the_compilers_figure():
  found = plan('data.batch_size=2048')
  assert found['compiled'] is None
  assert found['needed'] > found['limit'] == pytest.approx(found['data_sheet'], rel=0.01)
  assert found['needed'] == pytest.approx(found['estimated'], rel=0.1)
  assert any(change.startswith('model.remat') for change in found['helps'])
