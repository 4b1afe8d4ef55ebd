"""The page of an experiment, against numbers worked out by hand."""

import csv
import json
import math

import numpy as np
import pytest

from vitjax.cli import experiment_report as report
from vitjax.config import Cell, Claim, Course, Experiment, Measure, grid

SCORES = {('a', 0): 0.80, ('a', 1): 0.82, ('a', 2): 0.81, ('b', 0): 0.70, ('b', 1): 0.73, ('b', 2): 0.70}


def experiment(**changes):
  cells = tuple(Cell({**labels, 'lr': 1}, {}) for labels in grid(kind=('a', 'b'), seed=(0, 1, 2)))
  claims = (
    Claim('a beats b', {'kind': 'a'}, {'kind': 'b'}, 'Table 1'),
    Claim('b beats a', {'kind': 'b'}, {'kind': 'a'}),
    Claim('a beats itself', {'kind': 'a'}, {'kind': 'a'}),
  )
  values = {'cells': cells, 'rows': ('kind',), 'column': 'lr', 'claims': claims, 'chance': 0.1, **changes}
  return Experiment('Title', 'Question?', 'Method.', 'Limits.', 'test/accuracy', 'accuracy', **values)


def results(of):
  return [
    {
      'name': cell.name,
      'labels': dict(cell.labels),
      'score': SCORES[cell.labels['kind'], cell.labels['seed']],
      'metrics': {'test/accuracy': SCORES[cell.labels['kind'], cell.labels['seed']]},
      'cpu_s': 30.0,
      'steps': 10,
    }
    for cell in of.cells
  ]


def test_the_interval_is_students_t_of_paired_differences():
  asked = experiment()
  mean, (low, high) = report.paired_interval(asked.claims[0], 'test/accuracy', results(asked))
  differences = np.array([0.10, 0.09, 0.11])
  half = 4.302653 * differences.std(ddof=1) / math.sqrt(3)
  assert (mean, low, high) == pytest.approx((0.1, 0.1 - half, 0.1 + half), rel=1e-5)


def test_page_table_claims_cost_and_files(tmp_path):
  asked = experiment()
  page = report.write(asked, results(asked), tmp_path, command='vitjax experiment ...', wall_s=3.0)
  assert '| a | 0.810 ± 0.010 |' in page
  assert '| a beats b (Table 1) | +0.100 (+0.075 to +0.125) | **holds here** |' in page
  assert '| b beats a | -0.100 (-0.125 to -0.075) | **the opposite holds here** |' in page
  assert 'a beats itself | +0.000 (+0.000 to +0.000) | not shown' in page
  assert '6 runs, 60 steps, 3 minutes' in page
  assert (tmp_path / 'results.png').stat().st_size > 5000
  rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
  assert [float(row['test/accuracy']) for row in rows] == list(SCORES.values())
  assert json.loads((tmp_path / 'results.json').read_text())['cells'] == results(asked)


def test_one_seed_says_nothing_and_failures_are_listed(tmp_path):
  cells = tuple(Cell({'kind': kind, 'seed': 0, 'lr': 1}, {}) for kind in 'ab')
  asked = experiment(cells=cells, log_x=True)
  found = results(asked)
  found[1] = {**found[1], 'score': None, 'metrics': {}, 'error': 'no memory'}
  page = report.write(asked, found, tmp_path, command='', wall_s=1.0)
  assert '| a | 0.800 |' in page
  assert '- failed: kind-b_seed-0_lr-1: no memory' in page
  assert 'no seed has both scores' in page
  assert 'too few seeds to say' in page
  assert 'nan' not in page


def test_missing_scores_leave_gaps_and_are_named(tmp_path):
  asked = experiment(also=(Measure('few/accuracy', 'few-shot accuracy'),))
  found = results(asked)
  for result in found[:4]:
    result['metrics'] = {}
  page = report.write(asked, found, tmp_path, command='', wall_s=1.0)
  assert 'nan' not in page
  assert 'Few-shot accuracy: no run has a score.' in page
  assert '- no test/accuracy: kind-a_seed-0_lr-1' in page
  assert '| a beats b (Table 1) | - | no seed has both scores |' in page
  assert (
    next(iter(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines())))['test/accuracy'] == ''
  )


def test_a_course_and_a_claim_between_two_metrics(tmp_path):
  course = Course(
    'Over time', 'distance [pixels]', {'look/far': 'far', 'look/none': 'no'}, ('look/top', 'all')
  )
  claims = (Claim('far is above near', {}, {}, metrics=('look/far', 'look/near')),)
  asked = experiment(also=(Measure('look/far', 'distance', claims),), courses=(course,))
  found = results(asked)
  for i, result in enumerate(found):
    result['metrics'] |= {'look/far': 3.0 + 0.1 * i, 'look/near': 1.0}
    folder = tmp_path / result['name']
    folder.mkdir()
    rows = [{'step': step, 'look/far': step + 0.5 * i, 'look/top': 9.0} for step in (1, 2, 3)]
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  page = report.write(asked, found, tmp_path, command='', wall_s=1.0)
  assert '| step | 1 | 2 | 3 |' in page
  assert '| far | 2.250 ± 0.935 | 3.250 ± 0.935 | 4.250 ± 0.935 |' in page
  assert '| all | 9.000 ± 0.000 |' in page
  assert '| far is above near | +2.250 (+2.002 to +2.498) | **holds here** |' in page
  assert (tmp_path / 'over_time.png').stat().st_size > 5000
  assert (tmp_path / 'look_far.png').stat().st_size > 5000
