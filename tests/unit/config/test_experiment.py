"""Experiment files: every cell of those in configs/ is a sound recipe, and what does not hold together is refused."""

import pathlib

import pytest

from vitjax.config import grid, load_experiment, load_recipe
from vitjax.config.experiment import cell_name, matches
from vitjax.errors import ConfigError

FOLDER = pathlib.Path(__file__).parents[3] / 'configs' / 'experiments'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != 'small')


@pytest.mark.parametrize('smoke', [True, False])
@pytest.mark.parametrize('name', NAMES)
def test_every_cell_is_a_recipe(name, smoke, tmp_path):
  file = str(FOLDER / f'{name}.py')
  experiment = load_experiment(file, smoke=smoke)
  assert smoke or len({cell.labels['seed'] for cell in experiment.cells}) >= 3
  recipes = set()
  for cell in experiment.cells:
    arguments = {**cell.arguments, **({} if cell.start is None else {'checkpoint': tmp_path})}
    if not smoke:  # the data of the full form may not be there; its files are
      arguments['smoke'] = True
    spec = f'{file}:' + ','.join(f'{name}={value}' for name, value in arguments.items())
    recipes.add((cell.name, load_recipe(spec)[1].seed))
  assert len(recipes) == len(experiment.cells)


def write(tmp_path, body):
  path = tmp_path / 'trial.py'
  path.write_text(f'from vitjax.config import Cell, Claim, Experiment\n\ndef get_experiment(smoke):\n{body}')
  return str(path)


def test_cells_and_claims_that_do_not_fit_are_all_named(tmp_path):
  file = write(
    tmp_path,
    """
  cells = (
    Cell({'kind': 'a', 'lr': 1, 'seed': 0}, {}),
    Cell({'kind': 'a', 'lr': 1, 'seed': 0}, {}),
    Cell({'kind': 'b', 'lr': 1, 'seed': 0}, {}, start={'pretrain': 1}),
    Cell({'kind': 'c', 'seed': 0}, {}),
  )
  claims = (Claim('d beats a', {'kind': 'd'}, {'kind': 'a'}),)
  return Experiment('t', 'q', 'm', 'l', 'x', 'x', cells, rows=('kind',), column='lr', claims=claims)
""",
  )
  with pytest.raises(ConfigError) as caught:
    load_experiment(file, smoke=False)
  where = [problem.where for problem in caught.value.problems]
  assert where == ['kind-a_lr-1_seed-0', 'kind-b_lr-1_seed-0', 'kind-c_seed-0', 'd beats a']


def test_files_that_are_no_experiment_are_refused(tmp_path):
  with pytest.raises(ConfigError, match='No such experiment'):
    load_experiment(str(tmp_path / 'none.py'), smoke=False)
  with pytest.raises(ConfigError, match='get_experiment'):
    load_experiment(str(FOLDER / 'small.py'), smoke=False)
  with pytest.raises(ConfigError, match='returned int'):
    load_experiment(write(tmp_path, '  return 1\n'), smoke=False)


def test_grid_names_and_matching():
  assert grid(a=(1, 2), seed=(0,)) == [{'a': 1, 'seed': 0}, {'a': 2, 'seed': 0}]
  assert cell_name({'shape': 'patch 4, 200 steps', 'lr': 1e-3}) == 'shape-patch-4--200-steps_lr-0.001'
  assert matches({'a': 1, 'b': 2}, {'b': 2})
  assert not matches({'a': 1}, {'b': 2})
