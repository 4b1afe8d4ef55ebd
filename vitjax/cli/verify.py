"""Published numbers: list them, or run the recipe that should reach one and compare.

vitjax verify                                             all of them, with what this machine lacks for each
vitjax verify quickstart-vit-scratch-5shot --workdir=runs/verify
vitjax verify augreg-b32-pets --start=runs/augreg-b32 --workdir=runs/verify --config.data.source.path=TFDS_DATA_DIR

Where data, weights or an accelerator are missing, it says what, and runs nothing. The test split is used once, for the
comparison; --config.* may change any knob, and what was changed is printed with the result.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re

from vitjax.config.published import PUBLISHED, Published
from vitjax.config.suggest import did_you_mean
from vitjax.errors import ConfigError, Problem

Overrides = list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument
  add('name', nargs='?', help='of the list; without it, the list is shown')
  add('--start', metavar='PATH', help='the checkpoint that the recipe fine-tunes')
  add('--workdir', metavar='DIR', default='runs/verify', help='where the run goes (runs/verify)')
  add('--configs', metavar='DIR', default='.', help='the folder that holds configs/ (.)')
  parser.set_defaults(config='the recipe of the published number')


def run(args: argparse.Namespace, overrides: Overrides) -> int:
  """Lists, or runs one; returns 0 when the number is reached, 1 when it is not, 2 when something is missing."""
  if args.name is None:
    print(listing())
    return 0
  if args.name not in PUBLISHED:
    hint = did_you_mean(args.name, PUBLISHED)
    raise ConfigError(
      'No such number.', [Problem('name', args.name, 'a name that `vitjax verify` lists', hint)]
    )
  row = PUBLISHED[args.name]
  if problems := missing(row, args.start, overrides):
    raise ConfigError(f'{args.name} cannot be run here.', problems)
  from vitjax.cli.cells import Task, run_all
  from vitjax.cli.environment import prepare

  prepare()
  start = f',checkpoint={args.start}' if args.start else ''
  spec = f'{pathlib.Path(args.configs) / row.recipe}{start}'
  workdir = pathlib.Path(args.workdir).absolute() / args.name
  (result,) = run_all([Task(args.name, spec, tuple(overrides), workdir, row.metric)], 1)
  if 'error' in result or result['score'] is None:
    print(f'{args.name}: no result: {result["error"] if "error" in result else f"no {row.metric}"}')
    return 1
  changed = ''.join(f' --config.{path}={value}' for path, value in overrides)
  reached = result['score'] >= row.value - row.tolerance
  print(f'recipe     {spec}{changed}')
  print(f'published  {row.value:.4f} - {row.tolerance:.4f}    {row.source}')
  print(f'measured   {result["score"]:.4f}    {row.metric}: {"reached" if reached else "NOT reached"}')
  return 0 if reached else 1


def listing() -> str:
  """Returns the table of all numbers, with what is missing here."""
  lines = [f'{"name":<32}{"value":<9}{"less":<8}here']
  lines += [
    f'{name:<32}{row.value:<9.4f}{row.tolerance:<8.4f}{", ".join(p.where for p in missing(row, None, [])) or "runs"}'
    for name, row in PUBLISHED.items()
  ]
  return '\n'.join([
    *lines,
    '',
    "'here' names what is missing; `vitjax verify NAME` says how to get it.",
  ])  # fmt: skip


def missing(row: Published, start: str | None, overrides: Overrides) -> list[Problem]:
  """Returns what a number needs and this machine, or this command, does not have."""
  found = []
  if row.start and not start:
    found.append(
      Problem('--start', 'not given', row.start, 'Pretrain it, or import it into a workdir of vitjax')
    )
  elif start and not pathlib.Path(start).exists():
    found.append(Problem('--start', start, 'an existing checkpoint'))
  folder = next((value for path, value in overrides if path == 'data.source.path'), None)
  found += [problem for name in row.data if (problem := _data_problem(name, folder)) is not None]
  if row.accelerator and not _has_accelerator():
    found.append(Problem('accelerator', 'none', 'a GPU or TPU: on a CPU this takes days or more'))
  return found


def _data_problem(name: str, folder: str | None) -> Problem | None:
  """Returns what is wrong with a TFDS data set: not prepared in its folder. Looks at files alone."""
  root = pathlib.Path(folder or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
  base = root / name
  versions = base.iterdir() if base.is_dir() else ()
  if any(re.fullmatch(r'\d+\.\d+\.\d+', path.name) for path in versions):
    return None
  hint = f'tfds build {name} --file_format=array_record, and --config.data.source.path=FOLDER'
  return Problem('data', name, f'prepared by TFDS in {root}', hint)


def _has_accelerator() -> bool:
  import jax

  return jax.default_backend() != 'cpu'
