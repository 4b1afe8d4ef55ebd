"""Steps that are not finite, losses that jump, weights that must not be saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vitjax.config.schema import ResilienceConfig
from vitjax.errors import EXIT_RUN_FAILED, TrainingError, exit_code
from vitjax.training import build, step, train
from vitjax.training.goodput import Clock
from vitjax.training.metrics import read_metrics
from vitjax.training.numerics import Health, Rollback, StepWatch, passing_over, require_finite
from vitjax.training.programs import Programs

MARK = 3  # a batch whose labels are all this one is poisoned


@pytest.fixture
def poison(monkeypatch):
  """poison(run, steps, factor): the loss and gradients of these steps are multiplied by `factor`."""
  factors = {}
  real = step.loss_and_grads

  def loss_and_grads(objective, params, batch, key, num_micro):
    output, grads = real(objective, params, batch, key, num_micro)
    factor = jnp.where(jnp.all(batch['label'] == MARK), factors['now'], 1.0)
    output = output.__class__(
      output.loss * factor, {n: (t * factor, w) for n, (t, w) in output.metrics.items()}
    )
    return output, jax.tree.map(lambda grad: grad * factor, grads)

  monkeypatch.setattr(step, 'loss_and_grads', loss_and_grads)

  def apply(steps, factor):
    from vitjax.training.build import Run

    factors['now'] = factor
    batches = Run.batches

    def marked(self, start):
      for number, batch in enumerate(batches(self, start), start + 1):
        marked_label = jnp.full_like(batch['label'], MARK)
        yield batch | {'label': marked_label} if number in steps else batch

    monkeypatch.setattr(Run, 'batches', marked)

  return apply


def recipe(**edits):
  return tiny.tiny_recipe(stop_after='10 steps', optim__ema_decay=0.9, **edits)


def test_one_batch_that_is_not_finite_costs_exactly_its_own_update(tmp_path, poison):
  poison({6}, float('nan'))
  run = build(recipe())
  train(run, tmp_path)
  state, batches = run.init_fn(), run.batches(0)
  step_fn = passing_over(Programs(run.step_fns, 0), {6}, Clock())
  for number in range(1, 11):
    state, _ = step_fn(number, state, next(batches))
  batches.close()
  found = tiny.restore_arrays(tmp_path)
  for path, array in tiny.restore_arrays(tmp_path).items():
    assert np.isfinite(array).all(), path
  expected = {'params': state.params, 'opt_state': state.opt_state, 'aux': {'ema_params': state.ema_params}}
  from vitjax.trees import flatten

  for path, array in flatten(expected).items():
    np.testing.assert_array_equal(found[path], array, err_msg=path)
  assert found['aux/step'] == 10
  rows = read_metrics(tmp_path)
  assert [row['train/skipped_steps'] for row in rows] == [0] * 5 + [1] * 5
  assert ['train/loss' in row for row in rows] == [number != 6 for number in range(1, 11)]


def test_numbers_that_are_never_finite_again_stop_the_run(tmp_path, poison):
  poison(range(7, 100), float('inf'))
  with pytest.raises(
    TrainingError, match=r'resilience.max_skipped_in_a_row = 2: expected at least the 3'
  ) as stop:
    train(build(recipe(resilience__max_skipped_in_a_row=2)), tmp_path)
  assert exit_code(stop.value) == EXIT_RUN_FAILED
  for path, array in tiny.restore_arrays(tmp_path).items():
    assert np.isfinite(array).all(), path


def test_skipped_steps_are_also_counted_over_the_whole_run():
  watch = StepWatch(ResilienceConfig(max_skipped=2), Health(skipped=1), Clock())
  for number, finite in enumerate((False, True, False), 5):
    watch.add(number, outcome(1.0, finite=finite))
  with pytest.raises(TrainingError, match=r'resilience.max_skipped = 2: expected at least the 3'):
    watch.settle()


def test_a_spike_is_reported_and_a_rollback_passes_over_its_batches(tmp_path, poison, caplog):
  poison({8}, 100.0)
  edits = {'resilience__on_spike': 'rollback', 'resilience__spike_skip': 5, 'resilience__spike_window': 4}
  run = build(recipe(**edits, checkpoint__every='3 steps'))
  with caplog.at_level('WARNING', 'vitjax'):
    train(run, tmp_path)
  assert 'step 8: the loss, ' in caplog.text
  assert 'times the median of the last 4 steps' in caplog.text
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == list(range(1, 11))
  # The newest checkpoint is step 6; of the steps 4 to 8 only 7 and 8 come after it.
  assert [number for number, row in enumerate(rows, 1) if 'train/loss' not in row] == [7, 8]
  assert rows[-1]['train/skipped_steps'] == 2
  state, batches = run.init_fn(), run.batches(0)
  step_fn = passing_over(Programs(run.step_fns, 0), {7, 8}, Clock())
  for number in range(1, 11):
    state, _ = step_fn(number, state, next(batches))
  batches.close()
  found = tiny.restore_arrays(tmp_path)
  np.testing.assert_array_equal(found['params/head/kernel'], state.params['head']['kernel'])


def outcome(loss, *, finite=True, update_norm=1.0):
  return {'finite': jnp.asarray(finite), 'loss': jnp.float32(loss), 'update_norm': jnp.float32(update_norm)}


def test_the_median_is_that_of_accepted_steps():
  watch = StepWatch(
    ResilienceConfig(spike_window=4, spike_factor=3.0, on_spike='rollback', spike_skip=2), Health(), Clock()
  )
  for number, loss in enumerate([100.0, 1.0, float('nan'), 1.5, 1.0, 2.9], 1):
    watch.add(number, outcome(loss, finite=np.isfinite(loss)))
  watch.settle()
  assert watch.health.losses == pytest.approx([1.0, 1.5, 1.0, 2.9])
  watch.add(7, outcome(4.0))
  with pytest.raises(Rollback) as back:
    watch.settle()
  assert list(back.value.steps) == [6, 7]


def test_an_update_that_is_not_finite_stops_at_once():
  watch = StepWatch(ResilienceConfig(), Health(), Clock())
  watch.add(3, outcome(1.0, update_norm=np.inf))
  with pytest.raises(TrainingError, match='step 3 = not finite: expected a finite update'):
    watch.settle()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
  run = build(tiny.tiny_recipe())
  state = run.init_fn()
  require_finite(run.mesh, state, 5)
  state.params['head']['bias'] = state.params['head']['bias'].at[1].set(jnp.nan)
  with pytest.raises(TrainingError, match=r'(?s)step 5 is not saved.*params/head/bias = not finite'):
    require_finite(run.mesh, state, 5)
