"""Recipe -> Objective."""

from __future__ import annotations

from vitjax.config.schema import Recipe
from vitjax.models import build_model
from vitjax.objectives.base import Objective
from vitjax.objectives.classification import Classification

_OBJECTIVES = {'classification': Classification}


def build_objective(recipe: Recipe, *, num_classes: int) -> Objective:
  """Returns the objective that `recipe.objective.name` asks for, around the model of the recipe.

  Args:
    recipe: a parsed recipe.
    num_classes: outputs of the head, from the recipe or the training source.
  """
  model = build_model(recipe.model, num_classes=num_classes)
  return _OBJECTIVES[recipe.objective.name](model, num_classes, recipe.objective, recipe.data)
