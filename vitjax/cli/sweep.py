"""Run a recipe at every point of a grid, and choose the best on validation data.

vitjax sweep --config=configs/quickstart.py --metric=val/accuracy_top1 --workdir=runs/sweep \\
  --grid=optim.peak_lr=0.001,0.003,0.01 --grid=seed=0,1 --config.evals.val.source.split=train[4000:]

A grid names a knob (a.b or seed, total) or an argument of the recipe file; every combination is a point. Points that
are done are read back, so the same command resumes. With seeds in the grid, the mean over them chooses. A test split
never does: --metric has to come from held-out training data.

On a cluster, --launcher=ENGINE writes one job per point for an engine of launch/ and runs nothing; flags after -- are
the engine's. When the jobs are done, the same command with --collect instead makes the table:

vitjax sweep ... --launcher=slurm -- --hosts=1 --devices=8 --time=4:00:00
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from vitjax.cli.cells import Result, Task, run_all
from vitjax.config.experiment import cell_name
from vitjax.config.knobs import find_knob
from vitjax.errors import ConfigError, Problem

Labels = dict[str, str]
SEED = 'seed'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument
  add('--config', required=True, metavar='FILE[:arg=value,...]', help='a recipe file')
  add('--grid', required=True, action='append', metavar='NAME=V,V', help='a knob or argument, and its values')
  add(
    '--metric',
    required=True,
    metavar='EVAL/NAME',
    help="such as val/accuracy_top1; of 'loss' the smallest wins",
  )
  add('--workdir', required=True, metavar='DIR', help='where runs and results.json go')
  add('--processes', type=int, default=1, metavar='N', help='points trained at a time on this machine (1)')
  add('--launcher', metavar='ENGINE', help='write one job per point for this engine of launch/ instead')
  add('--collect', action='store_true', help='train nothing: the table of what has been trained')
  add('launcher_flags', nargs='*', metavar='-- FLAGS', help="the engine's flags")


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Trains, launches or collects the points; returns 1 when one failed or is missing."""
  points = grid_points(args.grid)
  workdir = pathlib.Path(args.workdir).absolute()
  tasks = [_task(args, labels, overrides, workdir) for labels in points]
  _check(tasks, args.metric)
  if args.launcher is not None:
    return _launch(args, tasks)
  if args.collect:
    results = _finished([collect(task) for task in tasks], points)
  else:
    from vitjax.cli.environment import prepare

    prepare()
    results = run_all(tasks, max(args.processes, 1))
  rows = summarise(points, results, smallest=args.metric.endswith('loss'))
  workdir.mkdir(parents=True, exist_ok=True)
  record = {'config': args.config, 'metric': args.metric, 'points': rows}
  (workdir / 'results.json').write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
  print(table(rows, args.metric))
  failed = [result for result in results if 'error' in result]
  for result in failed:
    print(f'{result["name"]}: {result["error"]}', file=sys.stderr)
  if failed or rows[0]['score'] is None:
    print('nothing is chosen before all points are done', file=sys.stderr)
    return 1
  spec, chosen = _at(args.config, rows[0]['labels'])
  flags = [f'--config={spec}', *(f'--config.{path}={value}' for path, value in (*overrides, *chosen))]
  print('chosen: ' + shlex.join(flags))
  return 0


def grid_points(grids: Sequence[str]) -> list[Labels]:
  """Returns every combination of the values of 'name=v,v' texts, the last name varying fastest.

  Raises:
    ConfigError: texts without values, names or values that stand twice; all of them.
  """
  axes: dict[str, list[str]] = {}
  problems = []
  for text in grids:
    name, _, values = text.partition('=')
    split = [
      v.strip() for v in re.split(r',(?![^(\[]*[)\]])', values)
    ]  # a comma inside a tuple is the tuple's
    if not name or '' in split:
      problems.append(Problem('--grid', text, 'NAME=VALUE,VALUE', 'Such as --grid=optim.peak_lr=0.003,0.01'))
    elif name in axes or len(set(split)) < len(split):
      problems.append(Problem('--grid', text, 'each name and each value once'))
    axes[name] = split
  if problems:
    raise ConfigError('The grid cannot be read.', problems)
  return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _at(config: str, labels: Labels) -> tuple[str, list[tuple[str, str]]]:
  """Returns the recipe with its arguments, and the knobs, of one point."""
  arguments, knobs = [], []
  for name, value in labels.items():
    is_knob = find_knob(name) is not None or '.' in name
    (knobs if is_knob else arguments).append((name, value))
  if not arguments:
    return config, knobs
  joined = ','.join(f'{name}={value}' for name, value in arguments)
  return f'{config}{"," if ".py:" in config else ":"}{joined}', knobs


def _task(
  args: argparse.Namespace, labels: Labels, overrides: list[tuple[str, str]], workdir: pathlib.Path
) -> Task:
  spec, knobs = _at(args.config, labels)
  name = cell_name(labels)
  return Task(name, spec, (*overrides, *knobs), workdir / name, args.metric)


