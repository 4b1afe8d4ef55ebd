"""Pretrain a small ViT and a small ResNet on MNIST, transfer both to scikit-learn's digits, and compare.

  vitjax quickstart --workdir=runs/quickstart

Minutes on two CPU cores; nothing is downloaded. Writes a run per cell, summary.json and summary.png. A second call
resumes: cells that are done are read back, not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import time
from typing import Any

SHOTS = (5, 20)
SEEDS = (0, 1, 2)
MODELS = {'vit': 'ViT', 'resnet': 'ResNet'}
STARTS = ('pretrained', 'scratch')


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  recipe = pathlib.Path(__file__).parents[2] / 'configs' / 'quickstart.py'
  parser.add_argument(
    '--workdir',
    default='runs/quickstart',
    metavar='DIR',
    help='where runs, summary.json and summary.png go (default runs/quickstart)',
  )
  parser.add_argument(
    '--config',
    default=str(recipe),
    metavar='FILE',
    help='the recipe (default configs/quickstart.py beside the package)',
  )
  parser.add_argument('--smoke', action='store_true', help='a few steps per cell: does it run?')


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Runs every cell, then prints the table and the next command to try."""
  from vitjax.cli.environment import prepare

  prepare()
  import vitjax.cli.quickstart_report as report

  began_s = time.perf_counter()
  workdir = pathlib.Path(args.workdir)
  smoke = ['smoke'] if args.smoke else []
  pretrained = {}
  for model, title in MODELS.items():
    print(f'\n{title}: pretraining on MNIST')
    spec = ','.join(['stage=pretrain', f'model={model}', *smoke])
    pretrained[model] = _train(f'{args.config}:{spec}', overrides, workdir / f'pretrain-{model}')
  cells: list[dict[str, Any]] = []
  grid = list(itertools.product(SHOTS, MODELS, STARTS, SEEDS))
  with report.cell_progress(len(grid)) as advance:
    for shots, model, start, seed in grid:
      advance(f'digits, {shots} per class, {MODELS[model]} {start}, seed {seed}')
      spec = ['stage=transfer', f'model={model}', f'shots={shots}', f'seed={seed}', *smoke]
      if start == 'pretrained':
        spec.append(f'checkpoint={workdir / f"pretrain-{model}"}')
      name = f'digits-{shots}shot-{model}-{start}-{seed}'
      quiet = [('log.progress', 'False'), *overrides]
      final = _train(f'{args.config}:{",".join(spec)}', quiet, workdir / name)
      cells.append(
        {
          'shots': shots,
          'model': model,
          'start': start,
          'seed': seed,
          'accuracy': final['test/accuracy_top1'],
        }
      )
  summary = report.summarize(cells, pretrained, seconds=time.perf_counter() - began_s)
  (workdir / 'summary.json').write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
  report.plot(summary, workdir / 'summary.png')
  report.print_table(summary)
  example = report.write_example_digit(workdir / 'digit.png')
  print(f'figures: {workdir / "summary.json"}   plot: {workdir / "summary.png"}')
  best = workdir / f'digits-{SHOTS[-1]}shot-vit-pretrained-0'
  print(f'next, let the transferred model read a digit:\n  vitjax predict {example} --checkpoint={best}')
  return 0


def _train(spec: str, overrides: list[tuple[str, str]], workdir: pathlib.Path) -> dict[str, float]:
  """Trains one cell, or reads back the last evaluation of one that is done; returns its metrics."""
  import jax

  from vitjax.config import load_recipe
  from vitjax.training import build, train

  _, recipe = load_recipe(spec, overrides, num_devices=jax.device_count())
  return train(build(recipe), workdir)
