"""Training with patches of many sizes: what is drawn, and that a resumed run goes on exactly."""

import jax
import numpy as np
import pytest
import tiny

from vitjax.config import evaluator, evaluators, source_config
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics
from vitjax.training.programs import Programs, program_at

TEST = source_config(kind='synthetic', num_examples=24, num_classes=4)


def flexible(**edits):
  return tiny.tiny_recipe(
    **{'model__patch_sizes': (4, 8), 'model__depth': 1, 'total': '8 steps', 'evals': evaluators(), **edits}
  )


def test_draws_are_even_and_depend_on_seed_and_step_alone():
  drawn = [program_at(step, seed=0, num_programs=3) for step in range(1, 3001)]
  assert np.abs(np.bincount(drawn) / 3000 - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 3000)
  assert drawn[100:200] == [program_at(step, seed=0, num_programs=3) for step in range(101, 201)]
  assert drawn[:100] != [program_at(step, seed=1, num_programs=3) for step in range(1, 101)]
  assert [program_at(step, seed=5, num_programs=1) for step in range(3)] == [0, 0, 0]


def test_each_step_runs_the_program_that_was_drawn():
  programs = Programs([lambda s, b, i=i: (i, b) for i in range(3)], seed=7)
  for step in range(1, 20):
    assert programs(step, None, None)[0] == program_at(step, seed=7, num_programs=3)


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path):
  assert {program_at(step, seed=0, num_programs=2) for step in range(6, 9)} == {0, 1}, 'choose another seed'
  train(build(flexible()), tmp_path / 'whole')
  train(build(flexible(stop_after='5 steps')), tmp_path / 'halves')
  train(build(flexible()), tmp_path / 'halves')
  whole, halves = tiny.restore_arrays(tmp_path / 'whole'), tiny.restore_arrays(tmp_path / 'halves')
  assert whole.keys() == halves.keys()
  for path, array in whole.items():
    np.testing.assert_array_equal(array, halves[path], err_msg=path)
  losses = [
    [row['train/loss'] for row in read_metrics(tmp_path / name) if 'train/loss' in row]
    for name in ('whole', 'halves')
  ]
  assert losses[0] == losses[1]


def test_programs_differ_in_tokens_and_share_one_state():
  run = build(flexible(model__patch_sizes=(8, 2, 4)))
  lowered = [step.lower(run.abstract_state, run.abstract_batch()) for step in run.step_fns]
  flops = [program.cost_analysis()['flops'] for program in lowered]
  assert flops[0] > 2 * flops[1] > flops[2] * 2
  states = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), program.out_info[0]) for program in lowered]
  assert states[0] == states[1] == states[2]


def test_a_model_is_judged_at_several_sizes_in_one_pass_each():
  knobs = {'image_sizes': (16, 24), 'patch_sizes': (4, 8), 'resize_short': 18}
  evals = evaluators(val=evaluator(source=TEST, batch_size=16, **knobs))
  run = build(tiny.tiny_recipe(evals=evals))
  parts = run.evaluators['val'].parts
  assert list(parts) == ['_16px_patch4', '_16px_patch8', '_24px_patch4', '_24px_patch8']
  with parts['_24px_patch8'].batches() as batches:
    assert next(batches)['image'].shape == (16, 24, 24, 3)
  params = run.init_fn().params
  found = run.evaluators['val'].run(params)
  assert found['num_examples'] == 24
  alone = build(
    tiny.tiny_recipe(evals=evaluators(val=evaluator(source=TEST, batch_size=16, resize_short=18)))
  )
  plain = alone.evaluators['val'].run(params)
  assert {f'{name}_16px_patch4': value for name, value in plain.items() if name != 'num_examples'} == {
    name: value for name, value in found.items() if name.endswith('_16px_patch4')
  }
