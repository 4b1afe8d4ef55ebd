"""A TPU slice by gcloud: created directly or through a queue, then the same command on every host.

  python -m launch tpu --name=l16 --type=v5litepod-256 --zone=us-west4-a --config=configs/pretrain.py:model=L/16 \\
    --workdir=gs://bucket/runs/l16 --folder=vitjax --run=create
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex

from launch.job import Job, check
from launch.rendered import Rendered

# Runs its arguments again as long as they ask for it with 42; they reach it as parameters, not as text.
_AGAIN = 'while "$@"; [ $? -eq 42 ]; do sleep 10; done'


@dataclasses.dataclass(frozen=True)
class TpuVm:
  """What gcloud needs besides the job.

  Attributes:
    type: accelerator type, such as 'v5litepod-256': chips, and so hosts, follow from it.
    zone: such as 'us-west4-a'.
    version: the TPU VM's software version.
    project: None: gcloud's own.
    queued: ask through a queued resource.
    spot: cheaper, and taken away at any time.
    reservation: name of a reservation for a queued resource, None: without.
    valid_until: how long a queued request waits, such as '6h'; None: for ever.
  """

  type: str
  zone: str
  version: str = 'v2-alpha-tpuv5-lite'
  project: str | None = None
  queued: bool = True
  spot: bool = False
  reservation: str | None = None
  valid_until: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument_group('TPU VMs').add_argument
  add('--type', required=True, help='accelerator type, such as v5litepod-256')
  add('--zone', required=True, help='such as us-west4-a')
  add('--version', default='v2-alpha-tpuv5-lite', help='software version of the VMs (v2-alpha-tpuv5-lite)')
  add('--project', help="gcloud's --project")
  add('--queued', action=argparse.BooleanOptionalAction, default=True, help='through a queued resource (yes)')
  add('--spot', action='store_true', help='spot capacity')
  add('--reservation', help='a reservation, for a queued resource')
  add('--valid_until', metavar='6h', help='how long a queued request waits')


def render(job: Job, args: argparse.Namespace) -> Rendered:
  """Returns the commands of the flags."""
  return Rendered(steps(job, TpuVm(**{f.name: getattr(args, f.name) for f in dataclasses.fields(TpuVm)})))


def steps(job: Job, vm: TpuVm) -> dict[str, list[str]]:
  """Returns {step: gcloud argv}: create, start, log, stop, delete.

  Raises:
    ConfigError: names and values that cannot be passed on.
  """
  names = ('type', 'zone', 'version', 'project', 'reservation', 'valid_until')
  check(job, [(f'--{name}', getattr(vm, name)) for name in names])
  place = [f'--zone={vm.zone}', *([] if vm.project is None else [f'--project={vm.project}'])]
  tpus = ['gcloud', 'compute', 'tpus']
  ssh = [*tpus, 'tpu-vm', 'ssh', job.name, *place]
  if vm.queued:
    create = [*tpus, 'queued-resources', 'create', job.name, f'--node-id={job.name}', *place]
    create += [f'--accelerator-type={vm.type}', f'--runtime-version={vm.version}']
    create += [] if vm.reservation is None else [f'--reservation={vm.reservation}']
    create += [] if vm.valid_until is None else [f'--valid-until-duration={vm.valid_until}']
    delete = [*tpus, 'queued-resources', 'delete', job.name, *place, '--force']
  else:
    create = [*tpus, 'tpu-vm', 'create', job.name, *place]
    create += [f'--accelerator-type={vm.type}', f'--version={vm.version}']
    delete = [*tpus, 'tpu-vm', 'delete', job.name, *place]
  return {
    'create': [*create, *(['--spot'] if vm.spot else [])],
    'start': [*ssh, '--worker=all', f'--command={start_line(job)}'],
    'log': [*ssh, '--worker=0', f'--command=tail -n 50 {log_file(job)}'],
    'stop': [*ssh, '--worker=all', f'--command={stop_line(job)}'],
    'delete': delete,
  }


def log_file(job: Job) -> str:
  """Returns the log of a host, in the home folder."""
  return f'~/{job.name}.log'


def pid_file(job: Job) -> str:
  """Returns where a host notes the process group of the job."""
  return f'~/{job.name}.pid'


def start_line(job: Job) -> str:
  """Returns the line for each host's shell: outlives the connection, and starts again after exit code 42."""
  looped = shlex.join(['setsid', 'nohup', 'sh', '-c', _AGAIN, 'vitjax', *job.argv()])
  folder = '' if job.folder is None else f'cd {shlex.quote(job.folder)} && '
  return f'{folder}{{ {looped} >> {log_file(job)} 2>&1 < /dev/null & echo $! > {pid_file(job)}; }}'


def stop_line(job: Job) -> str:
  """Returns the line that asks the job to save and leave, and the loop around it to end."""
  return f'kill -TERM -$(cat {pid_file(job)})'
