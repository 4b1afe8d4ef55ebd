"""The page of an experiment: table, plot, claims held against the numbers, cost; as Markdown, PNG, CSV and JSON."""

from __future__ import annotations

import csv
import datetime
import json
import math
import pathlib
import platform
import re
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import scipy.stats

import vitjax
from vitjax.cli.experiment_plots import Lines, Series, columns_of, plot_course, plot_scores
from vitjax.config.experiment import Claim, Course, Experiment, Measure, matches
from vitjax.training.metrics import read_metrics

Result = dict[str, Any]
_CONFIDENCE = 0.95
_COURSE_COLUMNS = 5


def write(
  experiment: Experiment, results: list[Result], workdir: pathlib.Path, *, command: str, wall_s: float
) -> str:
  """Writes results.md, .csv, .json and PNGs (results.png; one more per further measure and course); returns the page.

  Args:
    experiment: what was asked.
    results: of each cell in order: 'name', 'labels', 'score', 'metrics', 'cpu_s', 'steps', and 'error' where it failed.
    workdir: where the files go; the cells' folders with their metrics.jsonl lie there.
    command: that repeats it.
    wall_s: of this call.
  """
  page = _page(experiment, results, command, workdir)
  (workdir / 'results.md').write_text(page, encoding='utf-8')
  names = list(dict.fromkeys(name for result in results for name in result['labels']))
  with (workdir / 'results.csv').open('w', newline='', encoding='utf-8') as file:
    rows = csv.writer(file)
    metrics = _metrics(experiment)
    rows.writerow([*names, *metrics, 'steps_done', 'cpu_s'])
    for result in results:
      shown = [_held(result['labels'], name) for name in names]
      scores = [_held(result['metrics'], name) for name in metrics]
      rows.writerow([*shown, *scores, result['steps'], result['cpu_s']])
  stored = {'title': experiment.title, 'command': command, 'wall_s': round(wall_s, 1), 'cells': results}
  (workdir / 'results.json').write_text(json.dumps(stored, indent=1) + '\n', encoding='utf-8')
  return page


def _held(values: dict[str, Any], name: str) -> Any:
  return values[name] if name in values else ''


def _metrics(experiment: Experiment) -> list[str]:
  """Returns the metrics that tables and claims read, in the order of the page."""
  found = [measure.metric for measure in experiment.measures]
  for measure in experiment.measures:
    found += [name for claim in measure.claims for name in claim.metrics or ()]
  return list(dict.fromkeys(found))


def _reported(experiment: Experiment, results: list[Result]) -> list[Result]:
  shown = {cell.name for cell in experiment.cells if cell.reported}
  return [result for result in results if result['name'] in shown]


def _page(experiment: Experiment, results: list[Result], command: str, workdir: pathlib.Path) -> str:
  reported = _reported(experiment, results)
  lines = [
    f'# {experiment.title}',
    '',
    experiment.question,
    '',
    '```',
    command,
    '```',
    '',
    experiment.method,
    '',
  ]
  if any('smoke' in cell.arguments for cell in experiment.cells):
    lines += ['**Smoke form: a few steps per cell show that everything runs; the numbers mean nothing.**', '']
  for i, measure in enumerate(experiment.measures):
    picture = 'results.png' if i == 0 else f'{_file_name(measure.metric)}.png'
    lines += _scores(experiment, measure, reported, workdir / picture)
  for course in experiment.courses:
    lines += _course(course, reported, workdir)
  if any(measure.claims for measure in experiment.measures):
    heading = '| claim | difference, paired by seed (95 % interval) | verdict |'
    lines += ['## What it shows', '', heading, '| --- | --- | --- |']
    for measure in experiment.measures:
      lines += [_claim_row(claim, measure.metric, reported) for claim in measure.claims]
    lines += [
      '',
      'A claim holds here when the whole interval (Student t over the seeds) lies above 0. Each interval stands for '
      'itself: with many claims, about one in twenty may miss.',
      '',
    ]
  lines += ['## What it does not show', '', experiment.limits, '', '## Cost', '', _cost(results)]
  for result in results:
    if 'error' in result:
      lines.append(f'- failed: {result["name"]}: {result["error"]}')
  for measure in experiment.measures:
    for result in reported:
      if 'error' not in result and measure.metric not in result['metrics']:
        lines.append(f'- no {measure.metric}: {result["name"]}')
  return '\n'.join(lines) + '\n'


def _file_name(text: str) -> str:
  return re.sub(r'[^a-z0-9]+', '_', text.lower()).strip('_')


def _scores(
  experiment: Experiment, measure: Measure, reported: list[Result], picture: pathlib.Path
) -> list[str]:
  """Draws one measure; returns its heading, table and picture."""
  series: Series = {}
  seeds = set()
  for result in reported:
    if measure.metric in result['metrics']:
      labels = result['labels']
      seeds.add(labels['seed'])
      row = ', '.join(str(labels[name]) for name in experiment.rows)
      scores = series.setdefault(row, {}).setdefault(labels[experiment.column], [])
      scores.append(result['metrics'][measure.metric])
  name = f'{measure.name[0].upper()}{measure.name[1:]}'
  if not series:
    return [f'{name}: no run has a score.', '']
  spread = f'mean ± standard deviation over {len(seeds)} seeds' if len(seeds) > 1 else 'one seed'
  lines = [f'{name}, {spread}:', '', *_table(experiment, series), '']
  if len(series) == len(columns_of(series)) == 1:
    return lines  # A plot of one point shows nothing that the table does not.
  plot_scores(experiment, measure, series, picture)
  return [*lines, f'![the same as a plot]({picture.name})', '']


