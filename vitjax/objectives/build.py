"""Recipe -> Objective."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from vitjax.config.schema import Recipe
from vitjax.models import build_model, resized_model
from vitjax.objectives.base import Objective
from vitjax.objectives.classification import Classification
from vitjax.objectives.distillation import Distillation, Teacher
from vitjax.objectives.masked_patch import MaskedPatch


def build_objective(
  recipe: Recipe, *, num_classes: int, device_class: str | None = None, teacher: Teacher | None = None
) -> Objective:
  """Returns the objective that `recipe.objective.name` asks for, around the model of the recipe.

  Args:
    recipe: a parsed recipe.
    num_classes: outputs of the head, from the recipe or the training source; 0: no head.
    device_class: as for `models.build_model`.
    teacher: of a distillation; None: the student alone, for evaluation.
  """
  model = build_model(recipe.model, num_classes=num_classes, device_class=device_class)
  # Positions are stored for image_size, and resized to the grid of each image.
  if recipe.data.max_tokens is not None:
    model = resized_model(model, image_size=recipe.data.image_size)
  return _OBJECTIVES[recipe.objective.name](recipe, num_classes, model, teacher)


def resized_objective(
  objective: Any, *, patch_size: int | None = None, image_size: tuple[int, int] | None = None
) -> Any:
  """Returns the objective that runs the same parameters on patches or images of another size.

  Args:
    objective: from `build_objective`.
    patch_size: side of the patches, pixels; None: the model's own.
    image_size: height and width in pixels; None: those of data.image_size, which the parameters are stored for.
  """
  stored = objective.data.image_size
  model = resized_model(objective.model, image_size=stored, patch_size=patch_size)
  data = dataclasses.replace(objective.data, image_size=image_size or stored)
  return dataclasses.replace(objective, model=model, data=data)


def _classification(recipe: Recipe, num_classes: int, model: Any, teacher: Teacher | None) -> Classification:
  del teacher
  return Classification(model, num_classes, recipe.objective, recipe.data)


def _masked_patch(recipe: Recipe, num_classes: int, model: Any, teacher: Teacher | None) -> MaskedPatch:
  del num_classes, teacher
  return MaskedPatch(model, recipe.objective, recipe.data, recipe.model)


def _distillation(recipe: Recipe, num_classes: int, model: Any, teacher: Teacher | None) -> Distillation:
  return Distillation(
    model,
    num_classes,
    recipe.objective,
    recipe.data,
    temperature=recipe.distill.temperature,
    num_chunks=recipe.optim.accumulation_steps,
    teacher=teacher,
  )


_OBJECTIVES: dict[str, Callable[[Recipe, int, Any, Teacher | None], Objective]] = {
  'classification': _classification,
  'distillation': _distillation,
  'masked_patch': _masked_patch,
}
