"""Train a recipe. The same command starts, resumes and fine-tunes, on one CPU or on every host of a pod.

  vitjax train --config=configs/quickstart.py --workdir=runs/mnist
  vitjax train --config=configs/quickstart.py --workdir=runs/mnist --config.optim.peak_lr=3e-4
  vitjax train --config=configs/quickstart.py --dry_run

A workdir that holds checkpoints is resumed from the newest sound one.
"""

from __future__ import annotations

import argparse

Overrides = list[tuple[str, str]]
# Opening a large data set on a cold file system may take one host minutes longer than another.
_AGREE_S = 600.0


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
    '--coordinator',
    metavar='HOST:PORT',
    help='of process 0; only where no launcher says it, together with the next two',
  )
  parser.add_argument('--num_processes', metavar='N', help='processes of this run; 1: this one alone')
  parser.add_argument('--process_id', metavar='I', help='rank of this process, from 0')
  parser.add_argument(
    '--dry_run',
    action='store_true',
    help='print the resolved recipe, parameters, shardings, FLOPs, steps and memory; train nothing',
  )
  parser.add_argument(
    '--profile',
    metavar='FIRST:LAST',
    help='trace these steps into WORKDIR/profile and print where their time went, as in --profile=10:13',
  )


def run(args: argparse.Namespace, overrides: Overrides) -> int:
  """Checks the recipe before jax is imported, builds the run, trains."""
  from vitjax.cli.environment import prepare
  from vitjax.config import expected_devices, load_recipe, parse_recipe
  from vitjax.config.processes import FLAGS
  from vitjax.errors import ConfigError, Problem

  prepare()  # first, since a recipe file may look at images or weights
  profile = None if args.profile is None else parse_window(args.profile)
  if args.workdir is None and not args.dry_run:
    raise ConfigError(
      'no place for the results',
      [Problem('--workdir', '', 'a folder', 'Add --workdir=DIR, or --dry_run to only look')],
    )
  flags = {flag: text for flag in FLAGS if (text := getattr(args, flag.removeprefix('--'))) is not None}
  config, recipe = load_recipe(args.config, overrides, num_devices=expected_devices(flags))

  if profile is not None and recipe.model.patch_sizes:
    expected = '() with --profile, which reads the times of one program'
    hint = 'Trace one size: --config.model.patch_sizes="()" --config.model.patch_size=SIZE, in a workdir of its own'
    problem = Problem('model.patch_sizes', str(recipe.model.patch_sizes), expected, hint)
    raise ConfigError('no single step to trace', [problem])

  import jax

  from vitjax.parallel import distributed

  resilience = recipe.resilience
  distributed.initialize(
    flags, start_timeout_s=resilience.start_timeout_s, heartbeat_timeout_s=resilience.heartbeat_timeout_s
  )
  with distributed.hard_exit_on_exception():
    from vitjax.checkpoint import has_checkpoints
    from vitjax.config import recipe_facts, render_derivation
    from vitjax.own_images.report import look, write_report
    from vitjax.parallel.agreement import code_facts, require_same
    from vitjax.training import build, train
    from vitjax.training.timeline import Timeline

    timeline = Timeline(elapsed_s=None)
    timeline.lap('imports')
    facts = {**code_facts(), '--workdir': args.workdir, **recipe_facts(recipe)}
    require_same(facts, what='recipe, code and workdir', timeout_s=_AGREE_S)
    run = build(parse_recipe(config, num_devices=jax.device_count()))
    require_same(run.fingerprints, what='the data', timeout_s=_AGREE_S)
    timeline.lap('build')
    if args.dry_run:
      from vitjax.training.describe import describe

      print(describe(run))
      return 0
    say = print if distributed.is_main() and recipe.log.progress else _nothing
    say(render_derivation(recipe), flush=True)
    if recipe.report.data and not has_checkpoints(recipe.checkpoint.directory or args.workdir):
      say('\n'.join(look(run, args.workdir)), flush=True)
    final = train(run, args.workdir, timeline=timeline, profile=profile)
    report = write_report(run, args.workdir) if recipe.report.evals else []
  if distributed.is_main():
    for name, value in sorted(final.items()):
      print(f'{name} = {value:.6g}')
    place = recipe.checkpoint.directory or args.workdir
    print('\n'.join(report) + '\n' * bool(report), end='')
    print(f'next: vitjax predict IMAGE --checkpoint={place}')
  return 0


def _nothing(*_: object, **__: object) -> None:
  """Prints nothing: another process speaks, or nobody is to be told."""


def parse_window(text: str) -> tuple[int, int]:
  """Returns (first, last) of '10:13': the steps to trace, both included.

  Raises:
    ConfigError: not two step numbers in order.
  """
  from vitjax.errors import ConfigError, Problem

  first, colon, last = text.partition(':')
  if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
    problem = Problem('--profile', text, 'FIRST:LAST, such as 10:13 for steps 10 to 13')
    raise ConfigError('no steps to trace', [problem])
  return int(first), int(last)