def _course(course: Course, reported: list[Result], workdir: pathlib.Path) -> list[str]:
  """Draws what the runs wrote into metrics.jsonl; returns its heading, a table of some steps, and the picture."""
  wanted = [*course.metrics, *(course.level or ())[:1]]
  found: dict[str, dict[int, list[float]]] = {}
  for result in reported:
    if 'error' not in result:
      for row in read_metrics(workdir / result['name']):
        for name in wanted:
          if name in row:
            found.setdefault(name, {}).setdefault(int(row['step']), []).append(row[name])
  shown = [name for name in course.metrics if name in found]
  if not shown:
    return [f'{course.title}: no run has measured it.', '']
  picture = workdir / f'{_file_name(course.title)}.png'
  plot_course(course, found, picture)
  return [f'{course.title} ({course.axis}):', '', *_course_table(course, found, shown), '',
          f'![the same as a plot]({picture.name})', '']  # fmt: skip


def _course_table(course: Course, found: Lines, shown: list[str]) -> list[str]:
  steps = sorted(found[shown[0]])
  steps = [steps[round(i * (len(steps) - 1) / (_COURSE_COLUMNS - 1))] for i in range(_COURSE_COLUMNS)]
  steps = list(dict.fromkeys(steps))
  lines = ['| step | ' + ' | '.join(str(step) for step in steps) + ' |', '| --- ' * (len(steps) + 1) + '|']
  for name in shown:
    cells = (_spread(list(found[name][step])) for step in steps)
    lines.append(f'| {course.metrics[name]} | ' + ' | '.join(cells) + ' |')
  if course.level is not None and course.level[0] in found:
    lines.append(
      f'| {course.level[1]} | ' + ' | '.join(_spread(found[course.level[0]][s]) for s in steps) + ' |'
    )
  return lines


def _cost(results: list[Result]) -> str:
  cpu_s, steps = (sum(result[name] for result in results) for name in ('cpu_s', 'steps'))
  return (
    f'{len(results)} runs, {steps:,} steps, {cpu_s / 60:.0f} minutes of processor time (all threads; start-up, '
    f'compilation and evaluation included) on '
    f'{jax.devices()[0].device_kind} ({platform.machine()}); vitjax {vitjax.__version__}, jax {jax.__version__}, '
    f'{datetime.date.today().isoformat()}. Every run is a row of results.csv.'
  )


def _table(experiment: Experiment, series: Series) -> list[str]:
  columns = columns_of(series)
  lines = [
    f'| {", ".join(experiment.rows)} | ' + ' | '.join(f'{experiment.column} {c}' for c in columns) + ' |',
    '| --- ' * (len(columns) + 1) + '|',
  ]
  for row, scores in series.items():
    lines.append(
      f'| {row} | ' + ' | '.join(_spread(scores[c]) if c in scores else '-' for c in columns) + ' |'
    )
  return lines


def _spread(scores: Sequence[float]) -> str:
  if len(scores) == 1:
    return f'{scores[0]:.3f}'
  return f'{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}'


class Interval(NamedTuple):
  """A mean difference over seeds and the ends of its 95 % Student t interval; None with fewer than two seeds."""

  mean: float
  ends: tuple[float, float] | None


def paired_interval(claim: Claim, metric: str, reported: list[Result]) -> Interval | None:
  """Returns the difference better - worse, paired by seed; None where no seed has both.

  Args:
    claim: its two sides; scores of one side and seed are averaged first.
    metric: that both are judged by, unless the claim names two.
    reported: results of the cells; those without the metric are left out.
  """
  sides = []
  for wanted, name in zip((claim.better, claim.worse), claim.metrics or (metric, metric), strict=True):
    by_seed: dict[Any, list[float]] = {}
    for result in reported:
      if matches(result['labels'], wanted) and name in result['metrics']:
        by_seed.setdefault(result['labels']['seed'], []).append(result['metrics'][name])
    sides.append({seed: statistics.mean(scores) for seed, scores in by_seed.items()})
  differences = [sides[0][seed] - sides[1][seed] for seed in sides[0] if seed in sides[1]]
  if not differences:
    return None
  mean = statistics.mean(differences)
  if len(differences) < 2:
    return Interval(mean, None)
  factor = float(scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, len(differences) - 1))
  half = factor * statistics.stdev(differences) / math.sqrt(len(differences))
  return Interval(mean, (mean - half, mean + half))


def _claim_row(claim: Claim, metric: str, reported: list[Result]) -> str:
  text = f'{claim.text} ({claim.source})' if claim.source else claim.text
  found = paired_interval(claim, metric, reported)
  if found is None:
    return f'| {text} | - | no seed has both scores |'
  if found.ends is None:
    return f'| {text} | {found.mean:+.3f} | too few seeds to say |'
  low, high = found.ends
  verdict = 'not shown: within the spread of the seeds'
  if low > 0:
    verdict = '**holds here**'
  elif high < 0:
    verdict = '**the opposite holds here**'
  return f'| {text} | {found.mean:+.3f} ({low:+.3f} to {high:+.3f}) | {verdict} |'
