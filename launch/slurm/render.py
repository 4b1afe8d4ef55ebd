"""A SLURM batch file: saves before the time limit, queues itself again, resumes.

  python -m launch slurm --name=l16 --hosts=4 --devices=8 --time=24:00:00 --config=configs/pretrain.py:model=L/16 \\
    --workdir=/shared/runs/l16 --run=submit
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex

from launch.job import Job, check, refuse
from launch.rendered import Rendered
from vitjax.errors import Problem

# Exit codes: see vitjax/errors.py.
_TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={hosts}
#SBATCH --ntasks-per-node={tasks}
{directives}#SBATCH --time={time}
#SBATCH --signal={signal}@{margin_s}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={log}
set -u
{lines}srun --kill-on-bad-exit=0 --wait=120 --label {command}
code=$?
# 42: saved, and to be started again. It goes on from the newest checkpoint.
if [ "$code" -eq 42 ]; then
  scontrol requeue "$SLURM_JOB_ID" && exit 0
fi
exit "$code"
"""
_TIME = re.compile(r'(\d+-)?\d+(:\d+){0,2}')
# sbatch's --constraint joins features with these; no shell reads a directive.
_CONSTRAINT = re.compile(r'[A-Za-z0-9][-A-Za-z0-9_&|*\[\]()]*')


@dataclasses.dataclass(frozen=True)
class Slurm:
  """What SLURM needs besides the job.

  Attributes:
    time: limit of one stretch, as sbatch takes it: minutes, HH:MM:SS or D-HH.
    margin_s: seconds before the limit at which the processes are told to save and leave.
    partition, account, qos, constraint: sbatch's, None: the cluster's default.
    log: output file, %j stands for the job's number; None: NAME-%j.log.
    tasks_per_node: processes of each host.
  """

  time: str = '24:00:00'
  margin_s: int = 300
  partition: str | None = None
  account: str | None = None
  qos: str | None = None
  constraint: str | None = None
  log: str | None = None
  tasks_per_node: int = 1


# What tells the processes to save. SLURM itself sends it to a job that it preempts.
_SIGNAL = 'TERM'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument_group('SLURM').add_argument
  add('--time', default='24:00:00', help='limit of one stretch: minutes, HH:MM:SS or D-HH (24:00:00)')
  add('--margin_s', type=int, default=300, help='seconds before the limit to save and leave (300)')
  add('--partition', help="sbatch's --partition")
  add('--account', help="sbatch's --account")
  add('--qos', help="sbatch's --qos")
  add('--constraint', help="sbatch's --constraint")
  add('--log', help='output file (NAME-%%j.log)')
  add('--tasks_per_node', type=int, default=1, help='processes of each host (1)')


def render(job: Job, args: argparse.Namespace) -> Rendered:
  """Returns the batch file of the flags."""
  settings = Slurm(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Slurm)})
  file_name = args.out or f'{job.name}.sbatch'
  return Rendered({'submit': ['sbatch', file_name]}, batch_file(job, settings), file_name)


def batch_file(job: Job, settings: Slurm) -> str:
  """Returns the text of the batch file.

  Raises:
    ConfigError: values that SLURM would not take, or that cannot stand in a directive.
  """
  log = f'{job.name}-%j.log' if settings.log is None else settings.log
  words = [(f'--{name}', getattr(settings, name)) for name in ('partition', 'account', 'qos')]
  paths = (('--log', settings.log and settings.log.replace('%', '')), ('--folder', job.folder))
  check(job, [*words, *((flag, path and path.lstrip('/')) for flag, path in paths)])
  problems = []
  if not _TIME.fullmatch(settings.time):
    problems.append(Problem('--time', repr(settings.time), 'minutes, HH:MM:SS or D-HH'))
  if settings.constraint is not None and not _CONSTRAINT.fullmatch(settings.constraint):
    problems.append(Problem('--constraint', repr(settings.constraint), 'features joined by & or |'))
  for flag, number in (('--margin_s', settings.margin_s), ('--tasks_per_node', settings.tasks_per_node)):
    if number < 1:
      problems.append(Problem(flag, str(number), 'at least 1'))
  refuse(problems)
  directives = [f'{flag}={value}' for flag, value in (*words, ('--constraint', settings.constraint)) if value]
  lines = ''
  if job.devices:
    directives.append(f'--gpus-per-node={job.devices}')
    if settings.tasks_per_node == 1:
      # Under SLURM jax takes one device per task; a process here drives all of its host.
      lines = f'export JAX_LOCAL_DEVICE_IDS={",".join(map(str, range(job.devices)))}\n'
  if job.folder is not None:
    directives.append(f'--chdir={job.folder}')
  return _TEMPLATE.format(
    name=job.name,
    hosts=job.hosts,
    tasks=settings.tasks_per_node,
    directives=''.join(f'#SBATCH {directive}\n' for directive in directives),
    time=settings.time,
    signal=_SIGNAL,
    margin_s=settings.margin_s,
    log=log,
    lines=lines,
    command=shlex.join(job.argv()),
  )
