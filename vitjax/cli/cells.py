"""Training runs that belong together, some at a time, each in a worker process; those that are done are read back.

What `vitjax experiment`, `vitjax sweep` and `vitjax verify` run. No scheduler: a cluster's own gets one job a run.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_RESULT = 'result.json'
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
  """One run.

  Attributes:
    name: of the run, unique.
    spec: the recipe, 'file.py:a=1'.
    overrides: (dotted path, value as text) pairs.
    workdir: where it writes, and where result.json says that it is done.
    metric: of its last evaluation, the score; '' for none.
    own_metric: the score where the run has it; it stands under `metric` then. '': none.
    after: name of a run that must be done before; it stands earlier.
  """

  name: str
  spec: str
  overrides: tuple[tuple[str, str], ...]
  workdir: pathlib.Path
  metric: str
  own_metric: str = ''
  after: str | None = None


def run_all(tasks: Sequence[Task], processes: int) -> list[Result]:
  """Returns the result of each run in order, see `_train_cell`, with its name; `processes` of them at a time."""
  results: dict[str, Result] = {}
  waiting, running = list(tasks), {}
  cores = multiprocessing.get_context('spawn').Queue()
  for share in _shares(processes):
    cores.put(share)
  pool = concurrent.futures.ProcessPoolExecutor(
    processes, multiprocessing.get_context('spawn'), initializer=_start_worker, initargs=(cores,)
  )
  with pool, _progress(len(tasks)) as advance:
    while waiting or running:
      for task in list(waiting):
        if task.after is None or task.after in results:
          waiting.remove(task)
          arguments = (task.spec, list(task.overrides), str(task.workdir), task.metric, task.own_metric)
          running[pool.submit(_train_cell, *arguments)] = task.name
      done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in done:
        name = running.pop(future)
        results[name] = {'name': name, **future.result()}
        advance(_line(name, results[name]))
  return [results[task.name] for task in tasks]


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
) -> Result:
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
