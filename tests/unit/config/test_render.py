"""Recipes as JSON and as text, the reference of all knobs, and devices told by the environment."""

import copy
import dataclasses
import json
import pathlib

import pytest

from vitjax.config import (
  Duration,
  Recipe,
  default_config,
  describe_knobs,
  expected_devices,
  knobs_filled,
  load_config,
  parse_recipe,
  recipe_from_json,
  recipe_to_json,
  render,
)
from vitjax.errors import ConfigError

RECIPE = str(pathlib.Path(__file__).parent / 'recipes' / 'pretrain.py')
GOLDEN = pathlib.Path(__file__).parent / 'recipes' / 'pretrain.txt'


def rich_recipe():
  """Returns a recipe with every kind of value in it."""
  overrides = [
    ('optim.schedule', 'staircase'),
    ('optim.stairs', "('0.5 epochs', '1e6 examples')"),
    ('optim.freeze', "('cls',)"),
    ('optim.peak_lr', '0.1'),
    ('optim.clip_norm', 'None'),
    ('parallel.rules', "(('head/kernel', 'fsdp,none'),)"),
    ('data.crop_ratio', '(0.3333333333333333, 3)'),
    ('total', '0.7 epochs'),
    ('stop_after', '7 steps'),
  ]
  return parse_recipe(load_config(RECIPE, overrides))


def test_json_round_trip_is_exact():
  for recipe in (parse_recipe(default_config()), parse_recipe(load_config(RECIPE)), rich_recipe()):
    stored = json.loads(json.dumps(recipe_to_json(recipe), allow_nan=False))
    again = recipe_from_json(stored)
    assert again == recipe
    assert repr(again) == repr(recipe)
    assert recipe_to_json(again) == stored


def test_default_config_equals_the_schema():
  assert parse_recipe(default_config()) == Recipe()
  assert recipe_from_json(recipe_to_json(Recipe())) == Recipe()


def test_a_recipe_of_an_earlier_version_takes_the_defaults_of_newer_knobs():
  recipe = parse_recipe(load_config(RECIPE))
  stored = recipe_to_json(recipe)
  assert knobs_filled(stored) == ()
  del stored['optim']['end_lr'], stored['evals']['val']['train_source'], stored['stop_after']
  del stored['evals']['val']['source']['max_corrupt'], stored['log']
  filled = {'optim.end_lr', 'evals.val.train_source', 'stop_after', 'evals.val.source.max_corrupt', 'log'}
  assert set(knobs_filled(stored)) == filled
  expected = dataclasses.replace(recipe, log=Recipe().log)
  assert recipe_from_json(stored) == expected


def test_what_a_stored_recipe_holds_too_much_or_wrongly_is_listed_at_once():
  stored = recipe_to_json(parse_recipe(load_config(RECIPE)))
  before = copy.deepcopy(stored)
  stored['model']['new_knob'] = 1
  stored['evals']['val']['new_group'] = {'a': 1}
  stored['optim']['warmup'] = 'long'
  with pytest.raises(ConfigError) as caught:
    recipe_from_json(stored)
  assert {p.where for p in caught.value.problems} == {
    'model.new_knob',
    'evals.val.new_group',
    'optim.warmup',
  }
  assert 'this version' in caught.value.headline
  assert before == recipe_to_json(parse_recipe(load_config(RECIPE)))


@pytest.mark.parametrize('stored', [[], 'x', None, {}, {'model': []}, {'model': {}, 'data': {}, 'optim': 3}])
def test_json_of_something_else_is_refused(stored):
  with pytest.raises(ConfigError):
    recipe_from_json(stored)


def test_json_is_data_and_runs_nothing(tmp_path):
  sentinel = tmp_path / 'sentinel'
  attack = f'__import__("pathlib").Path({str(sentinel)!r}).touch()'
  stored = recipe_to_json(Recipe())
  stored['model']['variant'] = stored['data']['source']['path'] = attack
  stored['optim']['stairs'] = [attack]
  with pytest.raises(ConfigError):
    recipe_from_json(stored)
  assert not sentinel.exists()


def test_stored_recipes_do_not_need_their_files_or_devices():
  stored = recipe_to_json(Recipe())
  stored['data']['source'] |= {'kind': 'image_folder', 'path': '/nowhere/at/all'}
  assert recipe_from_json(stored).data.source.path == '/nowhere/at/all'


def test_render_matches_the_golden_file():
  # After a change of the schema, write the new text there and look at the difference.
  assert render(parse_recipe(load_config(RECIPE))) + '\n' == GOLDEN.read_text()


def test_render_marks_what_differs_from_the_defaults():
  marked = [line for line in render(Recipe()).splitlines() if line.startswith('*')]
  assert not marked
  lines = render(rich_recipe()).splitlines()
  assert len({line.index(' = ') for line in lines}) == 1
  marked = {line.split()[1] for line in lines if line.startswith('*')}
  assert {'optim.stairs', 'total', 'stop_after', 'evals.val.every', 'evals.val.source.split'} <= marked
  assert not {'evals.val.kind', 'optim.name'} & marked


def test_every_knob_is_documented():
  rows = {row.path: row for row in describe_knobs()}
  assert rows['optim.peak_lr'].type == 'float'
  assert rows['optim.clip_norm'].type == 'float | None'
  assert rows['total'].default == Duration(90, 'epochs')
  assert rows['data.image_size'].unit == 'pixels'
  assert rows['data.image_size'].type == 'tuple[int, int]'
  assert rows['evals.<name>.source.split'].default == 'train'
  assert rows['optim.stairs'].type == 'tuple[Duration, ...]'
  assert all(row.doc and row.expected for row in rows.values())
  assert len(rows) > 90


@pytest.mark.parametrize(
  ('env', 'expected'),
  [
    ({'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--a --xla_force_host_platform_device_count=8 --b'}, 8),
    (
      {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
        'JAX_NUM_PROCESSES': '2',
        'JAX_COORDINATOR_ADDRESS': 'host:1',
        'JAX_PROCESS_ID': '0',
      },
      8,
    ),
    (
      {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
        'KUBERNETES_SERVICE_HOST': 'a',
        'JOB_COMPLETION_INDEX': '0',
      },
      None,
    ),
    ({'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}, None),
    ({'JAX_PLATFORMS': 'cpu'}, None),
    ({'JAX_PLATFORMS': 'tpu', 'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}, None),
    ({'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}, None),
  ],
)
def test_expected_devices(monkeypatch, env, expected):
  for name in (
    'JAX_PLATFORMS',
    'XLA_FLAGS',
    'JAX_NUM_PROCESSES',
    'JAX_COORDINATOR_ADDRESS',
    'JAX_PROCESS_ID',
    'SLURM_STEP_NODELIST',
    'KUBERNETES_SERVICE_HOST',
    'JOB_COMPLETION_INDEX',
    'OMPI_COMM_WORLD_SIZE',
  ):
    monkeypatch.delenv(name, raising=False)
  for name, value in env.items():
    monkeypatch.setenv(name, value)
  assert expected_devices() == expected
