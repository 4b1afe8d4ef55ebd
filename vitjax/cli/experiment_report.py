"""The page of an experiment: table, plot, claims held against the numbers, cost; as Markdown, PNG, CSV and JSON."""

from __future__ import annotations

import csv
import datetime
import json
import math
import pathlib
import platform
import statistics
from collections.abc import Iterable
from typing import Any

import jax
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import scipy.stats

import vitjax
from vitjax.config.experiment import Claim, Experiment, matches

Result = dict[str, Any]
_CONFIDENCE = 0.95
_COLOURS = ('#1f5fa8', '#b5651d', '#2e8b57', '#8e4585', '#708090', '#c2a83e', '#b22222', '#4fb3bf')


def write(
  experiment: Experiment, results: list[Result], workdir: pathlib.Path, *, command: str, wall_s: float
) -> str:
  """Writes results.md, .png, .csv and .json; returns the page.

  Args:
    experiment: what was asked.
    results: of each cell in order: 'name', 'labels', 'score', 'cpu_s', 'steps', or 'error'.
    workdir: where the files go.
    command: that repeats it.
    wall_s: of this call.
  """
  reported = _reported(experiment, results)
  page = _page(experiment, results, reported, command)
  (workdir / 'results.md').write_text(page, encoding='utf-8')
  names = list(dict.fromkeys(name for result in results for name in result['labels']))
  with (workdir / 'results.csv').open('w', newline='', encoding='utf-8') as file:
    rows = csv.writer(file)
    rows.writerow([*names, experiment.metric, 'steps', 'cpu_s'])
    for result in results:
      labels = result['labels']
      shown = [labels[name] if name in labels else '' for name in names]
      rows.writerow([*shown, result['score'], result['steps'], result['cpu_s']])
  stored = {'title': experiment.title, 'command': command, 'wall_s': round(wall_s, 1), 'cells': results}
  (workdir / 'results.json').write_text(json.dumps(stored, indent=1) + '\n', encoding='utf-8')
  if reported:
    _plot(experiment, reported, workdir / 'results.png')
  return page


def _reported(experiment: Experiment, results: list[Result]) -> list[Result]:
  shown = {cell.name for cell in experiment.cells if cell.reported}
  return [result for result in results if result['name'] in shown and result['score'] is not None]


def _page(experiment: Experiment, results: list[Result], reported: list[Result], command: str) -> str:
  seeds = sorted({result['labels']['seed'] for result in reported})
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
  spread = f'mean ± standard deviation over {len(seeds)} seeds' if len(seeds) > 1 else 'one seed'
  lines += [f'{experiment.metric_name[0].upper()}{experiment.metric_name[1:]}, {spread}:', '']
  lines += [*_table(experiment, reported), '', '![the same as a plot](results.png)', '']
  if experiment.claims:
    heading = '| claim | difference, paired by seed (95 % interval) | verdict |'
    lines += ['## What it shows', '', heading, '| --- | --- | --- |']
    lines += [_claim_row(claim, reported) for claim in experiment.claims]
    lines += ['', 'A claim holds here when the whole interval (Student t over the seeds) lies above 0.', '']
  lines += ['## What it does not show', '', experiment.limits, '', '## Cost', '', _cost(results)]
  failed = [result for result in results if 'error' in result]
  lines += [f'- failed: {result["name"]}: {result["error"]}' for result in failed]
  return '\n'.join(lines) + '\n'


def _cost(results: list[Result]) -> str:
  cpu_s, steps = (sum(result[name] for result in results) for name in ('cpu_s', 'steps'))
  return (
    f'{len(results)} runs, {steps:,} steps, {cpu_s / 60:.0f} minutes of processor time (all threads; start-up, '
    f'compilation and evaluation included) on '
    f'{jax.devices()[0].device_kind} ({platform.machine()}); vitjax {vitjax.__version__}, jax {jax.__version__}, '
    f'{datetime.date.today().isoformat()}. Every run is a row of results.csv.'
  )


def _series(experiment: Experiment, reported: Iterable[Result]) -> dict[str, dict[Any, list[float]]]:
  """Returns {row text: {column value: scores over seeds}} in the order of the cells."""
  found: dict[str, dict[Any, list[float]]] = {}
  for result in reported:
    row = ', '.join(str(result['labels'][name]) for name in experiment.rows)
    found.setdefault(row, {}).setdefault(result['labels'][experiment.column], []).append(result['score'])
  return found


def _columns(series: dict[str, dict[Any, list[float]]]) -> list[Any]:
  return list(dict.fromkeys(column for row in series.values() for column in row))


