"""Split expressions such as 'train[:90%]' or 'train+validation', and class-balanced orders."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from vitjax.errors import ConfigError, Problem

_PART = re.compile(
  r'\s*(?P<name>[\w.\-]+?)\s*(?:\[\s*(?P<low>-?\d+(?:\.\d+)?%?)?\s*:\s*(?P<high>-?\d+(?:\.\d+)?%?)?\s*\])?\s*'
)
_EXAMPLES = '"train", "train[:90%]", "train[4000:]", "all[-10%:]" or "train+validation"'


@dataclasses.dataclass(frozen=True)
class SplitPart:
  """One term of a split expression: a split's name and its bounds as written ('' when absent)."""

  name: str
  low: str = ''
  high: str = ''

  def __str__(self) -> str:
    return f'{self.name}[{self.low}:{self.high}]' if self.low or self.high else self.name

  def bounds(self, num_examples: int) -> tuple[int, int]:
    """Returns first and last + 1 of the slice within a split of `num_examples`.

    Percent bounds are rounded to the nearest example, so neighbouring slices share their boundary; negative
    bounds count from the end; bounds beyond the ends are clipped.
    """
    low, high = _bound(self.low, num_examples, 0), _bound(self.high, num_examples, num_examples)
    return low, max(low, high)


def _bound(text: str, num_examples: int, absent: int) -> int:
  if not text:
    return absent
  value = round(float(text[:-1]) * num_examples / 100) if text.endswith('%') else int(text)
  return min(max(value + num_examples if text.startswith('-') else value, 0), num_examples)


def parse_split(text: str, *, where: str) -> tuple[SplitPart, ...]:
  """Reads a split expression.

  Raises:
    ConfigError: `text` is not NAME, NAME[LOW:HIGH], or several of them joined by '+'.
  """
  parts = []
  for term in text.split('+'):
    match = _PART.fullmatch(term)
    bounds = (match['low'] or '', match['high'] or '') if match else ('', '')
    if match is None or any('.' in bound and not bound.endswith('%') for bound in bounds):
      raise ConfigError(
        'a split cannot be read', [Problem(where, repr(text), f'a split such as {_EXAMPLES}')]
      )
    parts.append(SplitPart(match['name'], *bounds))
  return tuple(parts)


def stratified_order(labels: np.ndarray, *, seed: int) -> np.ndarray:
  """Returns a fixed permutation of the examples in which every slice holds the classes in about equal shares.

  Within a class the order is random; the classes are interleaved in proportion to their sizes. With equal
  class sizes every aligned run of `num_classes` examples holds each class once.

  Args:
    labels: int [n].
    seed: a permutation per seed; numpy's frozen RandomState stream, so it never changes between versions.

  Returns:
    int64 [n], indices into `labels`.
  """
  shuffled = np.random.RandomState(seed).permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
  _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
  rank = np.arange(len(labels)) - np.repeat(starts, counts)
  share = (2 * rank + 1) / np.repeat(2 * counts, counts)
  tie_break = np.random.RandomState(seed + 1).permutation(len(labels))
  return by_class[np.lexsort((tie_break, share))].astype(np.int64)


def few_per_class(
  labels: np.ndarray, *, per_class: int, num_classes: int, seed: int
) -> tuple[np.ndarray, dict[int, int]]:
  """Returns the positions of `per_class` examples of each class, ascending, and the classes that have fewer.

  The choice in one class does not depend on the others, and a smaller `per_class` takes a subset of a larger
  one.

  Args:
    labels: int [n].

  Returns:
    int64 positions, and {class id: examples it has} for classes that are too small.
  """
  chosen, missing = [], {}
  for label in range(num_classes):
    positions = np.flatnonzero(labels == label)
    if len(positions) < per_class:
      missing[label] = len(positions)
    chosen.append(np.random.RandomState([seed, label]).permutation(positions)[:per_class])
  return np.sort(np.concatenate(chosen)).astype(np.int64), missing
