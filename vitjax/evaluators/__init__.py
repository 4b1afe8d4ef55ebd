"""Evaluators: run(params) -> {name: float}; every example counts exactly once. `build_evaluator` makes them.

`make_probe` is for frozen features of any origin: few-shot regression, nearest neighbours, linear probe.
"""

from vitjax.evaluators.attention import AttentionEvaluator
from vitjax.evaluators.build import Evaluator, build_evaluator, eval_sources, reads_head, split_batches
from vitjax.evaluators.classification import ClassificationEvaluator
from vitjax.evaluators.features import FeatureExtractor, Features, make_features
from vitjax.evaluators.multilabel import MultiLabelEvaluator, average_precisions
from vitjax.evaluators.transfer import Probe, TransferEvaluator, make_probe

__all__ = [
  'AttentionEvaluator',
  'ClassificationEvaluator',
  'Evaluator',
  'FeatureExtractor',
  'Features',
  'MultiLabelEvaluator',
  'Probe',
  'TransferEvaluator',
  'average_precisions',
  'build_evaluator',
  'eval_sources',
  'make_features',
  'make_probe',
  'reads_head',
  'split_batches',
]
