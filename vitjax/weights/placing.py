"""From the names of an .npz file to paths of the parameter tree: prefixes, aliases, squeezed and stacked arrays."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.data.preprocess import Preprocess
from vitjax.errors import Problem
from vitjax.weights.entries import BFLOAT16, Entry
from vitjax.weights.imported import ImportReport, KeyRow, Shape, Size, fit_problems

# Deeper than any network; a file cannot make us count to a billion.
MAX_DEPTH = 512

_STACKED = re.compile(r'(?P<head>.*/)encoderblock/(?P<tail>.+)')


@dataclasses.dataclass(frozen=True)
class Alias:
  """One old or foreign spelling: `pattern` (searched in the name without prefix) becomes `name`."""

  pattern: str
  name: str
  source: str


@dataclasses.dataclass(frozen=True)
class Placement:
  """One array of the file and its place in the tree.

  Attributes:
    key: its name in the file.
    path: its path in the tree; a stacked array's has 'encoderblock' without an index.
    entry: how to read it.
    shape: its shape in the tree (still stacked).
    note: what is changed on the way.
    zero_rows: leading zero rows of axis 1 that the file leaves out; `shape` counts them.
  """

  key: str
  path: str
  entry: Entry
  shape: Shape
  note: str
  zero_rows: int = 0

  @property
  def stacked(self) -> bool:
    """Whether axis 0 runs over encoder blocks."""
    return _STACKED.fullmatch(self.path) is not None

  def targets(self) -> dict[str, Shape]:
    """Returns {path in loop form: shape} of the one or many parameters that the array gives."""
    match = _STACKED.fullmatch(self.path)
    if match is None:
      return {self.path: self.shape}
    return {f'{match["head"]}encoderblock_{i}/{match["tail"]}': self.shape[1:] for i in range(self.shape[0])}

  def read(self) -> dict[str, np.ndarray]:
    """Returns {path in loop form: array}; float32, or bfloat16 as stored. Stacked blocks share memory."""
    array = self.entry.read()
    if array.dtype != BFLOAT16:
      array = array.astype(np.float32, copy=False)
    if self.zero_rows:
      zeros = np.zeros((array.shape[0], self.zero_rows, *array.shape[2:]), array.dtype)
      array = np.concatenate([zeros, array], axis=1)
    array = array.reshape(self.shape)
    paths = list(self.targets())
    return {path: array[i] for i, path in enumerate(paths)} if self.stacked else {paths[0]: array}

  def row(self) -> KeyRow:
    """Returns its line in the report."""
    return KeyRow(self.key, self.path.replace('encoderblock/', 'encoderblock_*/'), 'loaded', self.note)


def find_prefix(keys: Mapping[str, Any], prefixes: Sequence[str], marks: Sequence[str]) -> str | None:
  """Returns the first of `prefixes` below which the file has one of `marks`, or None."""
  for prefix in prefixes:
    if any(prefix + mark in keys for mark in marks):
      return prefix
  return None


def place(
  entries: Mapping[str, Entry], *, prefix: str, aliases: Sequence[Alias], squeezed: Mapping[str, int]
) -> tuple[list[Placement], list[KeyRow], list[Problem]]:
  """Returns (placements, rows of unused keys, problems) for the arrays of a file.

  Args:
    entries: the file's arrays.
    prefix: only names that begin with it are parameters; the rest is reported as unused.
    aliases: other spellings, all applied in order.
    squeezed: {regex of paths: leading sides of 1 that 4-D arrays there have too many}.
  """
  placements, unused, problems = [], [], []
  for key, entry in entries.items():
    if not key.startswith(prefix):
      unused.append(KeyRow(key, '', 'unused', f'outside of {prefix}'))
      continue
    path, notes = key.removeprefix(prefix), []
    for alias in aliases:
      path = re.sub(alias.pattern, alias.name, path)
    shape = entry.shape
    for pattern, ones in squeezed.items():
      if len(shape) == 4 and shape[:ones] == (1,) * ones and re.fullmatch(pattern, path):
        notes.append(f'{list(shape)} squeezed')
        shape = shape[ones:]
    if entry.dtype != BFLOAT16 and entry.dtype.kind != 'f':
      problems.append(Problem(key, f'dtype {entry.dtype}', 'floating point'))
    elif entry.dtype not in (BFLOAT16, np.float32):
      notes.append(f'{entry.dtype} cast to float32')
    placement = Placement(key, path, entry, shape, ', '.join(notes))
    if 0 in shape or (placement.stacked and (len(shape) < 2 or shape[0] > MAX_DEPTH)):
      expected = f'no empty sides, and at most {MAX_DEPTH} stacked blocks'
      problems.append(Problem(key, f'shape {list(entry.shape)}', expected))
    else:
      placements.append(placement)
  return placements, unused, [*problems, *_collisions(placements)]


def _collisions(placements: Sequence[Placement]) -> list[Problem]:
  """Returns a problem for each parameter that several arrays of the file would give."""
  sources: dict[str, list[str]] = collections.defaultdict(list)
  for placement in placements:
    for path in placement.targets():
      sources[path].append(placement.key)
  return [
    Problem(path, f'given by {" and ".join(keys)}', 'one array')
    for path, keys in sources.items()
    if len(keys) > 1
  ]


def shapes_of(placements: Sequence[Placement]) -> dict[str, Shape]:
  """Returns {path in loop form: shape} of all parameters that the file gives."""
  return {path: shape for placement in placements for path, shape in placement.targets().items()}


def num_outputs(shapes: Mapping[str, Shape], kernel: str) -> int | None:
  """Returns the last side of a kernel; None without such a kernel (a scalar's shape is found out later)."""
  return shapes[kernel][-1] if shapes.get(kernel) else None


def mismatches(placements: Sequence[Placement], expected: Mapping[str, Shape]) -> list[Problem]:
  """Returns what is missing, left over or of another shape than the model's parameters, by the file's names."""
  keys = {path: placement.key for placement in placements for path in placement.targets()}
  return fit_problems(shapes_of(placements), expected, keys)


def read_params(placements: Sequence[Placement]) -> dict[str, Any]:
  """Returns the parameter tree (loop form) with every array read.

  Raises:
    CheckpointError: the data of an array is damaged.
  """
  flat: dict[str, np.ndarray] = {}
  for placement in placements:
    flat.update(placement.read())
  return trees.unflatten({path: flat[path] for path in sorted(flat)})


def stored_dtype(placements: Sequence[Placement]) -> str:
  """Returns 'bfloat16' when all arrays are, else 'float32': ModelConfig.param_dtype."""
  return 'bfloat16' if all(p.entry.dtype == BFLOAT16 for p in placements) else 'float32'


def report_of(placements: Sequence[Placement], unused: Sequence[KeyRow]) -> ImportReport:
  """Returns the report of a file: what was loaded, then what is unused."""
  return ImportReport((*(placement.row() for placement in placements), *unused))


def preprocess_assumption(size: Size) -> str:
  """Returns what is taken for granted of the inputs, since no .npz file says it."""
  how = f'plain bilinear resize to {size[0]}x{size[1]}, pixels scaled to [-1, 1]'
  return f'preprocess: {how}, as in the code of the released models'


def preprocess_checks(image_size: Size, preprocess: Preprocess) -> list[tuple[bool, str, Any, str, str]]:
  """Returns (good, where, found, expected, hint) of what readers of .npz files take for granted of the inputs."""
  hint = 'An .npz file does not say; other formats do'
  half = '0.5 per channel: pixels in [-1, 1]'
  size = preprocess.image_size
  return [
    (set(preprocess.mean) == {0.5}, 'preprocess.mean', preprocess.mean, half, hint),
    (set(preprocess.std) == {0.5}, 'preprocess.std', preprocess.std, half, hint),
    (tuple(size) == tuple(image_size), 'preprocess.image_size', size, str(image_size), hint),
  ]


def lost_by_npz(preprocess: Preprocess, class_names: Sequence[str] | None) -> tuple[str, ...]:
  """Returns what an .npz file cannot hold and a reader must be told."""
  lost = []
  if class_names:
    lost.append(f'the names of the {len(class_names)} classes')
  if preprocess.interpolation != 'bilinear' or preprocess.resize_short is not None:
    lost.append(f'the preprocessing: {preprocess.to_json()}')
  return tuple(lost)
