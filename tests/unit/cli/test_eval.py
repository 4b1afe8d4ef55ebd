"""What evaluation asks of a stored recipe: nothing of what training alone reads."""

import dataclasses

import pytest
import tiny
import tiny_loaded

from vitjax import exporting
from vitjax.cli.eval import stand_in, without_training
from vitjax.cli.main import main
from vitjax.config import evaluator, evaluators, parse_recipe, recipe_to_config, source_config
from vitjax.errors import ConfigError


def stored(tmp_path, **edits):
  """A recipe whose files were all there, on eight devices, when it was trained."""
  (tmp_path / 'images').mkdir()
  (tmp_path / 'old').mkdir()
  config = tiny.tiny_config(
    data__source=source_config(kind='image_folder', path=str(tmp_path / 'images')),
    init__checkpoint=str(tmp_path / 'old'),
    parallel__fsdp=4,
    checkpoint__keep_best='val/accuracy_top1',
    report__evals=('val',),
    **edits,
  )
  recipe = parse_recipe(config, num_devices=8)
  for folder in ('images', 'old'):
    (tmp_path / folder).rmdir()
  return recipe


@pytest.mark.parametrize('num_devices', [1, 3])
@pytest.mark.parametrize('teaches', [False, True])
def test_files_and_devices_of_training_may_be_gone(teaches, num_devices, tmp_path):
  edits = {'objective__name': 'distillation', 'distill__checkpoint': str(tmp_path)} if teaches else {}
  recipe = stored(tmp_path, **edits)
  with pytest.raises(ConfigError) as caught:
    parse_recipe(recipe_to_config(recipe), num_devices=num_devices)
  assert {'data.source.path', 'init.checkpoint', 'parallel.fsdp'} <= {p.where for p in caught.value.problems}
  config = recipe_to_config(without_training(recipe, num_devices=num_devices))
  source = source_config(kind='digits', split='test[:30]')
  config.evals = evaluators(
    few=evaluator(kind='fewshot', source=source, train_source=source_config(source, split='train')),
    other=evaluator(source=source, batch_size=24),
  )
  config.evals.few.batch_size = 24
  config.data.source = stand_in(config.evals)
  found = parse_recipe(config, num_devices=num_devices)
  assert found.model == recipe.model
  assert found.data.source.split == 'test[:30]'
  assert found.data == dataclasses.replace(recipe.data, source=found.data.source, batch_size=num_devices)


def test_weights_without_a_recipe_are_refused_with_the_next_step(tmp_path, capsys):
  exporting.export(tiny_loaded.tiny_loaded(), tmp_path / 'weights.npz')
  assert main(['eval', f'--checkpoint={tmp_path}/weights.npz']) != 0
  assert 'vitjax probe' in capsys.readouterr().err
