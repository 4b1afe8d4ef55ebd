"""EvalConfig -> evaluator."""

from __future__ import annotations

import functools

from jax.sharding import Mesh

from vitjax.config.schema import Recipe
from vitjax.data import eval_batches
from vitjax.data.sources import Source
from vitjax.evaluators.classification import ClassificationEvaluator
from vitjax.objectives import Objective
from vitjax.parallel.mesh import local_share


def build_evaluator(
  name: str, recipe: Recipe, *, objective: Objective, source: Source, mesh: Mesh
) -> ClassificationEvaluator:
  """Returns the evaluator that `recipe.evals[name]` asks for.

  Args:
    name: a key of recipe.evals.
    recipe: gives image size and normalisation (data) and the loss to report (objective).
    objective: gives the scores.
    source: the opened source of that evaluator.
    mesh: where batches are placed.
  """
  config = recipe.evals[name]
  index, count = local_share(mesh, config.batch_size, where=f'evals.{name}.batch_size')
  batches = functools.partial(
    eval_batches, config, recipe.data, source, process_index=index, process_count=count
  )
  return ClassificationEvaluator(objective, recipe.objective.loss, mesh, batches)
