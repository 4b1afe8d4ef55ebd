"""Every moment belongs to one phase."""

import time

import pytest
import tiny

from vitjax.training import build, train
from vitjax.training.goodput import Clock, closing_table, goodput, input_share
from vitjax.training.metrics import read_metrics


def test_the_phases_sum_to_the_wall_time():
  clock = Clock(time.perf_counter() - 0.5)
  clock.enter('step')
  for _ in clock.waiting_for((time.sleep(0.02) for _ in range(5)), 'input_wait'):
    with clock.during('evaluation'):
      time.sleep(0.01)
      with clock.during('save'):
        time.sleep(0.01)
  spent = clock.seconds()
  assert sum(spent.values()) == pytest.approx(clock.wall_s, rel=1e-3)
  assert spent['start_up'] == pytest.approx(0.5, abs=0.01)
  assert spent['input_wait'] == pytest.approx(0.1, abs=0.05)
  assert spent['save'] == pytest.approx(0.05, abs=0.03)
  assert spent['evaluation'] == pytest.approx(0.05, abs=0.03)


def test_a_phase_ends_when_its_block_raises():
  clock = Clock()
  with pytest.raises(KeyError), clock.during('save'):
    raise KeyError
  assert clock.phase == 'start_up'


def test_the_table_says_when_the_input_is_the_limit():
  clock = Clock()
  clock.enter('input_wait')
  time.sleep(0.05)
  clock.enter('step')
  time.sleep(0.02)
  table = closing_table(clock)
  share = input_share(clock.seconds())
  assert 0.5 < share < 0.9
  assert 'of the training time waits for images; see vitjax bench --input' in table
  assert f'goodput {goodput(clock.seconds()):.1%}'[:9] in table


def test_steps_done_again_are_no_goodput(tmp_path, monkeypatch):
  train(build(tiny.tiny_recipe(stop_after='5 steps')), tmp_path)
  first = read_metrics(tmp_path)
  assert 0 < first[-1]['perf/goodput'] < 1
  # Rows of steps 6 and 7 that no checkpoint holds, as after a kill.
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 6}\n{"step": 7}\n')
  clocks = []
  real = Clock.__init__
  monkeypatch.setattr(Clock, '__init__', lambda self, *a: (clocks.append(self), real(self, *a))[1])
  train(build(tiny.tiny_recipe(stop_after='9 steps')), tmp_path)
  spent = clocks[0].seconds()
  assert spent['replay'] > 0
  assert spent['step'] > 0
  assert [row['step'] for row in read_metrics(tmp_path)] == list(range(1, 10))
  assert 'steps done again' in closing_table(clocks[0])
