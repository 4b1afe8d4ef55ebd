"""The driver of a Ray job: JaxTrainer starts one worker per host and joins them; each runs `vitjax train`.

  python -m launch.ray.train --name=l16 --hosts=4 --devices=8 -- train --config=... --workdir=...

Run it on the cluster, by `ray job submit` or on the head node. Without devices it runs on CPUs, as the tests do.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any


def run_vitjax(settings: dict[str, Any]) -> None:
  """Runs in every worker, after JaxTrainer has joined them: jax.distributed is initialised.

  Raises:
    RuntimeError: vitjax ended with another code than 0; Ray then starts all workers again, and vitjax resumes.
  """
  from vitjax.cli.main import main as vitjax_main

  code = vitjax_main(settings['argv'])
  if code != 0:
    raise RuntimeError(f'vitjax ended with exit code {code}')


def make_trainer(args: argparse.Namespace) -> Any:
  """Returns the JaxTrainer of the flags."""
  from ray.train import FailureConfig, RunConfig, ScalingConfig
  from ray.train.v2.jax import JaxConfig, JaxTrainer

  is_tpu = args.accelerator is not None and args.accelerator.startswith('TPU-')
  is_gpu = not is_tpu and args.devices > 0
  scaling = ScalingConfig(
    num_workers=args.hosts,
    use_tpu=is_tpu,
    use_gpu=is_gpu,
    topology=args.topology,
    accelerator_type=args.accelerator,
    resources_per_worker={'TPU' if is_tpu else 'GPU': args.devices} if args.devices else {'CPU': 1},
  )
  variables = {'JAX_PLATFORMS': 'tpu' if is_tpu else 'cuda' if is_gpu else 'cpu'}
  if 'XLA_FLAGS' in os.environ:
    variables['XLA_FLAGS'] = os.environ['XLA_FLAGS']
  return JaxTrainer(
    run_vitjax,
    train_loop_config={'argv': args.command},
    # JaxTrainer joins workers only where use_tpu or use_gpu is set; JAX_PLATFORMS then says what they are.
    jax_config=JaxConfig(use_tpu=is_tpu, use_gpu=not is_tpu),
    scaling_config=scaling,
    run_config=RunConfig(
      name=args.name,
      storage_path=args.storage,
      failure_config=FailureConfig(max_failures=args.max_failures),
      worker_runtime_env={'env_vars': variables},
    ),
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Trains; returns 0, or raises what Ray raises."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--name', required=True, help='of the run')
  parser.add_argument('--hosts', type=int, default=1, help='workers, one per host (1)')
  parser.add_argument('--devices', type=int, default=0, help='accelerators of each host (0: CPUs)')
  parser.add_argument('--accelerator', help="Ray's accelerator type")
  parser.add_argument('--topology', help='of a TPU slice')
  parser.add_argument('--max_failures', type=int, default=3, help='how often workers are started again (3)')
  parser.add_argument('--storage', help="folder for Ray's own records (~/ray_results)")
  parser.add_argument('command', nargs='+', help='vitjax flags, after --')
  make_trainer(parser.parse_args(argv)).fit()
  return 0


if __name__ == '__main__':
  sys.exit(main())
