"""Lengths of training: '1000 steps', '90 epochs' or '5e6 examples'."""

from __future__ import annotations

import dataclasses
import math
import re

UNITS = ('steps', 'epochs', 'examples')
_PATTERN = re.compile(r'\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([a-z]+)\s*')


@dataclasses.dataclass(frozen=True)
class Duration:
  """A length of training.

  Attributes:
    value: how many units, >= 0. Fractions are for epochs ('0.5 epochs').
    unit: 'steps', 'epochs' or 'examples'.
  """

  value: float
  unit: str

  @classmethod
  def parse(cls, text: str) -> Duration:
    """Reads '90 epochs', '1_000 steps', '1 step' or '5e6 examples'.

    Raises:
      ValueError: `text` is not a number followed by one of the three units.
    """
    match = _PATTERN.fullmatch(text)
    unit = match.group(2) if match else ''
    if unit and not unit.endswith('s'):
      unit += 's'
    if match is None or unit not in UNITS:
      raise ValueError(f'{text!r} is not a duration such as "1000 steps", "90 epochs" or "5e6 examples"')
    value = float(match.group(1).replace('_', ''))
    if not math.isfinite(value):
      raise ValueError(f'{text!r} is too long')
    if unit != 'epochs' and value != int(value):
      raise ValueError(f'{text!r}: {unit} come in whole numbers')
    return cls(value, unit)

  def to_steps(self, *, batch_size: int, num_examples: int) -> int:
    """Returns the number of optimiser steps, rounded to nearest, at least 1 for a non-zero duration.

    Args:
      batch_size: global examples per step.
      num_examples: examples in one epoch of the training split.
    """
    examples_per_unit = {'steps': batch_size, 'epochs': num_examples, 'examples': 1}[self.unit]
    steps = math.floor(self.value * examples_per_unit / batch_size + 0.5)
    return max(steps, 1) if self.value > 0 else 0

  def __str__(self) -> str:
    value = int(self.value) if self.value == int(self.value) else self.value
    return f'{value} {self.unit}'
