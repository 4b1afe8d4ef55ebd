"""A workload on a GKE cluster that xpk made.

  python -m launch xpk --name=l16 --cluster=tpus --zone=us-west4-a --tpu_type=v5litepod-256 --image=IMAGE \\
    --config=configs/pretrain.py:model=L/16 --workdir=gs://bucket/runs/l16 --run=submit
"""

from __future__ import annotations

import argparse
import dataclasses

from launch.job import Job, check, refuse
from launch.rendered import Rendered
from vitjax.errors import Problem

# xpk puts the command into YAML and a bash script without quoting it, and Kubernetes expands $(NAME).
_NOT_QUOTED = frozenset('\'"\\$`{}')


@dataclasses.dataclass(frozen=True)
class Xpk:
  """What xpk needs besides the job.

  Attributes:
    cluster: the GKE cluster.
    image: container image with vitjax and the recipes.
    tpu_type: such as 'v5litepod-256', or None.
    device_type: other machines, such as 'h100-80gb-8', or None.
    slices: number of TPU slices.
    project, zone: None: gcloud's own.
    max_restarts: how often the workload is started again; exit codes 42 and 127 to 255 ask for it.
    grace_s: seconds between SIGTERM and SIGKILL, for the save.
  """

  cluster: str
  image: str
  tpu_type: str | None = None
  device_type: str | None = None
  slices: int = 1
  project: str | None = None
  zone: str | None = None
  max_restarts: int = 100
  grace_s: int = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument_group('xpk').add_argument
  add('--cluster', required=True, help='the GKE cluster')
  add('--image', required=True, help='container image with vitjax and the recipes')
  add('--tpu_type', help='such as v5litepod-256')
  add('--device_type', help='such as h100-80gb-8; --hosts is then the number of nodes')
  add('--slices', type=int, default=1, help='number of TPU slices (1)')
  add('--project', help="xpk's --project")
  add('--zone', help="xpk's --zone")
  add('--max_restarts', type=int, default=100, help='how often it is started again (100)')
  add('--grace_s', type=int, default=300, help='seconds from SIGTERM to SIGKILL, for the save (300)')


def render(job: Job, args: argparse.Namespace) -> Rendered:
  """Returns the command of the flags."""
  argv = workload_argv(job, Xpk(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Xpk)}))
  return Rendered({'submit': argv, 'look': [*argv, '--dry-run']})


def workload_argv(job: Job, xpk: Xpk) -> list[str]:
  """Returns xpk's argv.

  Raises:
    ConfigError: values that xpk would not quote, or both or none of tpu_type and device_type.
  """
  names = ('cluster', 'image', 'tpu_type', 'device_type', 'project', 'zone')
  check(job, [(f'--{name}', getattr(xpk, name)) for name in names])
  problems = [
    Problem(word.partition('=')[0], repr(word), 'no quotes, \\, $, ` or braces: xpk does not quote them')
    for word in (*job.argv(), job.folder or '')
    if not _NOT_QUOTED.isdisjoint(word)
  ]
  if (xpk.tpu_type is None) == (xpk.device_type is None):
    problems.append(Problem('--tpu_type, --device_type', '', 'one of the two'))
  refuse(problems)
  argv = ['xpk', 'workload', 'create', f'--workload={job.name}', f'--cluster={xpk.cluster}']
  argv += [f'--docker-image={xpk.image}', f'--command={job.shell_line()}']
  if xpk.tpu_type is not None:
    argv += [f'--tpu-type={xpk.tpu_type}', f'--num-slices={xpk.slices}']
  else:
    argv += [f'--device-type={xpk.device_type}', f'--num-nodes={job.hosts}']
  argv += [f'--max-restarts={xpk.max_restarts}', f'--termination-grace-period-seconds={xpk.grace_s}']
  place = (('project', xpk.project), ('zone', xpk.zone))
  return [*argv, *(f'--{name}={value}' for name, value in place if value is not None)]
