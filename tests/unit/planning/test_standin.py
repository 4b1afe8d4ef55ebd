"""Recipes without their data."""

import pytest
from tiny import tiny_config

from vitjax.config import load_config, source_config
from vitjax.errors import ConfigError
from vitjax.planning.standin import stand_in


def pretraining(*overrides):
  return load_config('configs/pretrain.py', overrides)


def test_published_data_sets_are_known_and_slices_counted():
  found = stand_in(pretraining(), num_devices=8)
  source = found.recipe.data.source
  assert (source.kind, source.num_examples, source.num_classes) == ('synthetic', 1_268_355, 1000)  # 99 %
  assert 'stand-in for imagenet2012' in found.note
  assert found.recipe.evals == {}


def test_arguments_win():
  found = stand_in(pretraining(), num_devices=8, num_examples=10_000, num_classes=7)
  assert (found.recipe.data.source.num_examples, found.recipe.data.source.num_classes) == (10_000, 7)


def test_unknown_lengths_are_asked_for_by_name():
  config = pretraining(('data.source.name', 'my_photos'))
  with pytest.raises(ConfigError) as raised:
    stand_in(config, num_devices=8)
  assert {problem.where for problem in raised.value.problems} == {'--num_examples', '--num_classes'}


def test_steps_need_no_length():
  config = tiny_config(data__source=source_config(kind='tfds', name='my_photos'), model__num_classes=5)
  config.checkpoint.every = '5 steps'
  assert stand_in(config, num_devices=8).recipe.data.source.num_classes == 5


def test_checkpoints_to_start_from_need_not_be_here():
  found = stand_in(
    tiny_config(init__checkpoint='/nowhere', checkpoint__keep_best='val/accuracy_top1'), num_devices=8
  )
  assert found.recipe.init.checkpoint is None


def test_a_recipe_that_does_not_fit_the_devices_is_refused():
  with pytest.raises(ConfigError, match='parallel.fsdp'):
    stand_in(tiny_config(parallel__fsdp=3), num_devices=8)
