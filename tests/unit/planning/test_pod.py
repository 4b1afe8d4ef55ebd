"""ViT-22B on 512 virtual devices, fsdp 128 x model 4: it lowers, compiles, and communicates what it should."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
BATCH, ROWS = 4096, 4096 // 128


@pytest.fixture(scope='module')
def found():
  flags = '--xla_force_host_platform_device_count=512 --xla_backend_optimization_level=0'
  env = os.environ | {'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}
  script = pathlib.Path(__file__).with_name('pod_collectives.py')
  run = subprocess.run(
    [sys.executable, script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
  )
  assert run.returncode == 0, run.stderr[-3000:]
  return json.loads(run.stdout.splitlines()[-1])


def large(collectives):
  """Returns those of more than 1 MB, as (kind, axes, shape, count)."""
  return {
    (
      c['kind'],
      '+'.join(c['axes']),
      tuple(map(int, re.findall(r'\d+', c['shape'].partition('[')[2]))),
      c['count'],
    )
    for c in collectives
    if c['payload_bytes'] > 1e6
  }


def test_parameters_are_gathered_over_fsdp_in_every_block(found):
  gathers = [row for row in large(found['compiled']) if row[0] == 'all-gather']
  assert {axes for _, axes, _, _ in gathers} == {'fsdp'}
  in_blocks = {shape for _, _, shape, count in gathers if count == 48}
  assert {(6144, 12, 128), (12, 128, 6144), (6144, 6144)} <= {tuple(n for n in s if n > 1) for s in in_blocks}


def test_gradients_are_reduced_over_fsdp_and_activations_over_model(found):
  rows = large(found['compiled'])
  gradients = [row for row in rows if row[1] == 'fsdp' and row[0] in ('all-reduce', 'reduce-scatter')]
  assert any(count == 48 for *_, count in gradients)
  activations = [row for row in rows if row[1] == 'model']
  assert {row[0] for row in activations if row[3] == 48} == {'all-reduce'}
  assert all(row[2][0] == ROWS for row in activations)


def test_nothing_gathers_the_batch(found):
  assert [row for row in large(found['compiled']) if BATCH in row[2]] == []
  assert {row[0] for row in large(found['compiled'])} <= {'all-gather', 'all-reduce', 'reduce-scatter'}


def test_the_expected_volume_is_what_the_compiler_made(found):
  def gathered(collectives):
    return sum(c['payload_bytes'] * c['count'] for c in collectives if c['kind'] == 'all-gather')

  # The CPU backend communicates float32 where accelerators keep bfloat16: twice the bytes.
  assert gathered(found['compiled']) == pytest.approx(2 * gathered(found['expected']), rel=0.05)
