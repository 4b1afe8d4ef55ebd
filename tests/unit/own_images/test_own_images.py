"""The command for anyone's images: a folder with all that goes wrong in folders, and what the recipe makes of it."""

import csv
import io
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from launch.local.run import run_processes
from vitjax.cli.main import main
from vitjax.config import default_config, load_config, parse_recipe
from vitjax.config.hyperrule import apply_hyper_rule, hyper_rule
from vitjax.errors import ConfigError, DataError
from vitjax.own_images import derive

ROOT = pathlib.Path(__file__).parents[3]
RECIPE = ROOT / 'configs' / 'transfer.py'
TINY = [f'--config.model.{knob}' for knob in ('depth=1', 'width=32', 'mlp_dim=64', 'num_heads=2')]


def photographs(root, per_class, classes, size=40):
  """Writes crops of two photographs: the class is the place and the colours of the crop."""
  rng = np.random.default_rng(0)
  for number, name in enumerate(classes):
    picture = load_sample_image(('china.jpg', 'flower.jpg')[number % 2]).copy()
    picture[..., number % 3] //= 1 + number // 2
    (root / name).mkdir(parents=True)
    for i in range(per_class):
      top, left = (int(rng.integers(0, side - size)) for side in picture.shape[:2])
      crop = picture[top : top + size, left : left + size]
      Image.fromarray(crop).save(root / name / f'Foto {i} + ü.jpg', quality=92)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Returns a folder of 300 photographs as people have them."""
  root = tmp_path_factory.mktemp('own') / 'meine Bilder'
  photographs(root, 74, ('Äpfel rot', 'café noir', 'кошка', '猫 cat'))
  whole = (root / 'кошка' / 'Foto 1 + ü.jpg').read_bytes()
  (root / 'кошка' / 'kaputt.jpg').write_bytes(whole[:150])
  (root / 'кошка' / 'noch einmal.jpg').write_bytes(whole)
  (root / 'café noir' / 'contradicts.jpg').write_bytes(whole)
  (root / 'leer').mkdir()
  (root / 'only one').mkdir()
  Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(root / 'only one' / 'the one.png')
  return root


def pixels_of(path):
  with Image.open(path) as picture:
    return np.array(picture)


def recipe_of(data, **arguments):
  spec = ','.join(f'{name}={value}' for name, value in {'data': data, **arguments}.items())
  return parse_recipe(load_config(f'{RECIPE}:{spec}'))


@pytest.mark.slow
def test_a_folder_as_people_have_them_ends_in_a_report_and_a_model(folder, tmp_path, capsys):
  assert sum(path.is_file() for path in folder.rglob('*')) == 300
  command = ['train', f'--config={RECIPE}:data={folder},model=Ti/16,size=32,steps=12,batch=16', *TINY]
  assert main([*command, f'--workdir={tmp_path}']) == 0
  text = capsys.readouterr().out
  for said in (
    'leer',
    'only one',
    '240 + 60',
    '3 allowed',
    'kaputt.jpg',
    'under different labels',
    'mistakes.png',
  ):
    assert said in text, said
  assert max(len(line) for line in text.splitlines() if not line.startswith(' ') and '/' not in line) <= 140
  report = tmp_path / 'report'
  assert 'noch einmal.jpg' in (report / 'data.txt').read_text()
  for name in ('confusion.png', 'mistakes.png'):
    picture = pixels_of(report / 'val' / name)
    assert picture.shape[1] > 300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
  rows = (report / 'val' / 'classes.csv').read_text().splitlines()
  assert len(rows) == 1 + 5
  assert any(row.startswith('only one,0,0') for row in rows)
  # A second start finds all done, and looks at nothing again.
  assert main([*command, f'--workdir={tmp_path}']) == 0
  text = capsys.readouterr().out
  assert 'looked at the images' not in text
  assert 'mistakes.png' in text


@pytest.mark.slow
def test_two_processes_write_the_report_of_one_and_only_once(folder, tmp_path, monkeypatch):
  command = ['train', f'--config={RECIPE}:data={folder},model=Ti/16,size=32,steps=2,batch=16', *TINY]
  command.append(f'--workdir={tmp_path}')
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  out = io.BytesIO()
  assert run_processes([sys.executable, '-P', '-u', '-m', 'vitjax', *command], 2, devices=1, out=out) == 0
  text = out.getvalue().decode()
  for said in ('looked at the images', 'all of it: ', 'accuracy per class:', 'mistakes.png', 'next: '):
    assert text.count(said) == 1, (said, text[-3000:])

  def rows(name):
    with (tmp_path / 'report' / 'val' / name).open(encoding='utf-8', newline='') as file:
      return list(csv.reader(file))

  by_two = rows('predictions.csv')
  assert len(by_two) >= 60
  assert len({row[0] for row in by_two}) == len(by_two), 'each image once'
  # One process finds the run finished, and writes its report anew.
  assert main(command) == 0
  by_one = rows('predictions.csv')
  assert [row[:2] for row in by_one] == [row[:2] for row in by_two]
  probabilities = (np.array([row[4] for row in each[1:]], float) for each in (by_one, by_two))
  np.testing.assert_allclose(*probabilities, atol=1e-5)


def test_the_same_folder_gives_the_same_recipe_and_another_seed_another_split(folder):
  first, again, other = (recipe_of(folder, model='Ti/16', seed=seed) for seed in (0, 0, 1))
  assert first == again
  assert first.data.source != other.data.source
  assert first.data.source.split_seed == first.evals['val'].source.split_seed == 0


def test_sizes_and_lengths_follow_the_hyper_rule(folder):
  recipe = recipe_of(folder, model='Ti/16')
  assert recipe.data.image_size == (128, 128)  # photographs of less than 96 x 96 pixels
  assert recipe.data.precrop_size == 160
  assert recipe.data.batch_size == 32  # 240 images: 60 is a quarter
  assert str(recipe.total) == '500 steps'
  text = '\n'.join(recipe.derivation)
  assert 'images of about 40 x 40 px: the HyperRule takes 128' in text
  patched = recipe_of(folder, model='S/14')
  assert patched.data.image_size == (126, 126)
  assert patched.data.precrop_size == 158


def test_split_folders_are_taken_as_they_are(tmp_path):
  photographs(tmp_path / 'train', 8, ('a', 'b'))
  photographs(tmp_path / 'test', 3, ('a', 'b'))
  recipe = recipe_of(tmp_path, model='Ti/16')
  assert (recipe.data.source.split, recipe.evals['val'].source.split) == ('train', 'test')
  assert recipe.data.source.split_seed is None
  photographs(tmp_path / 'train' / '..' / 'val', 3, ('a', 'b'))
  assert recipe_of(tmp_path, model='Ti/16').evals['val'].source.split == 'val'


def test_a_folder_without_training_images_is_refused(tmp_path):
  photographs(tmp_path / 'val', 3, ('a', 'b'))
  with pytest.raises(ConfigError, match='nothing to learn from') as caught:
    recipe_of(tmp_path, model='Ti/16')
  assert 'fit_recipe' not in str(caught.value), 'a line of the recipe file helps nobody here'


def test_a_single_class_is_refused(tmp_path):
  photographs(tmp_path, 6, ('all of them',))
  with pytest.raises(ConfigError, match=r'nothing to tell apart(.|\n)*one class, all of them'):
    recipe_of(tmp_path, model='Ti/16')


def test_without_data_an_example_is_given():
  with pytest.raises(ConfigError, match=r'--config=configs/transfer\.py:data=/path/to/images'):
    load_config(str(RECIPE))


def test_more_unreadable_images_than_tolerated_stop_before_training(tmp_path, capsys):
  photographs(tmp_path / 'data', 10, ('a', 'b'))
  for i in range(8):
    (tmp_path / 'data' / 'a' / f'Foto {i} + ü.jpg').write_bytes(b'\xff\xd8 broken')
  command = [f'--config={RECIPE}:data={tmp_path / "data"},model=Ti/16,size=32,steps=2', *TINY]
  assert main(['train', *command, f'--workdir={tmp_path / "run"}']) != 0
  error = capsys.readouterr().err
  assert 'max_corrupt' in error
  assert 'Foto 3' in error
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_two_hundred_classes_still_make_pictures(tmp_path):
  from vitjax.own_images.pictures import draw_confusion, draw_mistakes

  matrix = np.random.default_rng(0).integers(0, 3, (200, 200))
  names = [f'class with a long name {i}' for i in range(200)]
  draw_confusion(matrix, names, tmp_path / 'c.png', title='many')
  assert pixels_of(tmp_path / 'c.png').shape[1] < 2000
  draw_mistakes([], tmp_path / 'm.png', title='none', subtitle='no mistakes')
  assert pixels_of(tmp_path / 'm.png').shape[0] > 50


@pytest.mark.slow
def test_manifest_with_several_classes_per_image(tmp_path, capsys):
  photographs(tmp_path, 20, ('a', 'b'))
  rows = [
    f'{{"image": "{file.relative_to(tmp_path)}", "label": {label}}}' for file, label in _labelled(tmp_path)
  ]
  (tmp_path / 'm.jsonl').write_text('\n'.join(rows))
  command = f'--config={RECIPE}:data={tmp_path / "m.jsonl"},model=Ti/16,size=32,steps=4,batch=8'
  assert main(['train', command, *TINY, f'--workdir={tmp_path / "run"}']) == 0
  text = capsys.readouterr().out
  assert 'val/mean_average_precision' in text
  assert 'several per image' in text
  assert (tmp_path / 'run' / 'report' / 'val' / 'mistakes.png').is_file()
  assert main(['eval', f'--checkpoint={tmp_path / "run"}']) == 0
  assert 'val/mean_average_precision' in capsys.readouterr().out


def _labelled(root):
  for i, file in enumerate(sorted(root.rglob('*.jpg'))):
    yield file, ('[]', '["red"]', '["red", "tall"]', f'["{file.parent.name}"]')[i % 4]


def derived(variant):
  """Returns (recipe, derivation) of the rate for batches of 32 from a checkpoint."""
  config = default_config()
  apply_hyper_rule(config, hyper_rule(160, 40 * 40))
  config.model.variant, config.data.batch_size = variant, 32
  reasons = derive._Reasons()
  derive._rate(config, derive.Asked(data='', checkpoint='weights'), reasons)
  return config, '\n'.join(reasons.lines)


def test_a_transformer_is_tuned_by_adamw_with_layer_decay():
  config, text = derived('S/14')
  assert (config.optim.name, config.optim.layer_decay, config.optim.weight_decay) == ('adamw', 0.75, 0.05)
  assert (config.optim.peak_lr, config.optim.schedule, config.optim.stairs) == (3e-4, 'cosine', ())
  assert 'each block 0.75 times the rate of the one above it' in text


def test_a_resnet_follows_the_rule_as_published():
  config, text = derived('R50x1')
  assert (config.optim.name, config.optim.clip_norm, config.optim.layer_decay) == ('sgd', None, 1.0)
  assert config.optim.peak_lr == pytest.approx(0.003 * 32 / 512, rel=0.02)
  assert (config.optim.schedule, config.optim.stairs) == (
    'staircase',
    ('200 steps', '300 steps', '400 steps'),
  )
  assert 'a tenth of it from steps 200, 300, 400 on' in text


@pytest.mark.slow
def test_a_checkpoint_says_the_model(folder, tmp_path):
  command = [f'--config={RECIPE}:data={folder},model=Ti/16,size=32,steps=2,batch=16', *TINY]
  assert main(['train', *command, f'--workdir={tmp_path / "a"}', '--config.log.progress=False']) == 0
  recipe = recipe_of(folder, checkpoint=tmp_path / 'a', steps=2)
  assert recipe.model.width == 32
  assert (recipe.optim.name, recipe.optim.layer_decay) == ('adamw', 0.75)
  with pytest.raises(ConfigError, match='not the one of the checkpoint'):
    recipe_of(folder, checkpoint=tmp_path / 'a', model='B/16')


def test_no_such_folder_is_said_as_ever(tmp_path):
  with pytest.raises(ConfigError) as caught:
    recipe_of(tmp_path / 'nowhere')
  assert any(problem.where == 'data.source.path' for problem in caught.value.problems)
  assert not isinstance(caught.value, DataError)
