"""Evaluate a checkpoint on the evals of its own recipe; --config.* points them elsewhere.

vitjax eval --checkpoint=runs/mnist
vitjax eval --checkpoint=runs/mnist --config.evals.val.source.split=all --config.evals.val.batch_size=100
vitjax eval --checkpoint=runs/b16 --evals=configs/fewshot.py:path=TFDS_DATA_DIR
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--checkpoint', required=True, metavar='PATH', help='a workdir, or one step inside WORKDIR/checkpoints'
  )
  parser.add_argument(
    '--evals', metavar='FILE.py[:args]', help="evaluators of this recipe file instead of the checkpoint's own"
  )
  parser.set_defaults(config='the recipe stored in the checkpoint')


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Prints one line per metric of every evaluator."""
  from vitjax.cli.environment import prepare

  prepare()
  import jax

  import vitjax
  from vitjax.config import apply_overrides, load_config, parse_recipe, recipe_to_config
  from vitjax.data.sources import open_source
  from vitjax.errors import ConfigError, Problem
  from vitjax.evaluators import build_evaluator, eval_sources
  from vitjax.objectives import build_objective
  from vitjax.parallel import make_mesh, replicated

  loaded = vitjax.load(args.checkpoint)
  config = recipe_to_config(loaded.recipe)
  if args.evals is not None:
    config.evals = load_config(args.evals).evals
    config.checkpoint.keep_best = None  # it may name one of those that were replaced
  config = apply_overrides(config, overrides)
  recipe = parse_recipe(config, num_devices=jax.device_count())
  if not recipe.evals:
    raise ConfigError(
      'nothing to evaluate', [Problem('evals', 'empty', 'at least one evaluator in the recipe')]
    )
  mesh = make_mesh(recipe.parallel)
  params = jax.device_put(loaded.params, replicated(mesh))
  objective = build_objective(recipe, num_classes=recipe.model.num_classes)
  print(loaded.report)
  sources = {where: open_source(config, where=where) for where, config in eval_sources(recipe).items()}
  for name in recipe.evals:
    evaluator = build_evaluator(name, recipe, objective=objective, sources=sources, mesh=mesh)
    for key, value in evaluator.run(params).items():
      print(f'{name}/{key} = {value:.6g}')
  return 0
