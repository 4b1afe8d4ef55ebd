"""Run an experiment: every cell of a comparison, over seeds, then a page with table, plot and what it shows.

  vitjax experiment --config=configs/experiments/positions.py --workdir=runs/positions
  vitjax experiment --config=configs/experiments/positions.py --workdir=/tmp/look --smoke

Cells that are done are read back, so a second call resumes. Writes results.md, its plots, results.csv and results.json
into the workdir, and one run per cell.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import time

from vitjax.cli.cells import Task, run_all
from vitjax.config.experiment import Cell, Experiment, cell_name, load_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--config', required=True, metavar='FILE', help='an experiment file, see configs/experiments/'
  )
  parser.add_argument('--workdir', required=True, metavar='DIR', help='where runs and results go')
  parser.add_argument('--smoke', action='store_true', help='a few steps per cell: does it run?')
  parser.add_argument(
    '--processes',
    type=int,
    default=1,
    metavar='N',
    help='cells trained at a time; the cores are shared out (1)',
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Trains the cells, writes the page; returns 1 when a cell failed."""
  experiment = load_experiment(args.config, smoke=args.smoke)
  _check_recipes(args.config, experiment, overrides)
  from vitjax.cli.environment import prepare

  prepare()
  from vitjax.cli import experiment_report as report

  workdir = pathlib.Path(args.workdir).absolute()
  workdir.mkdir(parents=True, exist_ok=True)
  began_s = time.perf_counter()
  tasks = [
    Task(
      name=cell.name,
      spec=_spec(args.config, cell, workdir),
      overrides=tuple(overrides),
      workdir=workdir / cell.name,
      metric=experiment.metric,
      own_metric=cell.metric,
      after=None if cell.start is None else cell_name(cell.start),
    )
    for cell in experiment.cells
  ]
  labels = {cell.name: dict(cell.labels) for cell in experiment.cells}
  results = [
    {'name': result['name'], 'labels': labels[result['name']], **result}
    for result in run_all(tasks, max(args.processes, 1))
  ]
  flags = [f'--config={args.config}', f'--workdir={args.workdir}', *(['--smoke'] if args.smoke else [])]
  flags += [f'--config.{path}={value}' for path, value in overrides]
  command = f'vitjax experiment {shlex.join(flags)}'
  page = report.write(experiment, results, workdir, command=command, wall_s=time.perf_counter() - began_s)
  print(page)
  print(f'page: {workdir / "results.md"}')
  return int(any('error' in result for result in results))


def _spec(file: str, cell: Cell, workdir: pathlib.Path) -> str:
  """Returns the recipe of a cell as train takes it: 'file.py:a=1,checkpoint=...'."""
  arguments = dict(cell.arguments)
  if cell.start is not None:
    arguments['checkpoint'] = workdir / cell_name(cell.start)
  return f'{file}:' + ','.join(f'{name}={value}' for name, value in arguments.items())


def _check_recipes(file: str, experiment: Experiment, overrides: list[tuple[str, str]]) -> None:
  """Raises ConfigError for the first recipe that is wrong, before anything runs."""
  from vitjax.config import load_recipe

  for cell in experiment.cells:
    if cell.start is None:
      load_recipe(_spec(file, cell, pathlib.Path()), overrides)
