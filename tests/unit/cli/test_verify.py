"""The registry of published numbers: every row is a sound recipe with its metric; what is missing is said."""

import pathlib

import pytest

from vitjax.cli.main import main
from vitjax.config import load_config
from vitjax.config.parse import from_mapping
from vitjax.config.published import PUBLISHED

ROOT = pathlib.Path(__file__).parents[3]
EMBEDDED = [name for name, row in PUBLISHED.items() if not row.accelerator]


def test_every_row_is_a_recipe_that_reports_its_metric():
  assert len(PUBLISHED) > 50
  for name, row in PUBLISHED.items():
    start = ',checkpoint=X' if row.start else ''
    recipe = from_mapping(load_config(f'{ROOT / row.recipe}{start}').to_dict(), name)
    evaluator = row.metric.partition('/')[0]
    assert recipe.evals[evaluator].kind == 'classification', name
    assert 0 < row.tolerance < 0.2, name
    assert 0.4 < row.value < 1, name
    assert row.source, name
    if row.data:
      assert recipe.data.source.name.partition(':')[0] == row.data[0], name


def test_values_are_those_of_the_papers():
  some = {
    'vit-b16-i21k-imagenet': 0.8397, 'vit-h14-i21k-flowers': 0.9951, 'vit-l32-i21k-pets': 0.9309,
    'vit-l16-i1k-imagenet': 0.7653, 'augreg-b32-cifar100': 0.9135, 'bit-m-r50x1-cifar10': 0.973,
    'plain-s16-full-90': 0.765, 'plain-s16-linear_head-300': 0.798,
  }  # fmt: skip
  assert {name: pytest.approx(PUBLISHED[name].value) for name in some} == some


def test_list_says_what_is_missing(capsys, monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  (tmp_path / 'imagenet2012' / '5.1.0').mkdir(parents=True)
  assert main(['verify']) == 0
  lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
  assert lines['quickstart-vit-scratch-5shot'].endswith('runs')
  assert lines['augreg-b32-pets'].endswith('--start, data, accelerator')
  assert lines['vit-b16-i1k-imagenet'].endswith('--start, accelerator')
  assert max(map(len, lines.values())) <= 100


def test_what_cannot_run_is_refused_with_the_next_step(capsys, tmp_path):
  assert main(['verify', 'augreg-b32-pets', f'--config.data.source.path={tmp_path}']) == 2
  text = capsys.readouterr().err
  assert 'the recommended AugReg B/32' in text
  assert 'tfds build oxford_iiit_pet' in text
  assert 'GPU or TPU' in text
  assert main(['verify', 'augreg-b32-pet']) == 2
  assert 'augreg-b32-pets' in capsys.readouterr().err


def test_a_run_is_compared(capsys, monkeypatch, tmp_path):
  name = 'quickstart-vit-scratch-5shot'
  row = PUBLISHED[name]
  for score, code, word in (
    (row.value - 0.9 * row.tolerance, 0, ': reached'),
    (row.value - 1.1 * row.tolerance, 1, 'NOT'),
  ):
    monkeypatch.setattr(
      'vitjax.cli.cells.run_all', lambda tasks, processes, score=score: [{'name': name, 'score': score}]
    )
    assert main(['verify', name, f'--workdir={tmp_path}', f'--configs={ROOT}']) == code
    assert word in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('name', EMBEDDED)
def test_the_embedded_numbers_are_reached(name, tmp_path, capsys):
  # The tests' eight devices do not divide the recipe's 300.
  command = [
    'verify',
    name,
    f'--workdir={tmp_path}',
    f'--configs={ROOT}',
    '--config.evals.test.batch_size=304',
  ]
  assert main(command) == 0, capsys.readouterr().out
