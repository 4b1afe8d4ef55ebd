"""Recipe -> Objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vitjax.config.schema import Recipe
from vitjax.models import build_model
from vitjax.objectives.base import Objective
from vitjax.objectives.classification import Classification
from vitjax.objectives.masked_patch import MaskedPatch


def build_objective(recipe: Recipe, *, num_classes: int, device_class: str | None = None) -> Objective:
  """Returns the objective that `recipe.objective.name` asks for, around the model of the recipe.

  Args:
    recipe: a parsed recipe.
    num_classes: outputs of the head, from the recipe or the training source; 0: no head.
    device_class: as for `models.build_model`.
  """
  model = build_model(recipe.model, num_classes=num_classes, device_class=device_class)
  return _OBJECTIVES[recipe.objective.name](recipe, num_classes, model)


def _classification(recipe: Recipe, num_classes: int, model: Any) -> Classification:
  return Classification(model, num_classes, recipe.objective, recipe.data)


def _masked_patch(recipe: Recipe, num_classes: int, model: Any) -> MaskedPatch:
  del num_classes
  return MaskedPatch(model, recipe.objective, recipe.data, recipe.model)


_OBJECTIVES: dict[str, Callable[[Recipe, int, Any], Objective]] = {
  'classification': _classification,
  'masked_patch': _masked_patch,
}
