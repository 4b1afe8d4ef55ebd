"""Every example counts once, whatever the batch size and the number of devices."""

import jax
import pytest
import tiny

from vitjax.config import evaluator, evaluators, source_config
from vitjax.training import build


def evaluate(num_devices, batch_size):
  devices = jax.devices()[:num_devices]
  source = source_config(kind='mnist5k', split='all[:1000]')
  config = evaluators(val=evaluator(source=source, batch_size=batch_size, every='10 steps'))
  recipe = tiny.tiny_recipe(evals=config, data__source=source_config(kind='mnist5k', split='all[1000:]'))
  run = build(recipe, devices=devices)
  state = run.init_fn()
  # The head starts at zero, where every class ties: random weights make the accuracy mean something.
  kernel = jax.random.normal(jax.random.key(7), state.params['head']['kernel'].shape)
  state.params['head']['kernel'] = jax.device_put(kernel, state.params['head']['kernel'].sharding)
  return run.evaluators['val'].run(state.params)


def test_a_thousand_examples_at_batch_96_on_one_and_eight_devices():
  one = evaluate(1, 96)
  eight = evaluate(8, 96)
  assert one['num_examples'] == eight['num_examples'] == 1000
  assert one['accuracy_top1'] == eight['accuracy_top1']
  assert one['accuracy_top5'] == eight['accuracy_top5']
  assert one['loss'] == pytest.approx(eight['loss'], rel=1e-6)
  assert 0 < one['accuracy_top1'] < one['accuracy_top5'] < 1


def test_the_batch_size_changes_nothing():
  assert evaluate(1, 96)['accuracy_top1'] == evaluate(1, 1000)['accuracy_top1']
