"""The plots of an experiment: scores with their spread over seeds, and what was measured during training."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt

from vitjax.config.experiment import Course, Experiment, Measure

# {row text: {column value: scores over seeds}}
Series = dict[str, dict[Any, list[float]]]
# {metric: {step: values over runs}}
Lines = Mapping[str, Mapping[int, Sequence[float]]]
_COLOURS = ('#1f5fa8', '#b5651d', '#2e8b57', '#8e4585', '#708090', '#c2a83e', '#b22222', '#4fb3bf')
_WRAP = 16
# Entries of a legend within the axes.
_MOST_INSIDE = 6


def columns_of(series: Series) -> list[Any]:
  """Returns the columns in the order in which they appear first."""
  return list(dict.fromkeys(column for row in series.values() for column in row))


def plot_scores(experiment: Experiment, measure: Measure, series: Series, path: pathlib.Path) -> None:
  """Writes a PNG: mean and standard deviation over seeds of every row at every column."""
  figure, axes = plt.subplots(figsize=(8, 4.8), layout='constrained')
  if experiment.log_x:
    _plot_lines(axes, series)
  else:
    _plot_points(axes, series)
  if measure.chance is not None:
    axes.axhline(measure.chance, color='grey', linewidth=0.8, linestyle=':', label='chance')
  axes.set_xlabel(experiment.column)
  axes.set_ylabel(measure.name)
  axes.set_title(experiment.title)
  # Many entries would cover points wherever they stand inside.
  outside = {'loc': 'upper left', 'bbox_to_anchor': (1.0, 1.0)} if len(series) > _MOST_INSIDE else {}
  axes.legend(fontsize=8, title=', '.join(experiment.rows), title_fontsize=8, **outside)
  axes.grid(axis='y', alpha=0.3)
  _save(figure, axes, path)


def plot_course(course: Course, lines: Lines, path: pathlib.Path) -> None:
  """Writes a PNG: each metric over the steps, mean and a band of one standard deviation over the runs.

  Args:
    course: what to draw.
    lines: the values of its metrics; a metric without values is left out.
    path: of the PNG.
  """
  figure, axes = plt.subplots(figsize=(8, 4.8), layout='constrained')
  shown = [name for name in course.metrics if name in lines]
  shades = plt.get_cmap('viridis')
  for i, name in enumerate(shown):
    steps = sorted(lines[name])
    means = [statistics.mean(lines[name][step]) for step in steps]
    spread = [_stdev(lines[name][step]) for step in steps]
    colour = _COLOURS[i] if len(shown) < 3 else shades(0.9 * i / (len(shown) - 1))
    axes.plot(steps, means, marker='.', color=colour, label=course.metrics[name])
    low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
  if course.level is not None and course.level[0] in lines:
    values = [value for found in lines[course.level[0]].values() for value in found]
    axes.axhline(statistics.mean(values), color='grey', linestyle=':', label=course.level[1])
  axes.set_xlabel('step')
  axes.set_ylabel(course.axis)
  axes.set_title(course.title)
  axes.legend(fontsize=8)
  axes.grid(axis='y', alpha=0.3)
  _save(figure, axes, path)


def _save(figure: Any, axes: Any, path: pathlib.Path) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=120)
  plt.close(figure)


def _stdev(values: Sequence[float]) -> float:
  return statistics.stdev(values) if len(values) > 1 else 0.0


def _plot_lines(axes: Any, series: Series) -> None:
  for i, (row, scores) in enumerate(series.items()):
    x = sorted(scores)
    means = [statistics.mean(scores[c]) for c in x]
    spread = [_stdev(scores[c]) for c in x]
    axes.errorbar(x, means, spread, marker='o', capsize=3, label=row, color=_COLOURS[i % len(_COLOURS)])
  axes.set_xscale('log')
  ticks = sorted(columns_of(series))
  axes.set_xticks(ticks, [f'{c:,}' for c in ticks])
  axes.minorticks_off()


def _plot_points(axes: Any, series: Series) -> None:
  """Means with their spread and a dot per seed; no bars, since the axis need not start at 0."""
  columns = columns_of(series)
  width = 0.7 / len(series)
  for i, (row, scores) in enumerate(series.items()):
    x = [columns.index(c) + (i - (len(series) - 1) / 2) * width for c in scores]
    means = [statistics.mean(values) for values in scores.values()]
    spread = [_stdev(values) for values in scores.values()]
    colour = _COLOURS[i % len(_COLOURS)]
    axes.errorbar(x, means, spread, fmt='D', capsize=4, label=row, color=colour)
    for place, values in zip(x, scores.values(), strict=True):
      axes.plot([place] * len(values), values, '.', color=colour, markersize=5, alpha=0.5)
  axes.set_xticks(range(len(columns)), [_wrapped(str(c)) for c in columns])


def _wrapped(text: str) -> str:
  """Returns a long label on two lines, broken after its comma."""
  return text.replace(', ', ',\n', 1) if len(text) > _WRAP else text
