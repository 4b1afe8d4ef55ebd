"""Every recipe in configs/ trains in its smoke form, reproducibly, and its full form is pinned as text."""

import pathlib

import pytest

from vitjax.cli.main import main
from vitjax.config import load_config, recipe_from_json, recipe_to_config, recipe_to_json, render
from vitjax.config.parse import from_mapping
from vitjax.training.metrics import read_metrics

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
GOLDEN = pathlib.Path(__file__).with_name('golden')
RECIPES = sorted(path.stem for path in CONFIGS.glob('*.py'))
FORMS = {
  'pretrain': '',
  'pretrain-imagenet21k-L16': ':data=imagenet21k,model=L/16',
  'pretrain-resnet': ':model=R50x1',
  'quickstart': '',
  'quickstart-transfer': ':stage=transfer,shots=20',
  'quickstart-resnet': ':model=resnet',
  'transfer': ':data=IMAGES,checkpoint=PRETRAINED',
}


@pytest.mark.parametrize('recipe', RECIPES)
def test_smoke_form_trains_with_the_same_losses_each_time(recipe, tmp_path):
  losses = []
  for name in 'ab':
    assert main(['train', f'--config={CONFIGS / recipe}.py:smoke', f'--workdir={tmp_path / name}']) == 0
    rows = read_metrics(tmp_path / name)
    assert rows[-1]['step'] == 4
    losses.append([row['train/loss'] for row in rows])
  assert losses[0] == losses[1]


@pytest.mark.parametrize('form', FORMS)
def test_full_form_is_as_reviewed(form):
  """The golden text shows every effect of a change to a recipe or a default; write it anew with `make golden`."""
  config = load_config(f'{CONFIGS / form.split("-")[0]}.py{FORMS[form]}')
  recipe = from_mapping(config.to_dict(), 'a recipe in configs/')
  assert render(recipe) + '\n' == (GOLDEN / f'{form}.txt').read_text()
  assert recipe_from_json(recipe_to_json(recipe)) == recipe
  assert from_mapping(recipe_to_config(recipe).to_dict(), 'the same recipe') == recipe


def write_golden() -> None:
  """Writes every golden text anew."""
  GOLDEN.mkdir(exist_ok=True)
  for form, arguments in FORMS.items():
    config = load_config(f'{CONFIGS / form.split("-")[0]}.py{arguments}')
    (GOLDEN / f'{form}.txt').write_text(render(from_mapping(config.to_dict(), form)) + '\n')


if __name__ == '__main__':
  write_golden()
