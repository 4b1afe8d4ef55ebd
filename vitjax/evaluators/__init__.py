"""Evaluators: run(params) -> {name: float}; every example counts exactly once. `build_evaluator` makes them."""

from vitjax.evaluators.build import build_evaluator
from vitjax.evaluators.classification import ClassificationEvaluator

__all__ = ['ClassificationEvaluator', 'build_evaluator']
