"""Arrays as PyTorch stores them and as the tree does, both ways: one link for each array of a file. Host-side.

A linear layer is [out, in] there and [in, out] here, heads are folded into one axis there, a convolution is OIHW
there and HWIO here, and query, key and value may stand in one array.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.errors import CheckpointError, Problem
from vitjax.weights.entries import BFLOAT16, Entry
from vitjax.weights.imported import KeyRow, Shape


@dataclasses.dataclass(frozen=True)
class Form:
  """How one array of a file holds one or several parameters.

  Attributes:
    stored: shapes of the parameters -> shape of the array.
    load: (array, shapes of the parameters) -> the parameters.
    save: parameters -> the array; the inverse of `load`, bit by bit.
  """

  stored: Callable[..., Shape]
  load: Callable[[np.ndarray, Sequence[Shape]], Sequence[np.ndarray]]
  save: Callable[..., np.ndarray]


def _transposed(fold: Callable[[Shape], Shape]) -> Form:
  """Returns the form [out, in] of a kernel whose axes `fold` joins to (in, out)."""
  return Form(
    stored=lambda shape: fold(shape)[::-1],
    load=lambda array, shapes: (array.T.reshape(shapes[0]),),
    save=lambda kernel: kernel.reshape(fold(kernel.shape)).T,
  )


def fused(form: Form) -> Form:
  """Returns the form of several parameters, each stored as `form`, stacked on axis 0."""

  def load(array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    ends = np.cumsum([form.stored(shape)[0] for shape in shapes])[:-1]
    parts = np.split(array, ends)
    return [form.load(part, [shape])[0] for part, shape in zip(parts, shapes, strict=True)]

  def stored(*shapes: Shape) -> Shape:
    parts = [form.stored(shape) for shape in shapes]
    return (sum(part[0] for part in parts), *parts[0][1:])

  return Form(stored, load, lambda *arrays: np.concatenate([form.save(array) for array in arrays]))


SAME = Form(lambda shape: shape, lambda array, _: (array,), lambda array: array)
# [d, f] <-> [f, d]
DENSE = _transposed(lambda shape: (shape[0], shape[1]))
# query, key, value: kernel [d, k, e] <-> [k * e, d]; bias [k, e] <-> [k * e]
HEADS = _transposed(lambda shape: (shape[0], math.prod(shape[1:])))
HEADS_BIAS = Form(
  lambda shape: (math.prod(shape),),
  lambda array, shapes: (array.reshape(shapes[0]),),
  lambda bias: bias.reshape(-1),
)
# out: [k, e, d] <-> [d, k * e]
OUT = _transposed(lambda shape: (math.prod(shape[:-1]), shape[-1]))
# HWIO <-> OIHW
CONV = Form(
  lambda shape: (shape[3], shape[2], shape[0], shape[1]),
  lambda array, _: (array.transpose(2, 3, 1, 0),),
  lambda kernel: kernel.transpose(3, 2, 0, 1),
)
# [1, l, d] <-> [l, d]
ROWS = Form(lambda shape: shape[1:], lambda array, _: (array[None],), lambda table: table[0])
# [1, 1 + l, d] whose first row, the class token's, is zero <-> [1, l, d]
WITHOUT_CLASS_ROW = Form(
  lambda shape: (1, shape[1] - 1, shape[2]),
  lambda array, _: (np.concatenate([np.zeros_like(array[:, :1]), array], axis=1),),
  lambda table: table[:, 1:],
)
# [d, v] <-> [v, 2 * d], whose second half is zero
HALF_DENSE = Form(
  lambda shape: (shape[1], 2 * shape[0]),
  lambda array, shapes: (array[:, : shapes[0][0]].T,),
  lambda kernel: np.concatenate([kernel.T, np.zeros_like(kernel.T)], axis=1),
)


@dataclasses.dataclass(frozen=True)
class Link:
  """One array of a file and the parameters that it holds.

  Attributes:
    key: name in the file.
    paths: paths in the tree, in the order in which `form` takes them.
    form: the layouts of both sides.
    note: what the report says of it.
  """

  key: str
  paths: tuple[str, ...]
  form: Form = SAME
  note: str = ''


def dense(key: str, path: str, kernel: Form = DENSE, bias: Form = SAME) -> tuple[Link, Link]:
  """Returns the links of a layer's `weight` and `bias`."""
  return (
    Link(f'{key}.weight', (f'{path}/kernel',), kernel),
    Link(f'{key}.bias', (f'{path}/bias',), bias),
  )


