"""Starting a new model from old weights: every parameter is accounted for, or nothing is loaded."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.errors import CheckpointError, ConfigError, Problem
from vitjax.models.layout import stack_blocks, unstack_blocks
from vitjax.models.sizes import resolve_variant
from vitjax.ops.positions import resample_positions

HEADS = ('reset', 'keep')
_HEAD = re.compile(r'(head|pre_logits)/.*')
_NEW_HEAD = re.compile(r'head/.*')
_TABLE = re.compile(r'(.*/)?posembed_input/pos_embedding')
_AXIS_TABLE = re.compile(r'(.*/)?posembed_input/pos_embedding_(?P<axis>[xy])')
_RELATIVE = re.compile(r'(.*/)?posembed_input/relative_keys')
_STACKED = re.compile(r'(.*/)?encoderblock/.*')

Grid = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Row:
  """What happened to one parameter: its path in loop form, an action of TransferReport, and remarks."""

  path: str
  action: str
  note: str = ''


@dataclasses.dataclass(frozen=True)
class TransferReport:
  """Every parameter of the new and of the old model with what became of it; str() is a table, counts first.

  Actions:
    loaded: copied.
    resized: learned positions resampled to another grid.
    reset: the zero-initialised head.
    fresh: left as the new model initialised it, because a pattern in `expected` says so.
    unused: an old parameter that was dropped.
  """

  rows: tuple[Row, ...]

  ACTIONS = ('loaded', 'resized', 'reset', 'fresh', 'unused')

  def paths(self, action: str) -> tuple[str, ...]:
    """Returns the paths with that action."""
    return tuple(row.path for row in self.rows if row.action == action)

  def summary(self) -> str:
    """Returns the counts in one line: '148 loaded, 1 resized, 2 reset, 4 unused'."""
    counts = collections.Counter(row.action for row in self.rows)
    return (
      ', '.join(f'{counts[action]} {action}' for action in self.ACTIONS if counts[action]) or 'no parameters'
    )

  def __str__(self) -> str:
    ordered = sorted(self.rows, key=lambda row: self.ACTIONS[::-1].index(row.action))
    width = max((len(row.path) for row in ordered), default=0)
    lines = [f'  {row.action:<8}{row.path:<{width}}  {row.note}'.rstrip() for row in ordered]
    return '\n'.join([self.summary(), *lines])


@dataclasses.dataclass(frozen=True)
class _Plan:
  """The arguments of `initialize_from` that say what becomes of one parameter."""

  head: str
  method: str
  old_grid: Grid | None
  new_grid: Grid | None
  old_num_prefix: int
  new_num_prefix: int
  expected: tuple[str, ...]

  def expects(self, path: str) -> bool:
    return any(re.fullmatch(pattern, path) for pattern in self.expected)

  def drops(self, path: str) -> bool:
    return self.head == 'reset' and _HEAD.fullmatch(path) is not None


def initialize_from(
  new_params: Mapping[str, Any],
  old_params: Mapping[str, Any],
  *,
  head: str = 'reset',
  position_resize: str = 'zoom',
  old_grid: Grid | None = None,
  new_grid: Grid | None = None,
  old_num_prefix: int = 1,
  new_num_prefix: int = 1,
  expected: Sequence[str] = (),
) -> tuple[dict[str, Any], TransferReport]:
  """Returns the new model's parameters with the old model's values, and a report of each one. Host-side.

  Encoder blocks may be in loop or scanned form on either side; the result has the new model's form. Values
  are cast to the new model's dtype, and the report says where.

  Args:
    new_params: the new model's tree, initialised or abstract (ShapeDtypeStruct).
    old_params: the checkpoint's tree, numpy or jax arrays, as from `restore_params(path, as_numpy=True)`.
    head: 'reset' drops the old head and pre_logits and starts a zero-initialised linear head (kernel 0; its
      bias as initialised, 0 where new_params is abstract); 'keep' loads both, and their shapes must agree.
    position_resize: 'zoom', 'bilinear' or 'bicubic', for learned positions on another grid; see
      ops.positions.resample_positions.
    old_grid: (rows, columns) of patches that the old positions were learned on; None: nothing is resized.
    new_grid: (rows, columns) of the new model.
    old_num_prefix: leading rows of the old 1-D table that are no grid cells: 1 with a class token, else 0.
    new_num_prefix: the same for the new table; a row may be dropped (1 -> 0), not invented.
    expected: regexes; a parameter whose path in loop form matches one in full may stand on one side only: a
      new one stays as initialised, an old one is dropped. For differences that a model knob explains, such as
      'registers' with num_registers or 'cls' with pool.

  Returns:
    (params, report): numpy arrays in nested dicts of new_params' structure, and what became of each
    parameter.

  Raises:
    CheckpointError: parameters are missing, left over or of another shape, and nothing explains it; lists
      all.
    ConfigError: unknown `head` or `position_resize`.

  Source: ViT (arXiv 2010.11929) B.1.1 (head) and 3.2 (positions).
  """
  if head not in HEADS:
    problem = Problem('init.head', repr(head), f'one of {", ".join(HEADS)}')
    raise ConfigError('parameters cannot be transferred', [problem])
  plan = _Plan(
    head,
    position_resize,
    None if old_grid is None else (old_grid[0], old_grid[1]),
    None if new_grid is None else (new_grid[0], new_grid[1]),
    old_num_prefix,
    new_num_prefix,
    tuple(expected),
  )
  new, old = trees.flatten(unstack_blocks(new_params)), trees.flatten(unstack_blocks(old_params))
  values: dict[str, np.ndarray] = {}
  outcomes = [*_new_side(new, old, plan, values), *_old_side(new, old, plan)]
  if problems := [outcome for outcome in outcomes if isinstance(outcome, Problem)]:
    hint = (
      'Use the model knobs that the checkpoint was trained with (variant, patch_size, pool, position, '
      'representation_size, num_registers, ...); `expected` allows differences that are meant'
    )
    headline = f'{len(problems)} parameters of checkpoint and model do not fit; nothing was loaded'
    raise CheckpointError(headline, [*problems, Problem('next step', hint=hint)])
  params = trees.unflatten(values)
  if any(_STACKED.fullmatch(path) for path in trees.flatten(new_params)):
    params = stack_blocks(params)
  return params, TransferReport(tuple(outcome for outcome in outcomes if isinstance(outcome, Row)))


def explain_differences(
  old_model: ModelConfig, new_model: ModelConfig, *, old_size: Grid, new_size: Grid
) -> dict[str, Any]:
  """Returns the keyword arguments of `initialize_from` that follow from two model configs.

  Args:
    old_model: config of the checkpoint's model.
    new_model: config of the new model.
    old_size: (height, width) of the images the old model was trained on, in pixels.
    new_size: the same of the new model.

  Returns:
    old_grid, new_grid, old_num_prefix, new_num_prefix, and in `expected` the parameters that come or go with
    pool, num_registers, position, position_at and layer_scale_init. Sizes (depth, width, ...) explain
    nothing.
  """
  grids = []
  for config, size in ((old_model, old_size), (new_model, new_size)):
    variant = resolve_variant(config)
    # A hybrid's stem rounds up; patches divide what it puts out.
    down = variant.downsample if isinstance(variant, ViTVariant) else 0
    grids.append((-(-size[0] // down), -(-size[1] // down)) if down else None)
  expected = []
  if old_model.pool != new_model.pool:
    expected += ['cls', r'(.*/)?pos_embedding_cls', 'MAPHead_0/.*']
  if old_model.num_registers != new_model.num_registers:
    expected.append('registers')
  if (old_model.position, old_model.position_at) != (new_model.position, new_model.position_at):
    expected.append('(.*/)?posembed_input/.*')
  if (old_model.layer_scale_init is None) != (new_model.layer_scale_init is None):
    expected.append(r'.*/LayerScale_\d+/scale')
  return {
    'old_grid': grids[0],
    'new_grid': grids[1],
    'old_num_prefix': int(old_model.pool == 'token'),
    'new_num_prefix': int(new_model.pool == 'token'),
    'expected': tuple(expected),
  }


def _new_side(
  new: Mapping[str, Any], old: Mapping[str, Any], plan: _Plan, values: dict[str, np.ndarray]
) -> Iterator[Row | Problem]:
  """Fills `values` and yields what becomes of each parameter of the new model."""
  for path, leaf in new.items():
    if plan.head == 'reset' and _NEW_HEAD.fullmatch(path):
      values[path] = _reset(path, leaf)
      yield Row(path, 'reset', f'{_text(leaf)}, {"as initialised" if values[path].any() else "zeros"}')
    elif path in old and not plan.drops(path):
      outcome = _transfer(path, leaf, old[path], plan)
      if isinstance(outcome, Problem):
        yield outcome
      else:
        values[path], row = outcome
        yield row
    elif plan.expects(path) and not isinstance(leaf, jax.ShapeDtypeStruct):
      values[path] = np.asarray(leaf)
      yield Row(path, 'fresh', f'{_text(leaf)}, as initialised')
    else:
      yield _missing(path, leaf, plan)


def _old_side(new: Mapping[str, Any], old: Mapping[str, Any], plan: _Plan) -> Iterator[Row | Problem]:
  """Yields what becomes of each parameter of the old model that is not loaded."""
  for path, leaf in old.items():
    if plan.drops(path):
      yield Row(path, 'unused', f'{_text(leaf)}, old head')
    elif path not in new and plan.expects(path):
      yield Row(path, 'unused', f'{_text(leaf)}, expected')
    elif path not in new:
      hint = "init.head='reset' drops it" if _HEAD.fullmatch(path) else ''
      yield Problem(path, f'{_text(leaf)} in the checkpoint', 'no such parameter in the model', hint)


def _transfer(path: str, leaf: Any, source: Any, plan: _Plan) -> tuple[np.ndarray, Row] | Problem:
  """Returns the new value of one parameter that both sides have, or why there is none."""
  old = np.asarray(source)
  notes = []
  try:
    value = _resized(path, old, plan)
  except CheckpointError as error:
    return dataclasses.replace(error.problems[0], where=path)
  action = 'loaded' if value is old else 'resized'
  if value is not old:
    grids = f'grid {plan.old_grid} -> {plan.new_grid}, {plan.method}'
    notes.append(f'{list(old.shape)} -> {list(value.shape)}, {grids}')
  if value.shape != tuple(leaf.shape):
    hint = ''
    if (_TABLE.fullmatch(path) or _AXIS_TABLE.fullmatch(path)) and plan.old_grid is None:
      hint = 'Give old_grid and new_grid, so that the table can be resampled'
    return Problem(path, f'{list(value.shape)} in the checkpoint', f'{list(leaf.shape)}', hint)
  if old.dtype != leaf.dtype:
    notes.append(f'cast {old.dtype} -> {leaf.dtype}')
  return np.array(value, dtype=leaf.dtype), Row(path, action, '; '.join([_text(leaf), *notes]))


def _resized(path: str, old: np.ndarray, plan: _Plan) -> np.ndarray:
  """Returns learned positions on the new grid; `old` itself where nothing is to be resized."""
  if plan.old_grid is None or plan.new_grid is None:
    return old
  if _TABLE.fullmatch(path):
    if plan.old_grid == plan.new_grid and plan.old_num_prefix == plan.new_num_prefix:
      return old
    value = resample_positions(
      old, old_grid=plan.old_grid, new_grid=plan.new_grid, num_prefix=plan.old_num_prefix, method=plan.method
    )
    if plan.new_num_prefix > plan.old_num_prefix:
      hint = 'The checkpoint has no position for the class token: use its pool'
      raise CheckpointError(
        'positions', [Problem(path, f'{plan.old_num_prefix} leading rows', f'{plan.new_num_prefix}', hint)]
      )
    return value[:, plan.old_num_prefix - plan.new_num_prefix :]
  if match := _AXIS_TABLE.fullmatch(path):
    axis = 1 if match['axis'] == 'x' else 0
    before, after = plan.old_grid[axis], plan.new_grid[axis]
    if before != after:
      return resample_positions(
        old, old_grid=(1, before), new_grid=(1, after), num_prefix=0, method=plan.method
      )
  if _RELATIVE.fullmatch(path) and plan.old_grid != plan.new_grid:
    found, wanted = f'offsets on grid {plan.old_grid}', f'grid {plan.new_grid}'
    problem = Problem(path, found, wanted, 'Offsets along the raster mean other places on another grid')
    raise CheckpointError('positions', [problem])
  return old


def _reset(path: str, leaf: Any) -> np.ndarray:
  if path.endswith('/kernel') or isinstance(leaf, jax.ShapeDtypeStruct):
    return np.zeros(leaf.shape, leaf.dtype)
  return np.asarray(leaf)


def _text(leaf: Any) -> str:
  return f'{leaf.dtype}{list(leaf.shape)}'


def _missing(path: str, leaf: Any, plan: _Plan) -> Problem:
  hint = ''
  if plan.drops(path):
    hint = "A reset head is one linear layer: unset model.representation_size, or use init.head='keep'"
  elif plan.expects(path):
    hint = 'Give initialised parameters, not abstract ones: this one stays as initialised'
  elif _HEAD.fullmatch(path):
    hint = "init.head='reset' starts a new head"
  return Problem(path, 'not in the checkpoint', _text(leaf), hint)
