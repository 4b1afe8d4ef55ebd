"""The Markdown of scaling: one section per model and topology, rows for each size, replaced when written again."""

import jax
import pytest
from tiny import tiny_recipe

from vitjax.planning import scaling, sweep
from vitjax.planning.topology import Topology


@pytest.fixture
def written(tmp_path, monkeypatch):
  monkeypatch.setattr(scaling, 'smaller_topologies', lambda topology: [topology])
  monkeypatch.setattr(scaling, 'describe_devices', lambda topology: jax.devices())
  monkeypatch.setattr(sweep, 'meshes', lambda *args: [(1, 8, 1)])
  path = tmp_path / 'new' / 'SCALE.md'
  recipe = tiny_recipe(
    evals={}, data__batch_size=16, model__depth=1, model__layers='scan', model__num_classes=4
  )
  for _ in range(2):
    scaling.write_scaling(
      path, recipe, Topology.parse('h100:8x1'), compile_best=0, progress=lambda line: None
    )
  return path.read_text()


def test_one_section_with_three_tables(written):
  assert written.count('## Ti/4 on h100:8x1') == 1
  assert written.startswith('# Scaling, planned')
  rows = [line for line in written.splitlines() if line.startswith('| 8 ')]
  assert len(rows) == 2  # weak and strong
  assert all(row.rstrip(' |').endswith('100%') for row in rows)
  assert '| Pareto |' in written


def test_rows_are_well_formed_and_empty_where_nothing_fits():
  text = scaling._scaling_table([(Topology.parse('h100:8x1'), 64, None)])
  heading, rule, row = text.splitlines()
  assert heading.count('|') == rule.count('|') == row.count('|')
  assert 'nothing fits' in row


def test_a_section_is_replaced_and_others_stay(tmp_path):
  path = tmp_path / 'SCALE.md'
  for title, text in (('## A', 'old'), ('## B', 'other'), ('## A', 'new')):
    scaling._replace_section(path, title, f'{title}\n\n{text}')
  text = path.read_text()
  assert text.startswith('# Scaling, planned')
  assert text.endswith('## B\n\nother\n\n## A\n\nnew\n')
