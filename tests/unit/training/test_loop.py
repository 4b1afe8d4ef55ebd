"""The loop: what it writes, when it stops, and that a resumed run continues exactly."""

import json

import jax
import numpy as np
import pytest
import tiny
from tiny_loaded import tiny_loaded

import vitjax
from vitjax.errors import CheckpointError, TrainingError
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics
from vitjax.trees import flatten


def rows_without_speed(workdir):
  return [{k: v for k, v in row.items() if not k.startswith('perf/')} for row in read_metrics(workdir)]


def test_stop_after_and_resume_equals_an_uninterrupted_run(tmp_path):
  train(build(tiny.tiny_recipe()), tmp_path / 'whole')
  train(build(tiny.tiny_recipe(stop_after='10 steps')), tmp_path / 'halves')
  train(build(tiny.tiny_recipe()), tmp_path / 'halves')
  assert rows_without_speed(tmp_path / 'whole') == rows_without_speed(tmp_path / 'halves')
  whole, halves = tiny.restore_arrays(tmp_path / 'whole'), tiny.restore_arrays(tmp_path / 'halves')
  for path, array in whole.items():
    np.testing.assert_array_equal(array, halves[path], err_msg=path)


def test_a_non_finite_loss_stops_the_run_and_never_reaches_a_checkpoint(tmp_path):
  recipe = tiny.tiny_recipe(
    optim__peak_lr=1e30,
    optim__clip_norm=None,
    optim__name='sgd',
    optim__weight_decay=0.0,
    optim__warmup='8 steps',
  )
  with pytest.raises(TrainingError, match=r'step \d+ = not finite'):
    train(build(recipe), tmp_path)
  for row in read_metrics(tmp_path):
    assert all(np.isfinite(value) for value in row.values())
  steps = [path for path in (tmp_path / 'checkpoints').iterdir() if path.name.isdigit()]
  for step in steps:
    for path, array in tiny.restore_arrays(step).items():
      assert np.isfinite(array).all(), path


def test_metrics_hold_one_row_a_step_with_evaluations(tmp_path):
  final = train(build(tiny.tiny_recipe()), tmp_path)
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == list(range(1, 21))
  assert ['val/loss' in row for row in rows] == [row['step'] % 10 == 0 for row in rows]
  assert final == {k: v for k, v in rows[-1].items() if k.startswith('val/')}
  assert final['val/num_examples'] == 24


def test_other_data_than_before_is_refused_on_resume(tmp_path):
  train(build(tiny.tiny_recipe(stop_after='5 steps')), tmp_path)
  changed = tiny.tiny_config()
  changed.data.source.num_examples = 80
  from vitjax.config import parse_recipe

  with pytest.raises(CheckpointError, match='training data changed'):
    train(build(parse_recipe(changed)), tmp_path)


def test_resuming_wins_over_init(tmp_path):
  train(build(tiny.tiny_recipe(stop_after='5 steps')), tmp_path / 'old')
  train(build(tiny.tiny_recipe(stop_after='5 steps', seed=1)), tmp_path / 'mine')
  mine = tiny.restore_arrays(tmp_path / 'mine')
  train(
    build(tiny.tiny_recipe(stop_after='5 steps', seed=1, init__checkpoint=str(tmp_path / 'old'))),
    tmp_path / 'mine',
  )
  for path, array in tiny.restore_arrays(tmp_path / 'mine').items():
    np.testing.assert_array_equal(array, mine[path], err_msg=path)


def test_init_from_a_checkpoint_takes_its_weights_at_another_resolution(tmp_path):
  train(build(tiny.tiny_recipe(stop_after='5 steps')), tmp_path / 'old')
  old = tiny.restore_arrays(tmp_path / 'old')
  run = build(tiny.tiny_recipe(data__image_size=(24, 16), init__checkpoint=str(tmp_path / 'old')))
  from vitjax.checkpoint import Store
  from vitjax.training.resume import restore_or_init

  with Store(tmp_path / 'fresh') as store:
    state, progress = restore_or_init(run, store)
  assert progress.step == 0
  kernel = state.params['Transformer']['encoderblock_1']['MlpBlock_0']['Dense_0']['kernel']
  np.testing.assert_array_equal(kernel, old['params/Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel'])
  assert state.params['Transformer']['posembed_input']['pos_embedding'].shape == (1, 1 + 6 * 4, 32)
  assert not np.any(jax.device_get(state.params['head']['kernel']))


@pytest.mark.parametrize('format', ['npz', pytest.param('huggingface', marks=pytest.mark.slow)])
def test_weights_of_another_framework_start_a_run(format, tmp_path):
  path = tmp_path / ('old.npz' if format == 'npz' else 'old')
  vitjax.export(tiny_loaded(gelu='tanh' if format == 'npz' else 'exact'), path, format=format)
  start = vitjax.load(path, image_size=24, num_classes=4, head='reset')
  sizes = {
    f'model__{name}': getattr(start.config, name) for name in ('width', 'depth', 'mlp_dim', 'num_heads')
  }
  knobs = {f'model__{name}': getattr(start.config, name) for name in ('gelu', 'norm_eps')}
  recipe = tiny.tiny_recipe(
    **sizes,
    **knobs,
    data__image_size=(24, 24),
    init__checkpoint=str(path),
    init__position_resize='zoom' if format == 'npz' else 'bicubic',
    optim__peak_lr=0.0,  # so that what was loaded is what is saved
    total='2 steps',
    evals={},
  )
  train(build(recipe), tmp_path / 'new')
  saved = flatten(vitjax.load(tmp_path / 'new').params)
  for name, array in flatten(start.params).items():
    np.testing.assert_array_equal(saved[name], array, err_msg=name)
  assert 'head/kernel' in saved
  assert '1 resized, 2 reset' in (tmp_path / 'new' / 'init_report.txt').read_text()
