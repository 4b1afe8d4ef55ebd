"""Time the training step of a recipe on this machine: speed, MFU, memory, compile time, and where the time goes.

  vitjax bench --config=configs/pretrain.py:model=S/16 --config.data.batch_size=8 --config.model.dtype=float32
  vitjax bench --report=benchmarks

The step is the one of `vitjax train`, on random images: no data are needed. Writes OUT/step.json, OUT/step.png and
OUT/profile. --report writes FOLDER/BENCHMARKS.md from the figures in FOLDER/results.
"""

from __future__ import annotations

import argparse
import os
import pathlib

# Examples of the synthetic stand-in: ImageNet's, so that schedules in epochs keep their length.
_NUM_EXAMPLES = 1_281_167
_NUM_CLASSES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--config', metavar='FILE[:arg=value,...]', help='a recipe file; --config.a.b=VALUE changes one knob'
  )
  parser.add_argument('--steps', type=int, default=20, metavar='N', help='timed steps (default 20)')
  parser.add_argument(
    '--out', default='runs/bench', metavar='DIR', help='where figures and plot go (default runs/bench)'
  )
  parser.add_argument(
    '--report', metavar='FOLDER', help='write FOLDER/BENCHMARKS.md from FOLDER/results; time nothing'
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Refuses what cannot be timed before jax is imported; then times it, or writes the report."""
  from vitjax.errors import ConfigError, Problem

  if args.report is not None:
    from vitjax.bench.report import write_report

    print(f'written: {write_report(pathlib.Path(args.report))}')
    return 0
  problems = []
  if args.config is None:
    problems.append(Problem('--config', '', 'a recipe file', 'Add --config=FILE, or --report=FOLDER'))
  if args.steps < 1:
    problems.append(Problem('--steps', str(args.steps), 'at least 1'))
  if problems:
    raise ConfigError('nothing to time', problems)
  return _time(args, overrides)


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

  out = pathlib.Path(args.out)
  out.mkdir(parents=True, exist_ok=True)
  built = build(parse_recipe(config, num_devices=jax.device_count()))
  found = measure(built, recipe=args.config, steps=args.steps, folder=out)
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
