"""The real step compiled for an H100 that is not there: fused attention, bfloat16 products, no communication."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
SCRIPT = ROOT / 'benchmarks' / 'h100_check.py'
NO_PLUGIN = 77

HLO = """
ENTRY %main (x: bf16[8,4]) -> f32[8,2] {
  %x = bf16[8,4]{1,0} parameter(0)
  %w = bf16[4,4]{1,0} parameter(1)
  %y = bf16[8,4]{1,0} dot(%x, %w), lhs_contracting_dims={1}, metadata={op_name="jit(train_step)/mlp/dot_general"}
  %z = f32[8,4]{1,0} convert(%y)
  %v = f32[4,2]{1,0} parameter(2)
  %a = (bf16[8,4]{1,0}, u8[0]{0}) custom-call(%y), custom_call_target="__cudnn$fmhaSoftmax"
  %b = (bf16[8,4]{1,0}, u8[0]{0}) custom-call(%y), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  ROOT %d = f32[8,2]{1,0} dot(%z, %v), lhs_contracting_dims={1}, metadata={op_name="jit(train_step)/head/dot_general"}
}
"""


@pytest.fixture(scope='module')
def check():
  spec = importlib.util.spec_from_file_location('h100_check', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  sys.modules['h100_check'] = module
  spec.loader.exec_module(module)
  yield module
  del sys.modules['h100_check']


def test_a_sound_step_has_no_problems(check):
  found = check.inspect(HLO)
  assert (found.fused_forward, found.fused_backward, found.num_products) == (1, 1, 2)
  assert found.float32_products == ('jit(train_step)/head/dot_general',)
  assert check.problems_of(found, depth=1) == []


@pytest.mark.parametrize(
  ('old', 'new', 'part'),
  [
    ('__cudnn$fmhaSoftmaxBackward', 'other', 'backward pass'),
    ('__cudnn$fmhaSoftmax"', 'other"', 'forward pass'),
    ('%x = bf16', '%x = f32', ''),
    ('/head/', '/mlp/', 'outside the head'),
    ('convert(%y)', 'all-gather(%y)', 'all-gather'),
    (' dot(', ' other(', 'no matrix products'),
  ],
)
def test_what_would_be_wrong_is_found(check, old, new, part):
  problems = check.problems_of(check.inspect(HLO.replace(old, new)), depth=1)
  assert (part in ' '.join(problems)) if part else problems == []


@pytest.mark.slow
def test_the_step_compiled_for_an_h100():
  environment = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'JAX_NUMPY_RANK_PROMOTION')}
  command = [sys.executable, str(SCRIPT), '--model=B/16', '--batch=64', '--depth=2']
  done = subprocess.run(
    command, env=environment | {'PYTHONPATH': str(ROOT)}, capture_output=True, text=True, timeout=300
  )
  if done.returncode == NO_PLUGIN:
    pytest.skip(f'no CUDA plugin to compile with: {done.stdout.strip()}')
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'fused attention calls: 2 forward, 2 backward' in done.stdout
