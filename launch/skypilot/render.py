"""A SkyPilot managed job.

  python -m launch skypilot --name=l16 --hosts=2 --accelerators=H100:8 --spot --config=configs/pretrain.py:model=L/16 \\
    --workdir=gs://bucket/runs/l16 --run=submit
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import yaml

from launch.job import Job, check
from launch.rendered import Rendered


@dataclasses.dataclass(frozen=True)
class SkyPilot:
  """What SkyPilot needs besides the job.

  Attributes:
    accelerators: such as 'H100:8' or 'tpu-v5litepod-16'; None: CPUs.
    infra: such as 'gcp/us-central1'; None: wherever it is cheapest.
    spot: cheaper, and taken away at any time.
    extra: vitjax's extra that brings jax's build for the accelerator.
    max_restarts: restarts after failures other than preemption and exit code 42, which always restart.
  """

  accelerators: str | None = None
  infra: str | None = None
  spot: bool = False
  extra: str = 'cuda'
  max_restarts: int = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument_group('SkyPilot').add_argument
  add('--accelerators', help='such as H100:8 or tpu-v5litepod-16')
  add('--infra', help='such as gcp/us-central1 (the cheapest)')
  add('--spot', action='store_true', help='spot capacity')
  add('--extra', default='cuda', choices=('cuda', 'tpu'), help="jax's build (cuda)")
  add('--max_restarts', type=int, default=3, help='restarts after failures other than preemption (3)')


def render(job: Job, args: argparse.Namespace) -> Rendered:
  """Returns the task of the flags."""
  settings = SkyPilot(**{f.name: getattr(args, f.name) for f in dataclasses.fields(SkyPilot)})
  file_name = args.out or f'{job.name}.sky.yaml'
  text = yaml.safe_dump(task(job, settings), sort_keys=False, width=1000)
  submit = ['sky', 'jobs', 'launch', '--yes', '--name', job.name, file_name]
  return Rendered({'submit': submit, 'log': ['sky', 'jobs', 'logs', '--name', job.name]}, text, file_name)


def task(job: Job, settings: SkyPilot) -> dict[str, Any]:
  """Returns SkyPilot's task as nested dicts. vitjax reads the variables SKYPILOT_* that each host gets.

  Raises:
    ConfigError: values that cannot be passed on.
  """
  check(job, [('--accelerators', settings.accelerators), ('--infra', settings.infra)])
  recovery = {'max_restarts_on_errors': settings.max_restarts, 'recover_on_exit_codes': [42]}
  resources: dict[str, Any] = {'use_spot': settings.spot, 'job_recovery': recovery}
  if settings.accelerators is not None:
    resources['accelerators'] = settings.accelerators
  if settings.infra is not None:
    resources['infra'] = settings.infra
  return {
    'name': job.name,
    'num_nodes': job.hosts,
    'workdir': '.',
    'resources': resources,
    'setup': f"pip install --quiet '.[{settings.extra}]'",
    'run': job.shell_line(),
  }
