"""Experiments: a question, the runs that answer it, and what their numbers are held against. No jax in here.

An experiment file holds a recipe, `get_config(arg)`, and `get_experiment(smoke)`, which lists the runs as arguments of
that recipe. `vitjax experiment --config=configs/experiments/positions.py` trains them and writes the results page.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitjax.config.load import call_in_file
from vitjax.config.suggest import suggest_file
from vitjax.errors import ConfigError, Problem

Labels = Mapping[str, Any]
_ENTRY = 'get_experiment'


@dataclasses.dataclass(frozen=True)
class Cell:
  """One training run.

  Attributes:
    labels: what tells it from the others, such as {'position': 'none', 'seed': 0}; its folder is named by them.
    arguments: of the file's get_config.
    start: labels of the cell whose weights it starts from, given to get_config as checkpoint=; None: from scratch.
    reported: whether the tables show it; pretraining alone is not.
    metric: what stands for the experiment's metric in this run, where another evaluator judges it; '' for that itself.
  """

  labels: Labels
  arguments: Labels
  start: Labels | None = None
  reported: bool = True
  metric: str = ''

  @property
  def name(self) -> str:
    """The name of its folder."""
    return cell_name(self.labels)


@dataclasses.dataclass(frozen=True)
class Claim:
  """What the paper or the field says, as two groups of cells: the first should score higher.

  Attributes:
    text: the claim in words.
    better: labels of the cells that should score higher.
    worse: labels of the others; cells of one seed are compared with each other.
    source: where it comes from.
    metrics: of the better and of the worse side; None: the score that the claim is listed under, for both.
  """

  text: str
  better: Labels
  worse: Labels
  source: str = ''
  metrics: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Measure:
  """Another score of the same runs, with a table, a plot and claims of its own.

  Attributes:
    metric: of train()'s last evaluation; larger is better.
    name: the same in words, for axes.
    claims: held against it.
    chance: the score of guessing; None: not drawn.
  """

  metric: str
  name: str
  claims: tuple[Claim, ...] = ()
  chance: float | None = None


@dataclasses.dataclass(frozen=True)
class Course:
  """What is drawn over the steps of training: a line per metric, mean and spread over the reported runs.

  Attributes:
    title: of the plot.
    axis: what the metrics are, with their unit.
    metrics: {name in metrics.jsonl: name in the legend}.
    level: a metric that does not change, drawn as a dotted line, and its name; None: no such line.
  """

  title: str
  axis: str
  metrics: Mapping[str, str]
  level: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A question and how it is answered.

  Attributes:
    title: of the results page.
    question: what is asked, in a sentence or two.
    method: data, models, budget, in a few sentences.
    limits: what the result does not show.
    metric: of train()'s last evaluation, such as 'val/accuracy_top1'; larger is better.
    metric_name: the same in words, for axes.
    cells: the runs, in order; a cell stands after the one it starts from.
    rows: labels that make the rows of the table.
    column: the label that makes its columns, and the x axis of the plot.
    log_x: the columns are numbers on a logarithmic axis: lines instead of bars.
    claims: held against the numbers.
    chance: the score of guessing; None: not drawn.
    also: other scores of the same runs.
    courses: plots over the steps of training.
  """

  title: str
  question: str
  method: str
  limits: str
  metric: str
  metric_name: str
  cells: tuple[Cell, ...]
  rows: tuple[str, ...]
  column: str
  log_x: bool = False
  claims: tuple[Claim, ...] = ()
  chance: float | None = None
  also: tuple[Measure, ...] = ()
  courses: tuple[Course, ...] = ()

  @property
  def measures(self) -> tuple[Measure, ...]:
    """All scores, that of `metric` first."""
    return (Measure(self.metric, self.metric_name, self.claims, self.chance), *self.also)


def cell_name(labels: Labels) -> str:
  """Returns a folder name for labels: 'position-none_seed-0'."""
  parts = (f'{name}-{value}' for name, value in labels.items())
  return '_'.join(re.sub(r'[^\w.+-]', '-', part) for part in parts)


def grid(**axes: Sequence[Any]) -> list[dict[str, Any]]:
  """Returns every combination of the axes' values: grid(a=(1, 2), seed=(0, 1)) has four."""
  return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def matches(labels: Labels, wanted: Labels) -> bool:
  """Returns whether `labels` holds all of `wanted`."""
  return all(name in labels and labels[name] == value for name, value in wanted.items())


def load_experiment(file: str, *, smoke: bool) -> Experiment:
  """Returns what get_experiment(smoke) of a file makes, checked.

  Args:
    file: a Python file with get_config and get_experiment.
    smoke: the smallest form, which shows that everything runs.

  Raises:
    ConfigError: the file is missing or fails; cells repeat or start from cells that do not stand before them; claims
      that no cells answer. Lists all.
  """
  path = pathlib.Path(file)
  if not path.is_file():
    raise ConfigError('No such experiment.', [Problem(file, '', 'a Python file', suggest_file(file))])

  def call(module: Any) -> Any:
    if _ENTRY not in vars(module):
      raise ConfigError(
        f'no function {_ENTRY}.', [Problem(_ENTRY, '', f'def {_ENTRY}(smoke: bool) -> Experiment')]
      )
    return vars(module)[_ENTRY](smoke)

  experiment = call_in_file(path, call)
  if not isinstance(experiment, Experiment):
    raise ConfigError(f'{file}: {_ENTRY}() returned {type(experiment).__name__}, not an Experiment.')
  if problems := _problems(experiment):
    raise ConfigError(f'{file}: the experiment does not hold together', problems)
  return experiment


def _problems(experiment: Experiment) -> list[Problem]:
  problems, seen = [], set()
  for cell in experiment.cells:
    if cell.name in seen:
      problems.append(Problem(cell.name, 'a second time', 'cells with different labels'))
    if cell.start is not None and cell_name(cell.start) not in seen:
      problems.append(
        Problem(cell.name, f'starts from {cell_name(cell.start)}', 'a cell that stands before it')
      )
    missing = [name for name in (*experiment.rows, experiment.column, 'seed') if name not in cell.labels]
    if cell.reported and missing:
      problems.append(Problem(cell.name, '', f'the labels {", ".join(missing)}'))
    seen.add(cell.name)
  reported = [cell.labels for cell in experiment.cells if cell.reported]
  for claim in (claim for measure in experiment.measures for claim in measure.claims):
    for side in (claim.better, claim.worse):
      if not any(matches(labels, side) for labels in reported):
        problems.append(Problem(claim.text, f'{dict(side)}', 'labels that cells have'))
  return problems
