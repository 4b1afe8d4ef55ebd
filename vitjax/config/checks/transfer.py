"""Evaluators of frozen features: their sweeps, and the images that their classifier is made of."""

from __future__ import annotations

from collections import Counter

from vitjax.config.checks.base import Findings
from vitjax.config.eval_metrics import FEATURE_KINDS
from vitjax.config.schema import EvalConfig, SourceConfig

_SWEEPS = {'fewshot': ('shots', 'ridge_l2'), 'knn': ('num_neighbours',), 'linear_probe': ('probe_l2',)}


def check_transfer(found: Findings) -> None:
  """Reports empty and repeated sweeps, and a train_source that is missing or that is the test set itself."""
  for name, config in found.recipe.evals.items():
    where = f'evals.{name}'
    if config.kind in FEATURE_KINDS and found.good(f'{where}.kind'):
      for knob in _SWEEPS[config.kind]:
        _check_sweep(found, f'{where}.{knob}', getattr(config, knob))
      _check_train_source(found, where, config)


def _check_sweep(found: Findings, where: str, values: tuple[float, ...]) -> None:
  # Values are told apart as metrics name them.
  repeated = [text for text, times in Counter(f'{value:g}' for value in values).items() if times > 1]
  if not values:
    found.add(where, 'at least one value', 'Leave it out for the default')
  elif repeated:
    found.add(where, 'different values', f'{repeated[0]} stands there twice')


def _check_train_source(found: Findings, where: str, config: EvalConfig) -> None:
  if not found.good(f'{where}.source.kind', f'{where}.train_source.kind'):
    return
  path, hint = f'{where}.train_source', f'Such as source_config(config.{where}.source, split="train")'
  if config.train_source == config.source:
    expected = f'other images than {where}.source, which are the test'
    found.add(f'{path}.split', expected, hint)
  elif config.train_source == SourceConfig() and config.source.kind != config.train_source.kind:
    expected = (
      f'the labelled images that {where}.kind = {config.kind!r} makes its classifier of; nothing is set'
    )
    found.add(f'{path}.kind', expected, hint)
