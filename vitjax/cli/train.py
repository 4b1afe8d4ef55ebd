"""Train a recipe. The same command starts, resumes and fine-tunes, on one CPU or on every host of a pod.

  vitjax train --config=configs/quickstart.py --workdir=runs/mnist
  vitjax train --config=configs/quickstart.py --workdir=runs/mnist --config.optim.peak_lr=3e-4
  vitjax train --config=configs/quickstart.py --dry_run

A workdir that holds checkpoints is resumed from the newest sound one.
"""

from __future__ import annotations

import argparse

Overrides = list[tuple[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE[:arg=value,...]',
    help='a recipe file; --config.a.b=VALUE changes one knob',
  )
  parser.add_argument(
    '--workdir', metavar='DIR', help='where checkpoints and metrics go; required unless --dry_run'
  )
  parser.add_argument(
    '--dry_run',
    action='store_true',
    help='print the resolved recipe, parameters, shardings, FLOPs, steps and memory; train nothing',
  )


def run(args: argparse.Namespace, overrides: Overrides) -> int:
  """Checks the recipe before jax is imported, builds the run, trains."""
  from vitjax.config import expected_devices, load_recipe, parse_recipe
  from vitjax.errors import ConfigError, Problem

  if args.workdir is None and not args.dry_run:
    raise ConfigError(
      'no place for the results',
      [Problem('--workdir', '', 'a folder', 'Add --workdir=DIR, or --dry_run to only look')],
    )
  config, _ = load_recipe(args.config, overrides, num_devices=expected_devices())

  from vitjax.cli.environment import prepare

  prepare()
  import jax

  from vitjax.parallel import distributed

  distributed.initialize()
  with distributed.hard_exit_on_exception():
    from vitjax.training import build, train
    from vitjax.training.timeline import Timeline

    timeline = Timeline(elapsed_s=None)
    timeline.lap('imports')
    run = build(parse_recipe(config, num_devices=jax.device_count()))
    timeline.lap('build')
    if args.dry_run:
      from vitjax.training.describe import describe

      print(describe(run))
      return 0
    final = train(run, args.workdir, timeline=timeline)
  if distributed.is_main():
    for name, value in sorted(final.items()):
      print(f'{name} = {value:.6g}')
    print(f'next: vitjax predict IMAGE --checkpoint={args.workdir}')
  return 0
