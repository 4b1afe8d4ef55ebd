"""Every optimiser trains, on any mesh alike, and goes on bit for bit after a restart; durations in all three units."""

import jax
import numpy as np
import pytest
import tiny

from vitjax.config.durations import Duration
from vitjax.config.knobs import walk
from vitjax.config.values import ValueType
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics

CASES = {
  'adafactor': {'optim__name': 'adafactor', 'optim__factor_min_dim': 8},
  'lamb': {'optim__name': 'lamb', 'optim__peak_lr': 0.02},
  'lion': {'optim__name': 'lion', 'optim__b2': 0.99, 'optim__peak_lr': 2e-3},
  'muon': {'optim__name': 'muon', 'optim__momentum': 0.95},
  'gsam': {'optim__sam_rho': 0.02, 'optim__sam_rho_end': 0.01, 'optim__gsam_alpha': 0.3},
}


def losses(devices, **edits):
  run = build(tiny.tiny_recipe(**edits), devices=devices)
  state, values, batches = run.init_fn(), [], run.batches(0)
  for _ in range(12):
    state, metrics = run.step_fn(state, next(batches))
    values.append(float(metrics['loss']))
  return np.array(values), state


@pytest.mark.slow
@pytest.mark.parametrize('case', ['adafactor', 'muon', 'gsam'])
def test_losses_fall_and_are_the_same_on_a_mesh(case):
  alone, _ = losses(jax.devices()[:1], **CASES[case])
  split, state = losses(jax.devices(), parallel__fsdp=4, parallel__model=2, **CASES[case])
  assert alone[-1] < 0.97 * alone[0]
  # Newton-Schulz steps enlarge the rounding of another order of summation.
  np.testing.assert_allclose(split, alone, rtol=1e-3 if case == 'muon' else 2e-5)
  if case == 'adafactor':
    assert any(
      leaf.ndim == 1 and leaf.shape != (1,) and not leaf.sharding.is_fully_replicated
      for leaf in jax.tree.leaves(state.opt_state)
    ), 'row and column means are split'


@pytest.mark.slow
@pytest.mark.parametrize('case', [name for name in CASES if name != 'gsam'])
def test_a_resumed_run_equals_an_uninterrupted_one(case, tmp_path):
  edits = {
    **CASES[case],
    'total': '12 steps',
    'checkpoint__every': '6 steps',
    'optim__momentum_dtype': 'bfloat16',
  }
  device = jax.devices()[:1]
  train(build(tiny.tiny_recipe(**edits), devices=device), tmp_path / 'whole')
  train(build(tiny.tiny_recipe(stop_after='6 steps', **edits), devices=device), tmp_path / 'parts')
  train(build(tiny.tiny_recipe(**edits), devices=device), tmp_path / 'parts')
  whole, parts = (tiny.restore_arrays(tmp_path / name) for name in ('whole', 'parts'))
  loss = [row['train/loss'] for row in read_metrics(tmp_path / 'whole')]
  assert loss[-1] < 0.97 * loss[0]
  assert whole.keys() == parts.keys()
  for path in whole:
    np.testing.assert_array_equal(whole[path], parts[path], err_msg=path)


UNITS = ('8 steps', '2 epochs', '128 examples')  # the same length: 64 examples in batches of 16


@pytest.fixture(scope='module')
def runs():
  """A run per unit, every duration of the recipe given in it; two steps apart where they must differ."""
  made = []
  for length in UNITS:
    value, unit = length.split()
    double, half, quarter = (f'{float(value) * factor:g} {unit}' for factor in (2, 0.5, 0.25))
    edits = {
      'total': double, 'stop_after': length, 'checkpoint__every': half, 'log__every': quarter,
      'resilience__replica_check_every': length, 'evals__val__every': half, 'optim__warmup': quarter,
    }  # fmt: skip
    schedules = [
      {'optim__schedule': 'rsqrt', 'optim__rsqrt_timescale': length, 'optim__cooldown': half},
      {'optim__schedule': 'staircase', 'optim__stairs': (half, length)},
    ]
    made.append([build(tiny.tiny_recipe(**edits, **schedule)) for schedule in schedules])
  return made


def test_every_duration_may_be_steps_epochs_or_examples(runs):
  rates = [[[float(run.schedule(step)) for step in range(17)] for run in pair] for pair in runs]
  assert rates[0] == rates[1] == rates[2]
  assert len(set(rates[0][0])) > 10
  assert len(set(rates[0][1])) == 5  # 0, half and all of the peak, and two stairs
  lengths = [
    (r.total_steps, r.stop_step, r.save_every, r.log_every, r.replica_check_every, r.eval_every)
    for r, _ in runs
  ]
  assert lengths[0] == lengths[1] == lengths[2] == (16, 8, 4, 2, 8, {'val': 4})


def test_no_duration_is_left_out_above():
  durations = {
    path for path, knob in walk() if knob.type.base is Duration or ValueType(Duration) in knob.type.items
  }
  assert durations == {
    'total', 'stop_after', 'checkpoint.every', 'log.every', 'resilience.replica_check_every',
    'evals.<name>.every', 'optim.warmup', 'optim.rsqrt_timescale', 'optim.cooldown', 'optim.stairs',
  }  # fmt: skip