def norm(key: str, path: str) -> tuple[Link, Link]:
  """Returns the links of a norm's `weight` and `bias`."""
  return Link(f'{key}.weight', (f'{path}/scale',)), Link(f'{key}.bias', (f'{path}/bias',))


def load_links(
  path: str,
  entries: Mapping[str, Entry],
  links: Sequence[Link],
  expected: Mapping[str, Shape],
  unused: Callable[[str], str] = lambda key: '',
) -> tuple[dict[str, Any], str, list[KeyRow]]:
  """Returns (parameter tree, its dtype, a row for each array of the file); reads nothing before everything fits.

  Args:
    path: the file's name, for errors.
    entries: the file's arrays.
    links: a link for every parameter of `expected`.
    expected: shapes of the model's parameters.
    unused: name of an array without a link -> why it is not needed, '' when it should not be there.

  Returns:
    Arrays are float32, or all bfloat16 ('bfloat16') when the file's are.

  Raises:
    CheckpointError: arrays that are missing, left over, of a wrong shape or dtype. Lists all.
  """
  linked = {parameter for link in links for parameter in link.paths}
  assert linked == set(expected), sorted(linked ^ set(expected))
  problems = []
  for link in links:
    shape = link.form.stored(*(expected[parameter] for parameter in link.paths))
    if link.key not in entries:
      problems.append(Problem(link.key, 'missing in the file', f'an array {list(shape)}'))
    elif entries[link.key].shape != shape:
      problems.append(Problem(link.key, f'shape {list(entries[link.key].shape)}', f'{list(shape)}'))
    elif entries[link.key].dtype != BFLOAT16 and entries[link.key].dtype.kind != 'f':
      problems.append(Problem(link.key, f'dtype {entries[link.key].dtype}', 'floating point'))
  rows = []
  keys = {link.key for link in links}
  for key, entry in entries.items():
    if key not in keys and (reason := unused(key)):
      rows.append(KeyRow(key, '', 'unused', reason))
    elif key not in keys:
      problems.append(Problem(key, f'shape {list(entry.shape)}', 'no such array in this model'))
  if problems:
    raise CheckpointError(f'{path} does not fit the model that it seems to hold', problems)
  dtype = 'bfloat16' if all(entries[key].dtype == BFLOAT16 for key in keys) else 'float32'
  flat: dict[str, np.ndarray] = {}
  for link in links:
    array = entries[link.key].read()
    if dtype == 'float32':
      array = array.astype(np.float32, copy=False)
    parts = link.form.load(array, [expected[parameter] for parameter in link.paths])
    for parameter, part in zip(link.paths, parts, strict=True):
      flat[parameter] = np.ascontiguousarray(part)
    rows.append(_row(link, entries[link.key].dtype, dtype))
  return trees.unflatten({parameter: flat[parameter] for parameter in expected}), dtype, rows


def _row(link: Link, stored: np.dtype, dtype: str) -> KeyRow:
  """Returns a loaded array's line in the report."""
  notes = [link.note] if link.note else []
  if stored.name != dtype:
    notes.append(f'{stored.name} cast to {dtype}')
  return KeyRow(link.key, ' '.join(link.paths), 'loaded', ', '.join(notes))


def save_links(links: Sequence[Link], flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns {name in the file: array} of the parameters {'a/b/c': array}, the inverse of `load_links`."""
  return {
    link.key: np.ascontiguousarray(link.form.save(*(flat[parameter] for parameter in link.paths)))
    for link in links
  }
