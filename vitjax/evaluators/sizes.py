"""One checkpoint judged at several image or patch sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vitjax.evaluators.classification import ClassificationEvaluator


@dataclasses.dataclass(frozen=True)
class SizesEvaluator:
  """Runs an evaluator per size, one after the other; each counts every example once.

  Attributes:
    parts: by the end of their metrics' names, such as '_64px' or '_patch8'.
  """

  parts: Mapping[str, ClassificationEvaluator]

  def run(self, params: Any) -> dict[str, float]:
    """Returns the metrics of all parts, 'accuracy_top1_64px' ..., and 'num_examples', the same for all."""
    metrics: dict[str, float] = {}
    for suffix, part in self.parts.items():
      found = part.run(params)
      counts = {name: value for name, value in found.items() if name.startswith('num_examples')}
      metrics |= counts | {name + suffix: value for name, value in found.items() if name not in counts}
    return metrics
