"""A Ray job that runs vitjax under Ray Train's JaxTrainer.

  python -m launch ray --name=l16 --hosts=4 --devices=4 --accelerator=TPU-V6E --topology=4x4 \\
    --config=configs/pretrain.py:model=L/16 --workdir=gs://bucket/runs/l16 --address=http://head:8265 --run=submit
"""

from __future__ import annotations

import argparse
import dataclasses

from launch.job import Job, check, refuse
from launch.rendered import Rendered
from vitjax.errors import Problem


@dataclasses.dataclass(frozen=True)
class Ray:
  """What Ray needs besides the job.

  Attributes:
    address: of the cluster's job server, None: RAY_ADDRESS.
    accelerator: Ray's accelerator type; one that starts with 'TPU-' needs a topology. None: any GPU if devices > 0.
    topology: of the TPU slice, such as '4x4'.
    max_failures: how often Ray starts the workers again.
  """

  address: str | None = None
  accelerator: str | None = None
  topology: str | None = None
  max_failures: int = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument_group('Ray').add_argument
  add('--address', help="the cluster's job server (RAY_ADDRESS)")
  add('--accelerator', help="Ray's accelerator type, such as TPU-V6E or H100")
  add('--topology', help='of a TPU slice, such as 4x4')
  add('--max_failures', type=int, default=3, help='how often the workers are started again (3)')


def render(job: Job, args: argparse.Namespace) -> Rendered:
  """Returns the command of the flags."""
  settings = Ray(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Ray)})
  address = [] if settings.address is None else [f'--address={settings.address}']
  # Ray quotes the words after -- for the shell that runs them.
  submit = ['ray', 'job', 'submit', *address, '--working-dir=.', '--', *driver_argv(job, settings)]
  return Rendered({'submit': submit})


def driver_argv(job: Job, settings: Ray) -> list[str]:
  """Returns what starts the driver, launch/ray/train.py, in a checkout of vitjax on the cluster.

  Raises:
    ConfigError: values that cannot be passed on.
  """
  check(job, [(f'--{name}', getattr(settings, name)) for name in ('address', 'accelerator', 'topology')])
  is_tpu = settings.accelerator is not None and settings.accelerator.startswith('TPU-')
  if is_tpu != (settings.topology is not None):
    refuse([Problem('--topology', repr(settings.topology), 'one for TPUs, none otherwise')])
  argv = ['python', '-m', 'launch.ray.train', f'--name={job.name}']
  argv += [f'--hosts={job.hosts}', f'--devices={job.devices}']
  argv += [] if settings.accelerator is None else [f'--accelerator={settings.accelerator}']
  argv += [] if settings.topology is None else [f'--topology={settings.topology}']
  return [*argv, f'--max_failures={settings.max_failures}', '--', *job.argv()[len(job.program) :]]
