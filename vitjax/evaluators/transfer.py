"""Evaluators of frozen features: few-shot regression, nearest neighbours, linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from vitjax.config.schema import EvalConfig
from vitjax.data import Batches, Source
from vitjax.evaluators.features import FeatureExtractor, Features
from vitjax.evaluators.fewshot import FewShot
from vitjax.evaluators.knn import Knn
from vitjax.evaluators.linear_probe import LinearProbe


class Probe(Protocol):
  """A small classifier on features. `support` holds the images whose features `score` learns from."""

  @property
  def support(self) -> Source:
    """The images to learn from: train_source, or the part of it that is needed."""
    ...

  def score(self, train: Features, test: Features) -> dict[str, float]:
    """Returns metrics by name; host-side, the same for the same features."""
    ...


def make_probe(config: EvalConfig, train_source: Source, *, prefix: str) -> Probe:
  """Returns the probe that config.kind asks for.

  Args:
    config: of kind 'fewshot', 'knn' or 'linear_probe'.
    train_source: the opened config.train_source.
    prefix: what stands before the names of knobs in messages, such as 'evals.val.'.

  Raises:
    DataError: classes have fewer examples than config.shots, all of them named.
  """
  if config.kind == 'fewshot':
    return FewShot.from_source(config, train_source, prefix=prefix)
  if config.kind == 'knn':
    return Knn(config, train_source)
  assert config.kind == 'linear_probe', config.kind
  return LinearProbe(config, train_source, prefix)


@dataclasses.dataclass(frozen=True)
class TransferEvaluator:
  """Judges frozen features by a probe; every example counts exactly once, on any number of devices and hosts.

  Attributes:
    where: dotted path in the recipe, for messages.
    probe: learns from the support features and is scored on the test features.
    extractor: the model on its mesh.
    train_batches: starts one pass over probe.support.
    test_batches: starts one pass over the test images.
  """

  where: str
  probe: Probe
  extractor: FeatureExtractor
  train_batches: Callable[[], Batches]
  test_batches: Callable[[], Batches]

  def run(self, params: Any) -> dict[str, float]:
    """Returns the probe's metrics and 'num_examples', the size of the test set. Called by every process."""
    train = self.extractor.collect(params, self.train_batches(), where=f'{self.where}.train_source')
    test = self.extractor.collect(params, self.test_batches(), where=f'{self.where}.source')
    return {**self.probe.score(train, test), 'num_examples': float(len(test.labels))}
