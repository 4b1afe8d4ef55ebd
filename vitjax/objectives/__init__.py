"""What is learned: an Objective turns parameters and a batch into a loss. See `base.Objective` to add one."""

from vitjax.objectives.base import LossOutput, Objective
from vitjax.objectives.build import build_objective, resized_objective
from vitjax.objectives.classification import Classification
from vitjax.objectives.distillation import Distillation, Teacher
from vitjax.objectives.masked_patch import MaskedPatch

__all__ = [
  'Classification',
  'Distillation',
  'LossOutput',
  'MaskedPatch',
  'Objective',
  'Teacher',
  'build_objective',
  'resized_objective',
]
