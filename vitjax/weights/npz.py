"""The official .npz files of the ViT and big_vision releases, plain and hybrid, in and out.

What differs between the files of the family, and is told from keys and shapes alone:

  numbering    2020 and AugReg count all submodules of a block together (MlpBlock_3), Linen counts by class (MlpBlock_0)
  prefix       none, params/, params/img/ (two-tower models), opt/target/ (whole training states)
  blocks       encoderblock_0, encoderblock_1, ... or stacked on axis 0 in encoderblock
  positions    in Transformer/posembed_input with a row for the class token, or at the top level without one
  group norm   vectors, or (1, 1, 1, c)
  dtype        float32, or bfloat16 as 2-byte voids

Nothing in them says how an image becomes an input, what the classes are called, or which GELU was used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTSize, ViTVariant, parse_variant
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError, Problem
from vitjax.models import resolve_variant, unstack_blocks
from vitjax.models.layout import stack_blocks
from vitjax.weights.entries import Entry
from vitjax.weights.imported import (
  Exported,
  Imported,
  Shape,
  Size,
  expected_shapes,
  fit_problems,
  grid_of,
  nearest_variant,
  raise_problems,
  square_grid,
)
from vitjax.weights.placing import (
  MAX_DEPTH,
  Alias,
  Placement,
  find_prefix,
  lost_by_npz,
  mismatches,
  num_outputs,
  place,
  preprocess_assumption,
  preprocess_checks,
  read_params,
  report_of,
  shapes_of,
  stored_dtype,
)

LAYOUTS = ('official', 'linen', 'big_vision')
PREFIXES = ('', 'params/', 'params/img/', 'opt/target/', 'opt/target/params/', 'img/', 'target/')

POSITIONS = 'Transformer/posembed_input/pos_embedding'
_BLOCK = r'^(Transformer/encoderblock(?:_\d+)?/)'
# Old spellings, in the order in which they are applied. An alias may feed a later one.
ALIASES = (
  Alias(
    rf'{_BLOCK}MultiHeadDotProductAttention_1/', r'\1MultiHeadDotProductAttention_0/', '2020 and AugReg files'
  ),
  Alias(rf'{_BLOCK}LayerNorm_2/', r'\1LayerNorm_1/', '2020 and AugReg files'),
  Alias(rf'{_BLOCK}MlpBlock_3/', r'\1MlpBlock_0/', '2020 and AugReg files'),
  Alias('^pos_embedding$', POSITIONS, 'big_vision'),
  Alias('^Transformer/pos_embedding$', POSITIONS, 'big_vision before 2022'),
  Alias('^probe$', 'MAPHead_0/probe', 'attention pooling at the top level: early ViT-G files'),
  Alias('^(MultiHeadDotProductAttention_0|LayerNorm_0|MlpBlock_0)/', r'MAPHead_0/\1/', 'the same'),
)
_OLD_NUMBERS = (
  (rf'{_BLOCK}MultiHeadDotProductAttention_0/', r'\1MultiHeadDotProductAttention_1/'),
  (rf'{_BLOCK}LayerNorm_1/', r'\1LayerNorm_2/'),
  (rf'{_BLOCK}MlpBlock_0/', r'\1MlpBlock_3/'),
)
_GROUP_NORM = r'(gn_root|block\d+/unit\d+/gn(\d|_proj))/(scale|bias)'
# Knobs that files show by their keys and shapes, and those that are no part of the function. All others must
# have their defaults, or a reader would compute something else.
_EXPRESSED = (
  'variant', 'num_classes', 'width', 'depth', 'mlp_dim', 'num_heads', 'patch_size', 'pool', 'position',
  'representation_size', 'qk_norm', 'parallel_blocks', 'dropout_rate', 'attention_dropout_rate',
  'stochastic_depth_rate', 'head_bias_init', 'layers', 'remat', 'dtype', 'param_dtype',
)  # fmt: skip
GELU_ASSUMPTION = 'gelu: the tanh approximation, as in the code of the released models'
_INDEX = re.compile(r'Transformer/encoderblock_(\d{1,4})/.*')
_UNIT = re.compile(r'block(\d{1,4})/unit(\d{1,4})/.*')


def recognises(keys: Mapping[str, Shape], config: Mapping[str, Any] | None = None) -> bool:
  """Returns whether these are the arrays of an official ViT or hybrid; `config` (of a config.json) must be None."""
  prefix = find_prefix(keys, PREFIXES, ('embedding/kernel',))
  return (
    config is None and prefix is not None and any(key.startswith(f'{prefix}Transformer/') for key in keys)
  )


def load(
  path: str, entries: Mapping[str, Entry], *, grid: Size | None = None, position: str | None = None
) -> Imported:
  """Returns the model in an official .npz file.

  Args:
    path: the file's name, for errors.
    entries: its arrays, from `files.read_npz`.
    grid: (rows, columns) of the patches; needed when the positions do not make a square, or are not stored.
    position: 'sincos_2d' or 'none', needed for a file without position table.

  Raises:
    CheckpointError: arrays that are missing, left over or of a wrong shape, with the names of all; or what
      the file does not say, with the argument that does.

  Source: ViT (arXiv 2010.11929) and AugReg (2106.10270) releases; big_vision for the newer forms.
  """
  prefix = find_prefix(entries, PREFIXES, ('embedding/kernel',))
  if prefix is None:
    expected = f'embedding/kernel below one of the prefixes {PREFIXES}'
    raise CheckpointError(f'{path} holds no official ViT', [Problem(path, 'no patch embedding', expected)])
  placements, unused, problems = place(entries, prefix=prefix, aliases=ALIASES, squeezed={_GROUP_NORM: 3})
  raise_problems(f'{path} does not fit', problems)
  model = _model_of(path, shapes_of(placements))
  placements, model, size = _positions(path, placements, model, grid, position)
  model = dataclasses.replace(model, param_dtype=stored_dtype(placements))
  shapes = shapes_of(placements)
  num_classes = num_outputs(shapes, 'head/kernel') or 0
  expected = expected_shapes(model, num_classes=num_classes, image_size=size)
  raise_problems(
    f'{path} does not fit {model.variant}, as which it was read', mismatches(placements, expected)
  )
  assumed = [preprocess_assumption(size), GELU_ASSUMPTION]
  if grid is None:
    assumed.append('grid: a square, since the number of positions is a square number')
  if model.pool == 'gap':
    assumed.append('pool: the mean of the tokens, since there is neither a class token nor attention pooling')
  return Imported(
    format='npz',
    model=model,
    num_classes=num_classes,
    image_size=size,
    params=read_params(placements),
    preprocess=Preprocess(size),
    class_names=None,
    assumed=tuple(assumed),
    report=report_of(placements, unused),
  )


def _model_of(path: str, shapes: Mapping[str, Shape]) -> ModelConfig:
  """Returns the model that the shapes describe, positions aside.

  Raises:
    CheckpointError: arrays that the sizes are read from are missing or not of their kind.
  """
  blocks = [int(match[1]) for name in shapes if (match := _INDEX.fullmatch(name))]
  first = f'Transformer/encoderblock_{min(blocks, default=0)}'
  query = f'{first}/MultiHeadDotProductAttention_0/query/kernel'
  hidden = f'{first}/MlpBlock_0/Dense_0/kernel'
  kinds = {
    'embedding/kernel': '(patch, patch, channels, width)',
    query: '(width, heads, head dim)',
    hidden: '(width, mlp)',
  }
  problems = []
  for name, kind in kinds.items():
    if name not in shapes:
      problems.append(Problem(name, 'missing in the file', f'an array {kind}'))
    elif len(shapes[name]) != kind.count(',') + 1:
      problems.append(Problem(name, f'shape {list(shapes[name])}', kind))
  depth = max(blocks, default=0) + 1
  if depth > MAX_DEPTH:
    problems.append(
      Problem(f'Transformer/encoderblock_{depth - 1}', 'a block', f'at most {MAX_DEPTH} blocks')
    )
  units = _stem_units(shapes)
  if 'conv_root/kernel' in shapes and not units:
    problems.append(Problem('conv_root/kernel', 'a stem without residual units', 'block1/unit1/...'))
  raise_problems(f'{path}: the size of the model cannot be told', problems)
  variant, sizes = nearest_variant(
    width=shapes['embedding/kernel'][3],
    depth=depth,
    mlp_dim=shapes[hidden][1],
    num_heads=shapes[query][1],
    patch_size=shapes['embedding/kernel'][0],
    stem_units=units,
  )
  return ModelConfig(
    variant=variant,
    pool='token' if 'cls' in shapes else 'map' if 'MAPHead_0/probe' in shapes else 'gap',
    representation_size=num_outputs(shapes, 'pre_logits/kernel'),
    qk_norm=True if f'{first}/MultiHeadDotProductAttention_0/query_ln/scale' in shapes else None,
    **sizes,
  )


def _stem_units(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
  """Returns the residual units per stage of a hybrid, by their highest numbers; () for a plain ViT."""
  units: dict[int, int] = {}
  for name in shapes:
    if match := _UNIT.fullmatch(name):
      stage, unit = int(match[1]), int(match[2])
      units[stage] = max(unit, units[stage]) if stage in units else unit
  return tuple(units[stage] for stage in sorted(units))


def _positions(
  path: str, placements: list[Placement], model: ModelConfig, grid: Size | None, position: str | None
) -> tuple[list[Placement], ModelConfig, Size]:
  """Returns (placements with a class row where the file folded it, model, image size).

  Raises:
    CheckpointError: the grid or the kind of positions must be given, or contradicts the file.
  """
  variant = parse_variant(model.variant)
  assert isinstance(variant, ViTVariant), model.variant
  down = variant.downsample if model.patch_size is None else variant.downsample * model.patch_size
  table = next((placement for placement in placements if placement.path == POSITIONS), None)
  if table is None:
    found_grid = _told_grid(path, grid, position)
    model = dataclasses.replace(model, position=position)
  else:
    if position not in (None, 'learned_1d'):
      problem = Problem('position', repr(position), "'learned_1d' or None", f'{table.key} is in the file')
      raise CheckpointError(f'{path} holds learned positions', [problem])
    if len(table.shape) != 3:
      problem = Problem(table.key, f'shape {list(table.shape)}', '(1, positions, width)')
      raise CheckpointError(f'{path} does not fit', [problem])
    folded, outcome = _grid_and_fold(table, model, grid)
    if isinstance(outcome, Problem):
      raise CheckpointError(f'{path}: the grid of its positions is not known', [outcome])
    found_grid = outcome
    if folded:
      note = ', '.join(note for note in (table.note, 'zero row added for the class token') if note)
      shape = (table.shape[0], table.shape[1] + 1, table.shape[2])
      grown = dataclasses.replace(table, shape=shape, note=note, zero_rows=1)
      placements = [grown if placement is table else placement for placement in placements]
  return placements, model, (found_grid[0] * down, found_grid[1] * down)


def _told_grid(path: str, grid: Size | None, position: str | None) -> Size:
  """Returns the grid of a file without position table, which the caller must name with the kind."""
  problems = []
  if position not in ('sincos_2d', 'none'):
    hint = (
      "Fixed sines (position='sincos_2d') and no positions at all (position='none') leave no trace in a file"
    )
    problems.append(Problem('position', repr(position), "'sincos_2d' or 'none'", hint))
  if grid is None or min(grid) < 1:
    hint = 'Give grid=(rows, columns) of the patches, such as (14, 14)'
    problems.append(Problem('grid', repr(grid), 'two positive numbers', hint))
  raise_problems(f'{path} has no position table: say what stands in its place', problems)
  assert grid is not None
  return (grid[0], grid[1])


def _grid_and_fold(table: Placement, model: ModelConfig, grid: Size | None) -> tuple[bool, Size | Problem]:
  """Returns (whether the class token's row was folded into `cls`, the grid or why it is not known)."""
  num_rows = table.shape[1]
  if model.pool != 'token':
    outcome = grid_of(num_rows, grid, where=table.key)
    if isinstance(outcome, Problem) and square_grid(num_rows - 1):
      hint = 'cls is missing, or else give grid=(rows, columns) of the patches'
      outcome = dataclasses.replace(outcome, hint=hint)
    return False, outcome
  # Only big_vision's tables, at the top level, come without the row; elsewhere 16 rows are 15 cells, not 4x4.
  for folded in (False, True) if grid is not None or 'Transformer/' not in table.key else (False,):
    outcome = grid_of(num_rows - (not folded), grid, where=table.key)
    if not isinstance(outcome, Problem):
      return folded, outcome
  if grid is None:
    wanted = 'a square number, or one more with a row for the class token'
    return False, Problem(
      table.key, f'{num_rows} positions', wanted, 'Give grid=(rows, columns) of the patches'
    )
  wanted = f'{grid[0] * grid[1]} for grid={tuple(grid)}, or one more with a row for the class token'
  return False, Problem(table.key, f'{num_rows} positions', wanted)


def export(
  params: Mapping[str, Any],
  model: ModelConfig,
  num_classes: int,
  image_size: Size,
  preprocess: Preprocess,
  class_names: Sequence[str] | None = None,
  *,
  layout: str = 'official',
  prefix: str | None = None,
  scanned: bool = False,
) -> Exported:
  """Returns the arrays of an official .npz file; `files.write_npz` writes them.

  Args:
    params: the parameters, blocks in either form, numpy or jax arrays.
    model: their model.
    num_classes: outputs of the head; 0: no head.
    image_size: (h, w) that the position table is for.
    preprocess: what the model was evaluated with; pixels must go to [-1, 1], as readers take for granted.
    class_names: not stored, and mentioned in `lost`.
    layout: 'official' (2020 and AugReg numbering, positions with a row for the class token), 'linen' (the
      same by Linen's numbers), or 'big_vision' (Linen's numbers, positions at the top level, the class
      token's row added to `cls`).
    prefix: put before each name; None: 'params/' for big_vision, else ''.
    scanned: stack the blocks on axis 0; only big_vision reads that.

  Raises:
    CheckpointError: parameters that are not the model's, or a knob that the layout cannot express. Lists all.
  """
  flat = trees.flatten(unstack_blocks(params))
  expected = expected_shapes(model, num_classes=num_classes, image_size=image_size)
  problems = fit_problems({path: tuple(np.shape(leaf)) for path, leaf in flat.items()}, expected)
  problems += _unspeakable(model, layout, scanned, image_size, preprocess)
  raise_problems(f'the model cannot be written as {layout} .npz', problems)
  arrays = {path: np.asarray(leaf) for path, leaf in flat.items()}
  if layout == 'big_vision':
    arrays = _fold(arrays, model)
    if scanned:
      arrays = trees.flatten(stack_blocks(trees.unflatten(arrays)))
  elif layout == 'official':
    arrays = {_old_number(path): _old_group_norm(path, array) for path, array in arrays.items()}
  if prefix is None:
    prefix = 'params/' if layout == 'big_vision' else ''
  named = {prefix + path: array for path, array in arrays.items()}
  return Exported(named, lost=(*lost_by_npz(preprocess, class_names), *_lost_grid(image_size)))


def _unspeakable(
  model: ModelConfig, layout: str, scanned: bool, image_size: Size, preprocess: Preprocess
) -> list[Problem]:
  """Returns a problem for each setting that a reader of the layout would not see."""
  if layout not in LAYOUTS:
    return [Problem('layout', repr(layout), f'one of {", ".join(LAYOUTS)}')]
  variant = resolve_variant(model)
  if not isinstance(variant, ViTVariant):
    return [Problem('model.variant', repr(model.variant), 'a transformer', 'weights/bit.py writes ResNets')]
  new, none = layout == 'big_vision', 'Files of this layout have no place for it'
  tables = ('learned_1d', 'sincos_2d', 'none') if new else ('learned_1d',)
  pools = ('token', 'gap', 'map') if new else ('token', 'gap')
  size = variant.size
  form = ViTSize(size.width, size.depth, size.mlp_dim, size.num_heads, qk_norm=size.qk_norm)
  hint = "layout='big_vision' has it"
  checks = [
    (model.position in tables, 'model.position', model.position, f'one of {", ".join(tables)}', none),
    (model.pool in pools, 'model.pool', model.pool, f'one of {", ".join(pools)}', hint),
    (size == form, 'model.parallel_blocks', model.variant, 'sequential blocks with all biases', none),
    (layout != 'official' or not size.qk_norm, 'model.qk_norm', True, 'False', "layout='linen' has it"),
    (new or not scanned, 'scanned', scanned, 'False', hint),
    *preprocess_checks(image_size, preprocess),
  ]
  for field in dataclasses.fields(ModelConfig):
    if field.name not in _EXPRESSED:
      value = getattr(model, field.name)
      wanted = f'{field.default!r}, which readers take for granted'
      checks.append((value == field.default, f'model.{field.name}', value, wanted, none))
  return [
    Problem(where, repr(found), wanted, hint) for good, where, found, wanted, hint in checks if not good
  ]


def _fold(arrays: Mapping[str, np.ndarray], model: ModelConfig) -> dict[str, np.ndarray]:
  """Returns the tree with positions at the top level and the class token's row added to `cls`.

  The network adds the two anyway, so it stays the same function; a row of zeros leaves `cls` bit-equal.
  """
  folded = {path: array for path, array in arrays.items() if path != POSITIONS}
  if model.position == 'learned_1d':
    table = arrays[POSITIONS]
    if model.pool == 'token':
      row, table = table[:, :1], table[:, 1:]
      if row.any():
        folded['cls'] = folded['cls'].astype(np.float32) + row.astype(np.float32)
    folded['pos_embedding'] = table
  return folded


def _old_number(path: str) -> str:
  """Returns a path by the 2020 numbering of submodules."""
  for pattern, name in _OLD_NUMBERS:
    path = re.sub(pattern, name, path)
  return path


def _old_group_norm(path: str, array: np.ndarray) -> np.ndarray:
  """Returns group norm vectors as (1, 1, 1, c), the way the original hybrids hold them."""
  return array.reshape(1, 1, 1, -1) if re.fullmatch(_GROUP_NORM, path) else array


def _lost_grid(size: Size) -> tuple[str, ...]:
  """Returns that readers must be told the grid, where they would take it for a square."""
  return () if size[0] == size[1] else (f'the grid of the positions, for images of {size[0]}x{size[1]}',)
