"""`python -m launch ENGINE ...`: the same flags for every engine, and the engine's own."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from launch.job import Job
from vitjax.errors import ConfigError, Problem, VitjaxError

ENGINES = {
  'local': 'launch.local.run',
  'slurm': 'launch.slurm.render',
  'tpu': 'launch.tpu.render',
  'xpk': 'launch.gke.xpk',
  'jobset': 'launch.gke.jobset',
  'skypilot': 'launch.skypilot.render',
  'ray': 'launch.ray.render',
}
_USAGE = """usage: python -m launch ENGINE [flags]      python -m launch ENGINE --help shows flags and an example

Prints what the engine gets; --run=STEP also writes the file and runs that step.
See launch/README.md, and the page of each engine beside it.

engines: {engines}
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Renders, or runs, one job; returns the exit code: 2 for a job that cannot be rendered."""
  argv = list(sys.argv[1:] if argv is None else argv)
  if not argv or argv[0] in ('-h', '--help'):
    print(_USAGE.format(engines=', '.join(ENGINES)))
    return 0
  if argv[0] not in ENGINES:
    print(f'launch: no engine {argv[0]!r}; engines: {", ".join(ENGINES)}', file=sys.stderr)
    return 2
  engine = importlib.import_module(ENGINES[argv[0]])
  parser = argparse.ArgumentParser(
    prog=f'python -m launch {argv[0]}', description=engine.__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  engine.add_arguments(parser)
  try:
    if argv[0] == 'local':
      return engine.run(parser.parse_args(argv[1:]))
    add_job_arguments(parser)
    args, overrides = _parse(parser, argv[1:])
    return _render(engine, job_of(args, overrides), args)
  except VitjaxError as error:
    print(f'launch {argv[0]}: {error}', file=sys.stderr)
    return 2


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags that describe a job."""
  add = parser.add_argument_group('the job').add_argument
  add('--name', required=True, help="of the job: small letters, digits and '-'")
  add('--hosts', type=int, default=1, metavar='N', help='hosts; each runs one process (1)')
  add(
    '--devices',
    type=int,
    default=0,
    metavar='D',
    help='accelerators of each host (0: as the machine type says)',
  )
  add(
    '--config',
    required=True,
    metavar='FILE[:arg=value,...]',
    help='a recipe file, as it is found on the hosts',
  )
  add('--workdir', required=True, metavar='DIR', help='where checkpoints go; all hosts see it')
  add('--config.a.b=VALUE', dest='_', nargs='?', help='changes one knob; any number of these')
  add(
    '--program',
    default='vitjax',
    metavar='WORDS',
    help='what starts vitjax on a host, split at spaces (vitjax)',
  )
  add('--folder', metavar='DIR', help='the folder on the hosts in which it starts')
  add('--out', metavar='FILE', help='where the job file is written')
  add('--run', metavar='STEP', help='write the file and run this step')


def job_of(args: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> Job:
  """Returns the job that the flags of `add_job_arguments` describe."""
  return Job(
    name=args.name,
    hosts=args.hosts,
    config=args.config,
    workdir=args.workdir,
    devices=args.devices,
    overrides=tuple(overrides),
    program=tuple(args.program.split()),
    folder=args.folder,
  )


def _parse(
  parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
  own, overrides = [], []
  for word in argv:
    if not word.startswith('--config.'):
      own.append(word)
      continue
    path, equals, value = word.removeprefix('--config.').partition('=')
    if not equals:
      parser.error(f'{word}: expected {word}=VALUE')
    overrides.append((path, value))
  return parser.parse_args(own), overrides


def _render(engine, job: Job, args: argparse.Namespace) -> int:
  rendered = engine.render(job, args)
  if args.run is None and args.out is None:
    print(rendered)
    return 0
  if args.run is not None and args.run not in rendered.steps:
    raise ConfigError('No such step.', [Problem('--run', repr(args.run), ' or '.join(rendered.steps))])
  if rendered.file is not None:
    pathlib.Path(rendered.file_name).write_text(rendered.file, encoding='utf-8')
    print(f'wrote {rendered.file_name}')
  if args.run is None:
    return 0
  return subprocess.run(rendered.steps[args.run], check=False).returncode
