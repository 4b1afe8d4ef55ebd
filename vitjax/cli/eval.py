"""Evaluate a checkpoint on the evals of its own recipe; --config.* points them elsewhere.

vitjax eval --checkpoint=runs/mnist
vitjax eval --checkpoint=runs/mnist --config.evals.val.source.split=all --config.evals.val.batch_size=100
vitjax eval --checkpoint=runs/b16 --evals=configs/fewshot.py:path=TFDS_DATA_DIR
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from vitjax.config.schema import ObjectiveConfig, Recipe


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
  if loaded.recipe is None:
    hint = "'vitjax probe' judges the features of any weights"
    raise ConfigError(
      'nothing says how to evaluate these weights',
      [Problem('--checkpoint', f'{args.checkpoint}, format {loaded.format}', 'a vitjax run', hint)],
    )
  config = recipe_to_config(without_training(loaded.recipe, num_devices=jax.device_count()))
  if args.evals is not None:
    config.evals = load_config(args.evals).evals
  config = apply_overrides(config, overrides)
  if not config.evals:
    hint = 'Name a recipe file with some by --evals=FILE.py'
    raise ConfigError(
      'nothing to evaluate', [Problem('evals', 'empty', 'at least one evaluator in the recipe', hint)]
    )
  config.data.source = stand_in(config.evals)
  recipe = parse_recipe(config, num_devices=jax.device_count())
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


def without_training(recipe: Recipe, *, num_devices: int) -> Recipe:
  """Returns what evaluation reads of a stored recipe; all else is at its default.

  So a checkpoint is evaluated where the weights it started from or its teacher are gone, and on other devices than
  those that its mesh and batch were made for.

  Args:
    recipe: of a checkpoint.
    num_devices: of this evaluation.
  """
  return Recipe(
    model=recipe.model,
    data=dataclasses.replace(recipe.data, batch_size=num_devices),
    objective=ObjectiveConfig() if recipe.objective.name == 'distillation' else recipe.objective,
    evals=recipe.evals,
    seed=recipe.seed,
  )


def stand_in(evals: Any) -> Any:
  """Returns a source in place of the training source, which is not opened: that of an evaluator, of the head if any."""
  from vitjax.config import source_config

  ordered = sorted(evals.values(), key=lambda config: config.kind not in ('classification', 'multilabel'))
  return source_config(ordered[0].source)
