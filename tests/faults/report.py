"""Runs cases and writes what came out as a page."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from faults.registry import CASES, SECTIONS, Case, Outcome

_MAX_FAULTS_SHOWN = 3
_LIMITS = (
  '## What this does not show',
  '',
  '- Accelerators and real pods: CPU devices, one machine, a model of a few thousand parameters.',
  '- Object stores: gs:// is tested against a bucket in memory (`tests/unit/checkpoint/test_bucket.py`); s3:// is',
  '  refused. The lock of a workdir guards one file system, not a bucket.',
  '- With several processes a failed save ends the run, and the retry is the restart by the launcher.',
)


def line(case: Case) -> str:
  """Returns a case in one line of text."""
  return f'{case.section}{case.number:>3} x{case.full:<4} {case.title}: {case.promise}'


def try_case(case: Case, count: int, seed: int | str = 0) -> tuple[Outcome, float]:
  """Returns what a case saw, and the seconds it took."""
  began_s = time.monotonic()
  with tempfile.TemporaryDirectory(prefix=f'vitjax-fault-{case.number}-', ignore_cleanup_errors=True) as name:
    outcome = case.run(random.Random(f'{seed} {case.number}'), count, pathlib.Path(name))
  return outcome, time.monotonic() - began_s


def run(
  cases: Sequence[Case],
  *,
  again: bool,
  count: int | None,
  piece: int | None = None,
  seed: int,
  minutes: float,
  results: pathlib.Path,
  target: pathlib.Path,
) -> int:
  """Runs cases that have no result yet, keeps the results, writes the page. Returns 1 when one was not held."""
  kept: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
  began_s, not_held = time.monotonic(), False
  for case in cases:
    number = str(case.number)
    before = None if again or count is not None or number not in kept else kept[number]
    if before is not None and not _unfinished(case, before):
      continue
    if time.monotonic() - began_s > 60 * minutes:
      break
    print(f'{line(case)} ...', flush=True)
    done = 0 if before is None else before['times']
    tries = count or min(case.full - done, piece or case.full)
    outcome, seconds = try_case(case, tries, f'{seed} {done}')
    not_held |= outcome.held < outcome.times
    text = outcome.skipped or f'{outcome.held}/{outcome.times}'
    print(f'    {text} in {seconds:.1f} s; {outcome.figure}', *outcome.faults[:5], sep='\n    ', flush=True)
    if count is None:
      kept = json.loads(results.read_text()) if results.exists() else {}  # others may have added theirs
      kept[number] = _added(
        before, {**dataclasses.asdict(outcome), 'seconds': round(seconds, 1)}, piece is not None
      )
      results.parent.mkdir(parents=True, exist_ok=True)
      results.write_text(json.dumps(kept, indent=1))
  if count is None:
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(kept))
    print(f'wrote {target}')
  return int(not_held)


def _added(before: dict[str, Any] | None, found: dict[str, Any], partial: bool) -> dict[str, Any]:
  """Returns the results of a piece together with those of the pieces before it."""
  found['partial'] = partial
  if before is None:
    return found
  for name in ('times', 'held', 'seconds', 'faults'):
    found[name] = before[name] + found[name]
  if found['figure'] not in before['figure']:
    found['figure'] = ' / '.join(filter(None, [before['figure'], found['figure']]))
  return found


def page(kept: dict[str, Any]) -> str:
  """Returns the page about all cases, from the results that there are."""
  import jax

  done = {int(number): result for number, result in kept.items() if int(number) in CASES}
  held = [
    number
    for number, r in done.items()
    if not r['skipped'] and r['held'] == r['times'] and not _unfinished(CASES[number], r)
  ]
  text = [
    '# What happens when things go wrong',
    '',
    'Written by `make faults`. The cases are code in `tests/faults/`, which the tests run with smaller counts.',
    '"Identical" is the same SHA-256 over parameters, optimiser state, averages, step and RNG, and the same metric',
    'log, as a run that nothing happened to. Several processes are real ones, on one machine, over loopback.',
    '',
    f'{len(held)} of {len(CASES)} cases held at every try; {sum(r["times"] for r in done.values()):,} tries, '
    f'{sum(r["seconds"] for r in done.values()) / 60:.0f} minutes on {_machine()}, Python {platform.python_version()}, '
    f'jax {jax.__version__}.',
    '',
  ]
  for letter, name in SECTIONS.items():
    text += [
      f'## {letter}. {name}',
      '',
      '| | fault | must | held | figure | s |',
      '| --: | --- | --- | --: | --- | --: |',
    ]
    for number, case in sorted(CASES.items()):
      if case.section == letter:
        text.append(_row(case, done[number] if number in done else None))
    text.append('')
  text += [*_not_held(done), '', *_LIMITS]
  return '\n'.join(text) + '\n'


def _unfinished(case: Case, result: dict[str, Any]) -> bool:
  return 'partial' in result and result['partial'] and result['times'] < case.full


def _row(case: Case, result: dict[str, Any] | None) -> str:
  if result is None:
    score, figure, seconds = 'not run', '', ''
  else:
    score = 'skipped' if result['skipped'] else f'{result["held"]}/{result["times"]}'
    figure, seconds = result['figure'] or result['skipped'], f'{result["seconds"]:.0f}'
  return f'| {case.number} | {case.title} | {case.promise} | {score} | {figure} | {seconds} |'


def _not_held(done: dict[int, dict[str, Any]]) -> list[str]:
  lines = []
  for number, case in sorted(CASES.items()):
    if number not in done:
      lines.append(f'- {number}, {case.title}: not run yet.')
    elif done[number]['skipped']:
      lines.append(f'- {number}, {case.title}: {done[number]["skipped"]}.')
    elif done[number]['faults']:
      shown = '; '.join(' '.join(fault.split())[:300] for fault in done[number]['faults'][:_MAX_FAULTS_SHOWN])
      lines.append(f'- {number}, {case.title}: {shown}.')
    elif _unfinished(case, done[number]):
      lines.append(f'- {number}, {case.title}: {done[number]["times"]} of {case.full} tries so far.')
  return ['## Not held, and why', '', *(lines or ['Nothing.'])]


def _machine() -> str:
  import os

  model = next(
    (
      row.split(':')[1].strip()
      for row in pathlib.Path('/proc/cpuinfo').read_text().splitlines()
      if 'model name' in row
    ),
    sys.platform,
  )
  return f'{os.cpu_count()} cores of {model}'
