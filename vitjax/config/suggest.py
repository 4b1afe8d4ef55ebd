"""Did-you-mean: the nearest known name, path or number to one that is not accepted."""

from __future__ import annotations

import difflib
import itertools
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

# What other code bases call our knobs, where spelling alone would lead astray.
SYNONYMS = {
  'epochs': 'total',
  'num_epochs': 'total',
  'total_epochs': 'total',
  'steps': 'total',
  'total_steps': 'total',
  'num_steps': 'total',
  'learning_rate': 'optim.peak_lr',
  'base_lr': 'optim.peak_lr',
  'lr': 'optim.peak_lr',
  'wd': 'optim.weight_decay',
  'decay_type': 'optim.schedule',
  'grad_norm_clip': 'optim.clip_norm',
  'beta1': 'optim.b1',
  'beta2': 'optim.b2',
  'mixup': 'data.mixup_alpha',
  'dataset': 'data.source.kind',
  'resolution': 'data.image_size',
  'input_size': 'data.image_size',
  'heads': 'model.num_heads',
  'num_layers': 'model.depth',
  'hidden_size': 'model.width',
  'embed_dim': 'model.width',
  'droppath': 'model.stochastic_depth_rate',
  'drop_path_rate': 'model.stochastic_depth_rate',
  'classifier': 'model.pool',
  'pretrained': 'init.checkpoint',
}

_MAX_LISTED = 10_000  # folders of images can hold millions of files
_MAX_FACTORED = 10**10  # trial division up to its root takes milliseconds


def closest(word: str, known: Iterable[str]) -> str | None:
  """Returns the known name that resembles `word` most, ignoring case; None if none does."""
  names = {name.lower(): name for name in known}
  lowered = word.lower()
  matches = difflib.get_close_matches(lowered, names, n=1, cutoff=0.6)
  if not matches and len(lowered) >= 2:
    matches = [name for name in names if lowered in name or (len(name) >= 3 and name in lowered)]
  return names[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str], *, quote: str = "'") -> str:
  """Returns "Did you mean 'adamw'?" for the nearest known name, or ''."""
  match = closest(word, known)
  return f'Did you mean {quote}{match}{quote}?' if match is not None else ''


def suggest_path(path: str, known: Sequence[str]) -> str:
  """Returns the next step for a dotted path that does not exist: the nearest one, or what its group holds."""
  group, _, leaf = path.rpartition('.')
  siblings = {p.rpartition('.')[2]: p for p in known if p.rpartition('.')[0] == group}
  if leaf in SYNONYMS and SYNONYMS[leaf] in known:
    return f'Did you mean {SYNONYMS[leaf]}?'
  if (match := closest(leaf, siblings)) is not None:
    return f'Did you mean {siblings[match]}?'
  same_leaf = [p for p in known if p.rpartition('.')[2] == leaf]
  if same_leaf:
    return f'Did you mean {closest(path, same_leaf) or same_leaf[0]}?'
  if not siblings and (match := closest(path, known)) is not None:
    return f'Did you mean {match}?'
  leaves = {p.rpartition('.')[2]: p for p in reversed(known)}
  if (match := closest(leaf, leaves)) is not None:
    return f'Did you mean {leaves[match]}?'
  return f'{group or "The recipe"} holds {", ".join(siblings) or "no such group"}'


def suggest_file(path: str) -> str:
  """Returns the next step for a local file or folder that does not exist: its nearest sibling, if any."""
  target = pathlib.Path.cwd() / path
  while not target.parent.is_dir():
    target = target.parent
  parent, name = target.parent, target.name
  try:
    with os.scandir(parent) as entries:
      names = sorted(entry.name for entry in itertools.islice(entries, _MAX_LISTED))
  except OSError:
    return f'{parent} cannot be listed'
  if (match := closest(name, names)) is not None:
    return f'Did you mean {parent / match}?'
  return f'{parent} exists, but holds no {name!r}'


def nearest_divisors(value: int, total: int) -> str:
  """Returns the divisors of `total` around `value`: '4 or 8'; of an absurdly large total just '1'."""
  if total > _MAX_FACTORED:
    return '1'
  small = [d for d in range(1, math.isqrt(total) + 1) if total % d == 0]
  return _around(value, sorted({*small, *(total // d for d in small)}))


def nearest_multiples(value: int, unit: int) -> str:
  """Returns the positive multiples of `unit` around `value`: '96 or 128'."""
  below = value // unit * unit
  return _around(value, [m for m in (below, below + unit) if m > 0])


def _around(value: int, valid: Sequence[int]) -> str:
  below = [v for v in valid if v <= value][-1:]
  above = [v for v in valid if v > value][:1]
  return ' or '.join(str(v) for v in (*below, *above))
