"""The catalogue of faults, with small counts; `make faults` runs it with the full ones."""

import json

import pytest
from faults import catalogue, report
from faults.catalogue import CASES


def check(case, count):
  outcome, _ = report.try_case(case, count)
  if outcome.skipped:
    pytest.skip(outcome.skipped)
  assert outcome.times >= 1
  assert outcome.held == outcome.times, '\n'.join(outcome.faults)


def cases(kind):
  found = [case for _, case in sorted(CASES.items()) if getattr(case, kind)]
  return pytest.mark.parametrize('case', found, ids=lambda case: f'{case.number}-{case.run.__name__}')


@cases('quick')
def test_quick(case):
  check(case, case.quick)


@pytest.mark.slow
@cases('slow')
def test_slow(case):
  check(case, case.slow)


def test_every_case_of_the_catalogue_is_there():
  assert sorted(CASES) == list(range(1, 52))


def test_the_page_of_the_report(tmp_path):
  kept = {
    '1': {
      'times': 3,
      'held': 2,
      'figure': 'f',
      'faults': ['why'],
      'skipped': '',
      'seconds': 1.0,
      'partial': True,
    }
  }
  text = report.page(kept)
  assert '| 2/3 | f | 1 |' in text
  assert '- 1, kill -9 at random moments' in text
  assert text.count('| not run |') == len(catalogue.CASES) - 1
  results = tmp_path / 'results.json'
  results.write_text(json.dumps(kept))
  done = report.run(
    [CASES[38]], again=False, count=None, seed=0, minutes=9, results=results, target=tmp_path / 'page.md'
  )
  assert done == 0
  assert set(json.loads(results.read_text())) == {'1', '38'}
  options = {
    'again': False,
    'count': None,
    'seed': 0,
    'minutes': 9,
    'results': results,
    'target': tmp_path / 'page.md',
  }
  for piece in (3, 1000):  # 200 in all, in two pieces
    report.run([CASES[45]], piece=piece, **options)
  found = json.loads(results.read_text())['45']
  assert found['held'] == found['times'] == CASES[45].full