def _table(experiment: Experiment, reported: list[Result]) -> list[str]:
  series = _series(experiment, reported)
  columns = _columns(series)
  lines = [
    f'| {", ".join(experiment.rows)} | ' + ' | '.join(f'{experiment.column} {c}' for c in columns) + ' |',
    '| --- ' * (len(columns) + 1) + '|',
  ]
  for row, scores in series.items():
    lines.append(
      f'| {row} | ' + ' | '.join(_spread(scores[c]) if c in scores else '-' for c in columns) + ' |'
    )
  return lines


def _spread(scores: list[float]) -> str:
  if len(scores) == 1:
    return f'{scores[0]:.3f}'
  return f'{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}'


def paired_interval(claim: Claim, reported: list[Result]) -> tuple[float, float, float]:
  """Returns the mean difference better - worse over seeds, and the ends of its 95 % Student t interval.

  Scores of one side and seed are averaged first. With fewer than two common seeds the ends are not numbers.
  """
  sides = []
  for wanted in (claim.better, claim.worse):
    by_seed: dict[Any, list[float]] = {}
    for result in reported:
      if matches(result['labels'], wanted):
        by_seed.setdefault(result['labels']['seed'], []).append(result['score'])
    sides.append({seed: statistics.mean(scores) for seed, scores in by_seed.items()})
  differences = [sides[0][seed] - sides[1][seed] for seed in sides[0] if seed in sides[1]]
  if not differences:
    return math.nan, math.nan, math.nan
  mean = statistics.mean(differences)
  if len(differences) < 2:
    return mean, math.nan, math.nan
  factor = float(scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, len(differences) - 1))
  half = factor * statistics.stdev(differences) / math.sqrt(len(differences))
  return mean, mean - half, mean + half


def _claim_row(claim: Claim, reported: list[Result]) -> str:
  mean, low, high = paired_interval(claim, reported)
  source = f' ({claim.source})' if claim.source else ''
  if math.isnan(low):
    return f'| {claim.text}{source} | {mean:+.3f} | too few seeds to say |'
  verdict = 'not shown: within the spread of the seeds'
  if low > 0:
    verdict = '**holds here**'
  elif high < 0:
    verdict = '**the opposite holds here**'
  return f'| {claim.text}{source} | {mean:+.3f} ({low:+.3f} to {high:+.3f}) | {verdict} |'


def _plot(experiment: Experiment, reported: list[Result], path: pathlib.Path) -> None:
  series = _series(experiment, reported)
  figure, axes = plt.subplots(figsize=(8, 4.8), layout='constrained')
  if experiment.log_x:
    _plot_lines(axes, series)
  else:
    _plot_points(axes, series)
  if experiment.chance is not None:
    axes.axhline(experiment.chance, color='grey', linewidth=0.8, linestyle=':', label='chance')
  axes.set_xlabel(experiment.column)
  axes.set_ylabel(experiment.metric_name)
  axes.set_title(experiment.title)
  axes.legend(fontsize=8, title=', '.join(experiment.rows), title_fontsize=8)
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=120)
  plt.close(figure)


def _plot_lines(axes: Any, series: dict[str, dict[Any, list[float]]]) -> None:
  for i, (row, scores) in enumerate(series.items()):
    x = sorted(scores)
    means = [statistics.mean(scores[c]) for c in x]
    spread = [statistics.stdev(scores[c]) if len(scores[c]) > 1 else 0.0 for c in x]
    axes.errorbar(x, means, spread, marker='o', capsize=3, label=row, color=_COLOURS[i % len(_COLOURS)])
  axes.set_xscale('log')
  axes.set_xticks(_columns(series), [f'{c:,}' for c in _columns(series)])
  axes.minorticks_off()


def _plot_points(axes: Any, series: dict[str, dict[Any, list[float]]]) -> None:
  """Means with their spread and a dot per seed; no bars, since the axis need not start at 0."""
  columns = _columns(series)
  width = 0.7 / len(series)
  for i, (row, scores) in enumerate(series.items()):
    x = [columns.index(c) + (i - (len(series) - 1) / 2) * width for c in scores]
    means = [statistics.mean(values) for values in scores.values()]
    spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in scores.values()]
    colour = _COLOURS[i % len(_COLOURS)]
    axes.errorbar(x, means, spread, fmt='D', capsize=4, label=row, color=colour)
    for place, values in zip(x, scores.values(), strict=True):
      axes.plot([place] * len(values), values, '.', color=colour, markersize=5, alpha=0.5)
  axes.set_xticks(range(len(columns)), [str(c) for c in columns])
  axes.grid(axis='y', alpha=0.3)