def _check(tasks: Sequence[Task], metric: str) -> None:
  """Raises for points whose recipes are wrong, and for a metric that is none of theirs or comes from test data."""
  from vitjax.config import load_recipe

  evaluator = metric.partition('/')[0]
  for task in tasks:
    _, recipe = load_recipe(task.spec, task.overrides)
    if evaluator not in recipe.evals:
      expected = f'EVALUATOR/NAME with one of {", ".join(recipe.evals) or "no evaluators"}'
      raise ConfigError('Nothing to choose by.', [Problem('--metric', metric, expected)])
    split = recipe.evals[evaluator].source.split
    if evaluator.startswith('test') or split == 'test':
      hint = f'Hold out training data: --config.evals.{evaluator}.source.split="train[90%:]", and train on the rest'
      expected = 'an evaluator of held-out training data: what chooses on a test split cannot be tested on it'
      raise ConfigError(
        'A test split never chooses.', [Problem('--metric', f'{metric} on {split!r}', expected, hint)]
      )


def collect(task: Task) -> Result:
  """Returns what a point's metrics.jsonl says: 'score' and 'steps' of its newest evaluation, or 'error'."""
  from vitjax.training.metrics import read_metrics

  try:
    rows = [row for row in read_metrics(task.workdir) if task.metric in row]
  except OSError:
    rows = []
  if not rows:
    return {'name': task.name, 'error': f'no {task.metric} in {task.workdir} yet', 'score': None, 'steps': 0}
  return {'name': task.name, 'score': rows[-1][task.metric], 'steps': int(rows[-1]['step'])}


def _finished(results: list[Result], points: Sequence[Labels]) -> list[Result]:
  """Returns the results with those marked that are behind the others; a grid over lengths has no common end."""
  if any(name in ('total', 'stop_after') or name.startswith('data.') for name in points[0]):
    return results
  most = max(result['steps'] for result in results)
  return [
    result
    if result['steps'] == most
    else {'error': f'at step {result["steps"]} of {most}', **result, 'score': None}
    for result in results
  ]


def summarise(
  points: Sequence[Labels], results: Sequence[Result], *, smallest: bool = False
) -> list[dict[str, Any]]:
  """Returns one row per point, seeds put together, best first; a point that is not done has the score None.

  Args:
    points: labels of each result.
    results: with 'score' and 'steps'.
    smallest: the smallest score is the best.
  """
  groups: dict[tuple[tuple[str, str], ...], list[Result]] = {}
  for labels, result in zip(points, results, strict=True):
    groups.setdefault(tuple((n, v) for n, v in labels.items() if n != SEED), []).append(result)
  rows = []
  for key, members in groups.items():
    scores = [member['score'] for member in members]
    done = all(score is not None and math.isfinite(score) for score in scores)
    rows.append({
      'labels': dict(key),
      'score': sum(scores) / len(scores) if done else None,
      'lowest': min(scores) if done else None,
      'highest': max(scores) if done else None,
      'runs': len(members),
      'steps': min(member['steps'] for member in members),
    })  # fmt: skip
  sign = 1 if smallest else -1
  return sorted(rows, key=lambda row: math.inf if row['score'] is None else sign * row['score'])


def table(rows: Sequence[dict[str, Any]], metric: str) -> str:
  """Returns the rows as text, best first, with the spread over seeds where there are several."""
  names = list(rows[0]['labels'])
  header = [*names, metric, 'lowest .. highest', 'runs', 'steps']
  lines = [header]
  for row in rows:
    done = row['score'] is not None
    spread = f'{row["lowest"]:.4f} .. {row["highest"]:.4f}' if done and row['runs'] > 1 else ''
    score = f'{row["score"]:.4f}' if done else 'not done'
    lines.append([*(row['labels'][n] for n in names), score, spread, str(row['runs']), str(row['steps'])])
  widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
  return '\n'.join(
    '  '.join(f'{cell:<{w}}' for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
  )


def _launch(args: argparse.Namespace, tasks: Sequence[Task]) -> int:
  """Writes a job per point through `python -m launch`, and says how to submit them."""
  folder = pathlib.Path(args.workdir).absolute() / 'jobs'
  folder.mkdir(parents=True, exist_ok=True)
  for i, task in enumerate(tasks):
    argv = [
      sys.executable, '-m', 'launch', args.launcher, f'--name=sweep-{i}', f'--config={task.spec}',
      f'--workdir={task.workdir}', *(f'--config.{path}={value}' for path, value in task.overrides),
      *args.launcher_flags,
    ]  # fmt: skip
    shown = subprocess.run(argv, capture_output=True, text=True, check=False)
    if shown.returncode:
      raise ConfigError(
        'The engine does not take this job.',
        [Problem('--launcher', args.launcher, shown.stderr.strip().splitlines()[-1] if shown.stderr else '')],
      )
    file = folder / f'sweep-{i}'
    subprocess.run([*argv, f'--out={file}'], capture_output=True, check=True)
    if not file.is_file():  # an engine that takes commands alone
      file.write_text(shown.stdout, encoding='utf-8')
    print(f'{file}: {task.name}')
    if not i:
      steps = [line for line in shown.stdout.splitlines() if re.match(r'# \w+:  ', line)]
      print(re.sub(rf'\bsweep-{i}\.\w+', str(file), '\n'.join(steps)))
  print(f'{len(tasks)} jobs in {folder}; when they are done, run this command with --collect')
  return 0
