"""Learning-rate schedules against values worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.durations import Duration
from vitjax.config.schema import OptimConfig
from vitjax.errors import ConfigError
from vitjax.optim import make_schedule


def steps(n):
  return Duration(n, 'steps')


def schedule_of(total=100, batch_size=10, num_examples=100, **knobs):
  config = OptimConfig(**{'peak_lr': 0.8, 'warmup': steps(20), **knobs})
  return make_schedule(config, total_steps=total, batch_size=batch_size, num_examples=num_examples)


# Ten steps each: peak 0.8, 20 warm-up steps, 100 in all. sqrt(2)/2 = 0.70710678.
VALUES = {
  'constant': (
    {},
    {0: 0, 1: 0.04, 10: 0.4, 19: 0.76, 20: 0.8, 21: 0.8, 50: 0.8, 99: 0.8, 100: 0.8, 150: 0.8},
  ),
  'constant with cooldown': (
    {'schedule': 'constant', 'cooldown': steps(40)},
    {0: 0, 5: 0.2, 20: 0.8, 59: 0.8, 60: 0.8, 61: 0.78, 70: 0.6, 80: 0.4, 99: 0.02, 100: 0, 130: 0},
  ),
  'linear': (
    {'end_lr': 0.2},
    {0: 0, 15: 0.6, 20: 0.8, 30: 0.725, 40: 0.65, 60: 0.5, 80: 0.35, 90: 0.275, 100: 0.2, 120: 0.2},
  ),
  'cosine': (
    {},
    {
      0: 0,
      19: 0.76,
      20: 0.8,
      40: 0.4 * 1.70710678,
      60: 0.4,
      80: 0.4 * 0.29289322,
      30: 0.4 * 1.92387953,
      90: 0.4 * 0.07612047,
      100: 0,
      110: 0,
    },
  ),
  'cosine to an end': (
    {'schedule': 'cosine', 'end_lr': 0.2},
    {
      0: 0,
      10: 0.4,
      20: 0.8,
      40: 0.2 + 0.3 * 1.70710678,
      60: 0.5,
      80: 0.2 + 0.3 * 0.29289322,
      30: 0.2 + 0.3 * 1.92387953,
      90: 0.2 + 0.3 * 0.07612047,
      100: 0.2,
      500: 0.2,
    },
  ),
  'rsqrt': (
    {'rsqrt_timescale': steps(10)},
    {
      0: 0,
      10: 0.4,
      20: 0.8,
      21: 0.8 / 1.0488088,
      30: 0.8 / 1.41421356,
      50: 0.4,
      70: 0.8 / 2.44948974,
      80: 0.8 / 2.64575131,
      95: 0.8 / 2.91547595,
      100: 0.8 / 3,
    },
  ),
  'rsqrt with cooldown': (
    {'schedule': 'rsqrt', 'rsqrt_timescale': steps(10), 'cooldown': steps(50)},
    {
      0: 0,
      4: 0.16,
      20: 0.8,
      30: 0.8 / 1.41421356,
      49: 0.8 / 1.97484177,
      50: 0.4,
      60: 0.32,
      75: 0.2,
      99: 0.008,
      100: 0,
    },
  ),
  'staircase': (
    {'stairs': (steps(30), Duration(6, 'epochs'), Duration(900, 'examples'))},
    {0: 0, 10: 0.4, 20: 0.8, 29: 0.8, 30: 0.08, 59: 0.08, 60: 0.008, 89: 0.008, 90: 0.0008, 100: 0.0008},
  ),
}


@pytest.mark.parametrize('name', VALUES)
def test_values_by_hand(name):
  knobs, values = VALUES[name]
  schedule = schedule_of(**{'schedule': name, **knobs})
  assert len(values) >= 10
  computed = jax.jit(jax.vmap(schedule))(jnp.asarray(list(values), jnp.int32))
  np.testing.assert_allclose(computed, list(values.values()), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize('name', VALUES)
def test_host_and_traced_values_agree(name):
  schedule = schedule_of(**{'schedule': name, **VALUES[name][0]})
  for step in (0, 20, 77):
    assert schedule(step).dtype == jnp.float32
    assert schedule(step).shape == ()
    np.testing.assert_allclose(schedule(step), jax.jit(schedule)(jnp.int32(step)), rtol=1e-6)


@pytest.mark.parametrize('name', ['constant', 'linear', 'cosine', 'rsqrt'])
def test_no_warmup_starts_at_the_peak(name):
  schedule = schedule_of(schedule=name, warmup=steps(0))
  np.testing.assert_allclose(schedule(0), 0.8, rtol=1e-6)


def test_bit_hyperrule_divides_by_ten_at_each_stair():
  """BiT: 10,000 steps, warm-up 500, a tenth from steps 3,000, 6,000 and 9,000 on."""
  knobs = {'peak_lr': 0.003, 'warmup': steps(500), 'stairs': (steps(3000), steps(6000), steps(9000))}
  schedule = schedule_of(total=10_000, schedule='staircase', **knobs)
  at = {250: 0.0015, 500: 0.003, 2999: 0.003, 3000: 3e-4, 5999: 3e-4, 6000: 3e-5, 9000: 3e-6, 9999: 3e-6}
  np.testing.assert_allclose([float(schedule(s)) for s in at], list(at.values()), rtol=1e-5)


def test_durations_become_steps():
  """100 examples in batches of 10: two epochs are 20 steps, 50 examples are 5."""
  schedule = schedule_of(schedule='constant', warmup=Duration(2, 'epochs'), cooldown=Duration(50, 'examples'))
  np.testing.assert_allclose([float(schedule(s)) for s in (10, 20, 95, 99)], [0.4, 0.8, 0.8, 0.16], rtol=1e-5)


def test_a_run_that_is_all_warmup():
  schedule = schedule_of(total=20)
  np.testing.assert_allclose([float(schedule(s)) for s in (0, 10, 19)], [0, 0.4, 0.76], rtol=1e-6)


@pytest.mark.parametrize('name', VALUES)
def test_a_zero_peak_is_zero_throughout(name):
  schedule = schedule_of(**{'schedule': name, **VALUES[name][0], 'end_lr': 0.0, 'peak_lr': 0.0})
  assert [float(schedule(s)) for s in (0, 20, 60, 100)] == [0, 0, 0, 0]


def test_large_steps_do_not_overflow():
  schedule = schedule_of(total=2_000_000_000, schedule='linear', warmup=steps(0))
  np.testing.assert_allclose(jax.jit(schedule)(jnp.int32(1_500_000_000)), 0.2, rtol=1e-5)


@pytest.mark.parametrize(
  ('knobs', 'wheres'),
  [
    ({'warmup': steps(101)}, ['optim.warmup']),
    ({'schedule': 'constant', 'cooldown': steps(81)}, ['optim.cooldown']),
    ({'end_lr': 0.9}, ['optim.end_lr']),
    ({'end_lr': 0.9, 'warmup': steps(101)}, ['optim.warmup', 'optim.end_lr']),
    ({'schedule': 'staircase'}, ['optim.stairs']),
    ({'schedule': 'staircase', 'stairs': (steps(10), steps(50))}, ['optim.stairs[0]']),
    ({'schedule': 'staircase', 'stairs': (steps(50), steps(50))}, ['optim.stairs[1]']),
    (
      {'schedule': 'staircase', 'stairs': (steps(50), steps(40), steps(100))},
      ['optim.stairs[1]', 'optim.stairs[2]'],
    ),
  ],
)
def test_misfits_are_all_reported(knobs, wheres):
  with pytest.raises(ConfigError) as caught:
    schedule_of(**knobs)
  assert [problem.where for problem in caught.value.problems] == wheres


def test_the_warmup_error_names_both_lengths():
  with pytest.raises(ConfigError, match=r'optim\.warmup = 101 steps: expected at most .* 100 steps'):
    schedule_of(warmup=steps(101))
