"""Every recipe in configs/ trains in its smoke form, reproducibly, and its full form is pinned as text."""

import pathlib

import pytest

from vitjax.cli.main import main
from vitjax.config import load_config, load_recipe, recipe_from_json, recipe_to_config, recipe_to_json, render
from vitjax.config.parse import from_mapping
from vitjax.training.metrics import read_metrics

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
GOLDEN = pathlib.Path(__file__).with_name('golden')
RECIPES = sorted(path.stem for path in CONFIGS.glob('*.py'))
FORMS = {
  'pretrain': '',
  'pretrain-imagenet21k-L16': ':data=imagenet21k,model=L/16',
  'pretrain-resnet': ':model=R50x1',
  'pretrain-jft-H14': ':data=jft,model=H/14',
  'augreg-i21k-B32': ':model=B/32',
  'augreg-i1k-S16-reg': ':model=S/16,data=imagenet,reg',
  'vit_s16': '',
  'bit-i1k': '',
  'bit-i21k': ':data=imagenet21k,model=R101x3',
  'distill-imagenet': ':teacher=TEACHER',
  'distill-pets': ':data=pets,teacher=TEACHER,patience=medium',
  'finetune-pets': ':checkpoint=PRETRAINED',
  'finetune-imagenet-final': ':data=imagenet,checkpoint=PRETRAINED,lr=0.03,final',
  'finetune-augreg-cifar100': ':rule=augreg,data=cifar100,model=B/32,checkpoint=PRETRAINED',
  'finetune-bit-cifar10': ':rule=bit,data=cifar10,model=R50x1,checkpoint=PRETRAINED',
  'vtab-caltech101': ':checkpoint=PRETRAINED',
  'vtab-clevr_count-tune': ':task=clevr_count,tune,checkpoint=PRETRAINED',
  'fewshot': ':imagenet',
  'quickstart': '',
  'quickstart-transfer': ':stage=transfer,shots=20',
  'quickstart-resnet': ':model=resnet',
  'transfer': ':data=IMAGES,checkpoint=PRETRAINED',
  'naflex-pets': ':data=pets,checkpoint=PRETRAINED',
}


# Recipes whose smoke form shrinks them in the same way (config/smoke.py): pretrain stands for them in the default run.
ALIKE = ('augreg', 'bit', 'distill', 'fewshot', 'finetune', 'naflex', 'vit_s16', 'vtab')


@pytest.mark.parametrize('recipe', [name for name in RECIPES if name not in ALIKE])
def test_smoke_form_trains_with_the_same_losses_each_time(recipe, tmp_path):
  losses = []
  for name in 'ab':
    assert main(['train', f'--config={CONFIGS / recipe}.py:smoke', f'--workdir={tmp_path / name}']) == 0
    rows = read_metrics(tmp_path / name)
    assert rows[-1]['step'] == 4
    losses.append([row['train/loss'] for row in rows])
  assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize('recipe', [*ALIKE, 'finetune-bit'])
def test_smoke_form_of_the_others_trains(recipe, tmp_path, capsys):
  name, _, rule = recipe.partition('-')
  spec = f'{CONFIGS / name}.py:smoke' + (f',rule={rule},model=R50x1' if rule else '')
  if recipe == 'distill':
    teacher = tmp_path / 'teacher'
    assert main(['train', f'--config={CONFIGS / "bit.py"}:smoke', f'--workdir={teacher}']) == 0
    spec += f',teacher={teacher}'
  assert main(['train', f'--config={spec}', f'--workdir={tmp_path / "run"}']) == 0
  last = read_metrics(tmp_path / 'run')[-1]
  assert last['step'] == 4
  if recipe == 'distill':
    assert 'train/agreement' in last
    teacher.rename(tmp_path / 'gone')
    assert main(['eval', f'--checkpoint={tmp_path / "run"}']) == 0
    assert f'val/loss = {last["val/loss"]:.4g}'[:-1] in capsys.readouterr().out
  if recipe == 'fewshot':
    assert {'pets/accuracy_1shot', 'pets/accuracy_2shot'} <= last.keys()


@pytest.mark.parametrize('recipe', ALIKE)
def test_smoke_form_is_a_sound_recipe(recipe, tmp_path):
  forms = {
    'finetune': ['', ',rule=augreg,data=cifar10', ',rule=bit,model=R50x1'],
    'distill': [f',teacher={tmp_path}', f',teacher={tmp_path},data=flowers,patience=long,model=S/16'],
  }
  for arguments in forms[recipe] if recipe in forms else ['']:
    config, parsed = load_recipe(f'{CONFIGS / recipe}.py:smoke{arguments}', num_devices=8)
    assert str(parsed.total) == '4 steps'
    assert all(parsed.evals[name].source.kind == 'synthetic' for name in config.evals)


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
