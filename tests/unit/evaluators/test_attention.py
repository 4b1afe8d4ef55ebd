"""Attention distance and position structure as evaluators, against vitjax.analysis on the same weights."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from vitjax import analysis
from vitjax.config import evaluator, evaluators, parse_recipe, source_config
from vitjax.data import Preprocess
from vitjax.errors import ConfigError
from vitjax.loaded import Loaded
from vitjax.ops.normalize import normalize
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics

IMAGES = source_config(kind='synthetic', num_examples=20, num_classes=4)


def look(**edits):
  return evaluators(look=evaluator(kind='attention', source=IMAGES, batch_size=16, every='4 steps', **edits))


def loaded_of(run, params):
  """Returns what `analysis` takes, of a run's parameters."""
  recipe = run.recipe
  params = {name: value for name, value in params.items() if name != 'objective'}
  preprocess = Preprocess(recipe.data.image_size)
  return Loaded(run.objective.model, recipe.model, params, preprocess, ('a',) * 4, recipe, 'vitjax', '')


def images_of(run):
  """Returns the evaluator's images, normalised; padding left out."""
  with run.evaluators['look'].batches() as batches:
    parts = [np.asarray(batch['image'])[np.asarray(batch['weight']) > 0] for batch in batches]
  data = run.recipe.data
  return np.asarray(normalize(np.concatenate(parts), data.mean, data.std))


@pytest.mark.parametrize(
  ('devices', 'edits'),
  [
    (8, {'model__layers': 'scan', 'model__position_at': 'every_layer', 'parallel__fsdp': 2}),
    (
      1,
      {
        'model__num_registers': 2,
        'model__pool': 'gap',
        'model__num_classes': 0,
        'objective__name': 'masked_patch',
      },
    ),
  ],
)
def test_it_reports_what_the_analysis_finds(devices, edits):
  run = build(tiny.tiny_recipe(evals=look(), **edits), devices=jax.devices()[:devices])
  draw = np.random.default_rng(0).normal
  shapes = run.abstract_state.params
  params = jax.tree.map(
    lambda s: jax.device_put(draw(0, 0.4, s.shape).astype(np.float32), s.sharding), shapes
  )
  found = run.evaluators['look'].run(params)
  assert found['num_examples'] == 20
  loaded = loaded_of(run, jax.device_get(params))
  distance = analysis.attention_distance(loaded, images_of(run))
  per_block = [found[f'attention_distance_block{i:02d}'] for i in range(2)]
  np.testing.assert_allclose(per_block, distance.mean.mean(axis=1), rtol=1e-4)
  assert found['attention_distance_uniform'] == pytest.approx(distance.uniform)
  tables = analysis.position_tables(loaded)
  for i, table in enumerate(tables.values()):
    structure = analysis.position_structure(table)
    block = f'_block{i:02d}' if len(tables) > 1 else ''
    assert found[f'position_rows{block}'] == pytest.approx(structure.rows, rel=1e-4)
    assert found[f'position_columns{block}'] == pytest.approx(structure.columns, rel=1e-4)
    assert found['position_structure_chance'] == structure.chance
  assert len([name for name in found if name.startswith('position_structure')]) == len(tables) + bool(tables)


def test_the_loop_writes_a_row_at_each_evaluation(tmp_path):
  final = train(build(tiny.tiny_recipe(evals=look(), total='8 steps')), tmp_path)
  rows = [row for row in read_metrics(tmp_path) if 'look/attention_distance_block01' in row]
  assert [row['step'] for row in rows] == [4, 8]
  assert {name: rows[1][name] for name in final} == final
  assert rows[0]['look/attention_distance_block00'] != rows[1]['look/attention_distance_block00']


def test_a_resnet_is_refused_with_a_next_step():
  config = tiny.tiny_config(evals=look())
  config.model = dataclasses.asdict(type(tiny.tiny_recipe().model)(variant='R-tiny'))
  with pytest.raises(ConfigError, match='Leave the evaluator out') as caught:
    parse_recipe(config)
  assert [problem.where for problem in caught.value.problems] == ['evals.look.kind']


def test_knobs_of_other_kinds_are_refused():
  with pytest.raises(ConfigError, match=r'evals\.look\.shots'):
    tiny.tiny_recipe(evals=look(shots=(3,)))
