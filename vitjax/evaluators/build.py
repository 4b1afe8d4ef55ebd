"""EvalConfig -> evaluator."""

from __future__ import annotations

import functools

from jax.sharding import Mesh

from vitjax.config.schema import EvalConfig, Recipe
from vitjax.data import eval_batches
from vitjax.data.sources import Source
from vitjax.evaluators.classification import ClassificationEvaluator
from vitjax.objectives import Objective
from vitjax.parallel.mesh import local_share


def build_evaluator(
  config: EvalConfig, recipe: Recipe, *, objective: Objective, source: Source, mesh: Mesh
) -> ClassificationEvaluator:
  """Returns the evaluator that `config.kind` asks for.

  Args:
    config: one entry of recipe.evals.
    recipe: gives image size and normalisation (data) and the loss to report (objective).
    objective: gives the scores.
    source: the opened config.source.
    mesh: where batches are placed.
  """
  index, count = local_share(mesh, config.batch_size)
  batches = functools.partial(
    eval_batches, config, recipe.data, source, process_index=index, process_count=count
  )
  return ClassificationEvaluator(objective, recipe.objective.loss, mesh, batches)
