"""A look at every image before training: which cannot be read, which are the same, how the classes are filled."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures

import numpy as np

from vitjax.data.decode import UnreadableError
from vitjax.data.readers import spread
from vitjax.data.sources import Source, counts_per_class
from vitjax.errors import DataError, Problem

# Images of a source that are looked at; of more, an even sample.
MAX_LOOKED = 20_000
_THREADS = 8
_MANY_TIMES = 10
_LISTED = 5


@dataclasses.dataclass(frozen=True)
class Looked:
  """One readable image: its source's dotted path, its name there, its class (or classes), a digest of its pixels."""

  where: str
  name: str
  label: str
  digest: bytes


@dataclasses.dataclass(frozen=True)
class Survey:
  """What a look at images found.

  Attributes:
    sizes: {source: (images looked at, images it has)}.
    unreadable: (source, file, reason).
    repeated: groups of images with the same pixels.
    counts: {source: {class: images}}.
    budgets: {source: its max_corrupt}.
    words: {source: what people call it}.
  """

  sizes: Mapping[str, tuple[int, int]]
  unreadable: tuple[tuple[str, str, str], ...]
  repeated: tuple[tuple[Looked, ...], ...]
  counts: Mapping[str, Mapping[str, int]]
  budgets: Mapping[str, int]
  words: Mapping[str, str]

  def shared(self) -> tuple[tuple[Looked, ...], ...]:
    """Returns the groups that lie in more than one source: images that a model learns and is judged by."""
    return tuple(group for group in self.repeated if len({each.where for each in group}) > 1)

  def contradictory(self) -> tuple[tuple[Looked, ...], ...]:
    """Returns the groups whose images are labelled differently."""
    return tuple(group for group in self.repeated if len({each.label for each in group}) > 1)

  def check(self) -> None:
    """Raises DataError when more images of a source are unreadable than it tolerates."""
    problems = []
    for where, budget in self.budgets.items():
      found = [(name, reason) for place, name, reason in self.unreadable if place == where]
      if len(found) > budget:
        problems += [Problem(name, reason) for name, reason in found[:20]]
        hint = 'Replace or remove these files, or raise it'
        problems.append(Problem(f'{where}.max_corrupt', str(budget), f'at least {len(found)}', hint))
    if problems:
      raise DataError('more images cannot be read than are tolerated', problems)

  def lines(self, listed: int = _LISTED) -> list[str]:
    """Returns the report, a paragraph per finding, `listed` examples of each."""
    looked = ', '.join(
      f'{count:,}{"" if count == total else f" of {total:,}"} of {self.words[where]}'
      for where, (count, total) in self.sizes.items()
    )
    found = [f'looked at the images: {looked}']
    found += self._unreadable_lines(listed)
    shared, contradictory = self.shared(), self.contradictory()
    if shared:
      found.append(
        f'{_times(len(shared), "image")} both in training and in validation: the score will be too good. '
        'Remove one of each:'
      )
      found += _groups(shared, listed)
    if contradictory:
      found.append(f'{_times(len(contradictory), "image")} under different labels; only one can be right:')
      found += _groups(contradictory, listed)
    rest = [group for group in self.repeated if group not in shared and group not in contradictory]
    if rest:
      extra = sum(len(group) - 1 for group in rest)
      copies = 'copy' if extra == 1 else 'copies'
      found.append(f'{_times(len(rest), "image")} more than once in one part ({extra} {copies}):')
      found += _groups(rest, listed)
    if not self.repeated:
      found.append('no image twice (compared pixel by pixel)')
    for where, counts in self.counts.items():
      found.append(_balance(self.words[where], counts))
    return found

  def _unreadable_lines(self, listed: int) -> list[str]:
    if not self.unreadable:
      return ['all of them can be read']
    found = [
      f'{_times(len(self.unreadable), "image")} that cannot be read; left out of training and of scores:'
    ]
    found += [f'  {name}: {reason}' for _, name, reason in self.unreadable[:listed]]
    return found + _more(len(self.unreadable) - listed)


def _times(count: int, noun: str) -> str:
  return f'{count} {noun}' if count == 1 else f'{count} {noun}s'


def _more(count: int) -> list[str]:
  return [f'  ... and {count} more'] if count > 0 else []


def _groups(groups: Sequence[Sequence[Looked]], listed: int) -> list[str]:
  """Returns a line per image; those of one group but the first are set in after '='."""
  lines = []
  for group in groups[:listed]:
    first, *others = (f'{each.name} ({each.label})' for each in group)
    lines += [f'  {first}', *(f'    = {other}' for other in others)]
  return lines + _more(len(groups) - listed)


def _balance(where: str, counts: Mapping[str, int]) -> str:
  filled = {name: count for name, count in counts.items() if count}
  total = sum(filled.values())
  largest, smallest = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
  text = (
    f'{where}: largest class {largest!r} with {filled[largest]:,} ({filled[largest] / total:.0%}), '
    f'smallest {smallest!r} with {filled[smallest]:,}'
  )
  if filled[largest] >= _MANY_TIMES * filled[smallest]:
    text += ':\n  imbalanced; look at the accuracy per class, not at the overall one alone'
  return text


def survey(sources: Mapping[str, Source], words: Mapping[str, str], *, limit: int = MAX_LOOKED) -> Survey:
  """Returns what a look at the images of some sources finds. Decodes each once, in threads.

  Args:
    sources: by dotted path, such as 'data.source' and 'evals.val.source'.
    words: what people call each source, such as 'training' and 'val'.
    limit: images of a source looked at; of more, an even sample.
  """
  looked, unreadable, sizes = [], [], {}
  for where, source in sources.items():
    chosen = spread(len(source), limit)
    sizes[where] = (len(chosen), len(source))
    for result in _look(where, source, chosen):
      (looked if isinstance(result, Looked) else unreadable).append(result)
  groups: dict[bytes, list[Looked]] = collections.defaultdict(list)
  for each in looked:
    groups[each.digest].append(each)
  return Survey(
    sizes=sizes,
    unreadable=tuple(unreadable),
    repeated=tuple(tuple(group) for group in groups.values() if len(group) > 1),
    counts={where: counts_per_class(source) for where, source in sources.items()},
    budgets={where: source.max_corrupt for where, source in sources.items()},
    words=words,
  )


def _look(where: str, source: Source, chosen: np.ndarray) -> Iterator[Looked | tuple[str, str, str]]:
  def one(example: int) -> Looked | tuple[str, str, str]:
    try:
      image, label = source.load(example)
    except UnreadableError as error:
      return where, source.name_of(example), error.reason
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    ids = [label] if isinstance(label, int) else np.flatnonzero(label)
    return Looked(
      where, source.name_of(example), ', '.join(source.class_names[i] for i in ids), digest.digest()
    )

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    yield from pool.map(one, (int(i) for i in chosen))
