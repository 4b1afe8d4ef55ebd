"""Run an experiment: every cell of a comparison, over seeds, then a page with table, plot and what it shows.

  vitjax experiment --config=configs/experiments/positions.py --workdir=runs/positions
  vitjax experiment --config=configs/experiments/positions.py --workdir=/tmp/look --smoke

Cells that are done are read back, so a second call resumes. Writes results.md, its plots, results.csv and results.json
into the workdir, and one run per cell.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from vitjax.config.experiment import Cell, Experiment, cell_name, load_experiment

_RESULT = 'result.json'


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
  results = _train_all(args.config, experiment, workdir, overrides, max(args.processes, 1))
  command = f'vitjax experiment --config={args.config} --workdir={args.workdir}' + (
    ' --smoke' if args.smoke else ''
  )
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


def _train_all(
  file: str, experiment: Experiment, workdir: pathlib.Path, overrides: list[tuple[str, str]], processes: int
) -> list[dict[str, Any]]:
  """Returns the result of each cell in order; a cell waits for the one it starts from."""
  cells = {cell.name: cell for cell in experiment.cells}
  results: dict[str, dict[str, Any]] = {}
  waiting, running = list(cells), {}
  cores = multiprocessing.get_context('spawn').Queue()
  for share in _shares(processes):
    cores.put(share)
  pool = concurrent.futures.ProcessPoolExecutor(
    processes, multiprocessing.get_context('spawn'), initializer=_start_worker, initargs=(cores,)
  )
  with pool, _progress(len(cells)) as advance:
    while waiting or running:
      for name in list(waiting):
        start = cells[name].start
        if start is None or cell_name(start) in results:
          waiting.remove(name)
          metrics = (experiment.metric, cells[name].metric)
          task = (_spec(file, cells[name], workdir), overrides, str(workdir / name), *metrics)
          running[pool.submit(_train_cell, *task)] = name
      done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in done:
        name = running.pop(future)
        results[name] = {'name': name, 'labels': dict(cells[name].labels), **future.result()}
        advance(_line(name, results[name]))
  return [results[name] for name in cells]


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
  """Shows a bar over cells with an ETA, and a line for each one done; yields the function that takes the line."""
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

  columns = (TextColumn('cells'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
  console = Console(soft_wrap=True, highlight=False, markup=False)
  with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
    task = bar.add_task('cells', total=total)

    def advance(text: str) -> None:
      console.print(text)
      bar.advance(task)

    yield advance


def _line(name: str, result: dict[str, Any]) -> str:
  if 'error' in result:
    return f'{name}: failed: {result["error"]}'
  score = '' if result['score'] is None else f'{result["score"]:.3f}, '
  return f'{name}: {score}{result["cpu_s"]:.0f} CPU s'


def _shares(processes: int) -> list[set[int]]:
  """Returns a part of this process's cores for each of the workers; all of them where they are too few to share."""
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
  if len(cores) < processes:
    return [set(cores)] * processes
  return [set(cores[i::processes]) for i in range(processes)]


def _start_worker(cores: Any) -> None:
  share = cores.get()
  if share:
    os.sched_setaffinity(0, share)


def _train_cell(
  spec: str, overrides: list[tuple[str, str]], workdir: str, metric: str, own_metric: str
) -> dict[str, Any]:
  """Trains one cell in a worker process, or reads back one that is done.

  Returns:
    'score' (None where the run has no such metric), 'metrics' of the last evaluation, 'cpu_s' and 'steps'; or
    'error', why it failed. Processor time, because it does not grow when the machine is shared or the run is paused.
  """
  from vitjax.cli.environment import prepare

  prepare()
  import jax

  from vitjax.config import load_recipe
  from vitjax.errors import VitjaxError
  from vitjax.training import build, train

  stored = pathlib.Path(workdir) / _RESULT
  try:
    _, recipe = load_recipe(spec, [('log.progress', 'False'), *overrides], num_devices=jax.device_count())
    if stored.is_file():
      result = json.loads(stored.read_text(encoding='utf-8'))
      if result['spec'] == [spec, *map(list, overrides)]:
        return result
    began_s = time.process_time()
    training = build(recipe)
    final = train(training, workdir)
    if own_metric and own_metric in final:
      final = final | {metric: final[own_metric]}
  except VitjaxError as error:
    return {'error': str(error), 'score': None, 'metrics': {}, 'cpu_s': 0.0, 'steps': 0}
  result = {
    'spec': [spec, *map(list, overrides)],
    'score': final[metric] if metric in final else None,
    'metrics': final,
    'cpu_s': round(time.process_time() - began_s, 1),
    'steps': training.stop_step,
  }
  stored.write_text(json.dumps(result) + '\n', encoding='utf-8')
  return result
