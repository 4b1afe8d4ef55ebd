"""Time the training step of a recipe on this machine: speed, MFU, memory, compile time, and where the time goes.

  vitjax bench --config=configs/pretrain.py:model=S/16 --config.data.batch_size=8 --config.model.dtype=float32
  vitjax bench --input --config=configs/pretrain.py --photos       images/s of the input pipeline, per core
  vitjax bench --report=benchmarks

The step is the one of `vitjax train`, on random images: no data are needed. Writes OUT/step.json, OUT/step.png and
OUT/profile. --input measures the
recipe's input instead. --report writes FOLDER/BENCHMARKS.md from the figures in FOLDER/results.
"""

from __future__ import annotations

import argparse
import os
import pathlib

# Examples of the synthetic stand-in: ImageNet's, so that schedules in epochs keep their length.
_NUM_EXAMPLES = 1_281_167
_NUM_CLASSES = 1000
_NUM_STEPS = 20
_MFU = 0.45


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--config', metavar='FILE[:arg=value,...]', help='a recipe file; --config.a.b=VALUE changes one knob'
  )
  parser.add_argument('--steps', type=int, metavar='N', help=f'timed steps (default {_NUM_STEPS})')
  parser.add_argument(
    '--out', metavar='DIR', help='where figures and plot go (default runs/bench; --input: nowhere)'
  )
  parser.add_argument(
    '--report', metavar='FOLDER', help='write FOLDER/BENCHMARKS.md from FOLDER/results; time nothing'
  )
  parser.add_argument(
    '--input', action='store_true', help="measure the recipe's input pipeline, not its step"
  )
  parser.add_argument('--photos', action='store_true', help='--input: photographs made here, not the data')
  parser.add_argument('--peers', metavar='FILE', help='--input: a table of benchmarks/input_peers.py to add')
  parser.add_argument(
    '--mfu', type=float, metavar='X', help=f'--input: assumed use of the accelerators (default {_MFU:g})'
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Refuses what cannot be timed before jax is imported; then times it, or writes the report."""
  _check(args)
  if args.report is not None:
    from vitjax.bench.report import write_report

    print(f'written: {write_report(pathlib.Path(args.report))}')
    return 0
  return _input(args, overrides) if args.input else _time(args, overrides)


def _check(args: argparse.Namespace) -> None:
  """Raises ConfigError for flags that are missing, out of range, or that nothing would read."""
  from vitjax.errors import ConfigError, Problem

  problems = []
  if args.config is None and args.report is None:
    problems.append(Problem('--config', '', 'a recipe file', 'Add --config=FILE, or --report=FOLDER'))
  if args.steps is not None and args.steps < 1:
    problems.append(Problem('--steps', str(args.steps), 'at least 1'))
  if args.mfu is not None and not 0 < args.mfu <= 1:
    problems.append(Problem('--mfu', f'{args.mfu:g}', 'above 0, at most 1'))
  unread = ('config', 'out', 'input') if args.report is not None else ()
  if args.report is not None or args.input:
    unread += ('steps',)
  if not args.input:
    unread += ('photos', 'peers', 'mfu')
  for name in unread:
    if vars(args)[name] not in (None, False):
      problems.append(Problem(f'--{name}', str(vars(args)[name]), 'to be left out: nothing would read it'))
  if problems:
    raise ConfigError('these flags do not fit together', problems)


def _input(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  from vitjax.cli.environment import prepare
  from vitjax.config import load_recipe

  _, recipe = load_recipe(args.config, overrides)
  prepare()
  from vitjax.bench.input_command import bench_input

  mfu = _MFU if args.mfu is None else args.mfu
  print(bench_input(recipe, photos=args.photos, out=args.out, peers=args.peers, mfu=mfu))
  return 0


def _time(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  from vitjax.config import load_config, parse_recipe

  config = load_config(args.config, overrides)
  _use_synthetic_images(config)
  # A compile time from the cache would be that of reading a file.
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  from vitjax.cli.environment import prepare

  prepare()
  import jax

  from vitjax.bench.measure import measure
  from vitjax.bench.show import plot, table
  from vitjax.training import build

  out = pathlib.Path(args.out or 'runs/bench')
  out.mkdir(parents=True, exist_ok=True)
  built = build(parse_recipe(config, num_devices=jax.device_count()))
  found = measure(built, recipe=args.config, steps=args.steps or _NUM_STEPS, folder=out)
  found.save(out / 'step.json')
  plot(found, out / 'step.png')
  print(f'\n{table(found)}\nfigures: {out / "step.json"}   plot: {out / "step.png"}')
  return 0


def _use_synthetic_images(config) -> None:
  """Replaces the recipe's data, weights and evaluators: the step does not depend on them."""
  from vitjax.config import evaluators, source_config

  classes = config.data.source.num_classes if config.model.num_classes is None else config.model.num_classes
  config.data.source = source_config(
    kind='synthetic', num_examples=_NUM_EXAMPLES, num_classes=classes or _NUM_CLASSES
  )
  config.evals = evaluators()
  config.init.checkpoint = None
  config.checkpoint.keep_best = None
