"""timm's VisionTransformer checkpoints (.safetensors, with or without config.json), in and out. Host-side.

What timm and vitjax say differently:

  class token   timm keeps one with global_pool='avg' too; here it is then one more register
  positions     timm may have no row for the class token (no_embed_class: DeiT-III, big_vision) or rows for the
                registers as well; here there is a row for the class token alone, zero where the file has none, and
                a register's row is added to the register
  hybrids       timm standardises kernels by sqrt(var + 1e-8), the released hybrids by std + 1e-5: logits differ by
                5e-6 of the largest for kernels of std 1/sqrt(fan-in), by 2e-3 for a hundredth of that
  GELU          exact erf, except for some SigLIP towers
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from vitjax.config.schema import ModelConfig
from vitjax.errors import Problem
from vitjax.weights import timm_config, timm_names
from vitjax.weights.entries import Entry
from vitjax.weights.imported import (
  Imported,
  ImportReport,
  KeyRow,
  Shape,
  Size,
  expected_shapes,
  grid_of,
  nearest_variant,
  raise_problems,
  square_grid,
)
from vitjax.weights.links import load_links
from vitjax.weights.pytorch import (
  joined_tokens,
  size_pair,
  without_rows,
)
from vitjax.weights.timm_export import export

__all__ = ['export', 'load', 'recognises']

_BLOCK = re.compile(r'blocks\.(\d+)\..*')
_UNIT = re.compile(r'patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\..*')
_STEM = 'patch_embed.backbone.stem.conv.weight'
_MARKS = ('patch_embed.proj.weight', 'blocks.0.norm1.weight')
_MAX_DEPTH = 512


def recognises(keys: Mapping[str, Shape], config: Mapping[str, Any] | None = None) -> bool:
  """Returns whether these are the arrays of a timm VisionTransformer, or config.json names a timm architecture."""
  if config is not None and 'architecture' in config and 'model_type' not in config:
    return True
  return any(key.startswith('patch_embed.') for key in keys) and any(_BLOCK.fullmatch(key) for key in keys)


@dataclasses.dataclass(frozen=True)
class _Facts:
  """What arrays and config.json say of the network, before positions and tokens are looked at."""

  architecture: str | None
  args: Mapping[str, Any]
  cfg: Mapping[str, Any] | None
  sizes: dict[str, Any]
  patch_size: int
  downsample: int
  num_prefix: int
  pool: str
  final_norm: str
  layer_scale: float | None
  gelu: str
  num_classes: int
  assumed: tuple[str, ...]


def load(
  path: str,
  entries: Mapping[str, Entry],
  config: Mapping[str, Any] | None = None,
  *,
  grid: Size | None = None,
) -> Imported:
  """Returns the model of a timm checkpoint: ViT, DeiT, DeiT-III, DINOv2, SigLIP, ResNet v2 hybrids.

  Args:
    path: the file's name, for errors.
    entries: its arrays, from `files.read_safetensors`.
    config: content of the config.json beside it, None when there is none: heads, GELU and preprocessing are
      then assumed.
    grid: (rows, columns) of the patches; needed when the positions do not make a square and config.json does
      not say.

  Raises:
    CheckpointError: arrays that are missing, left over or of a wrong shape; features of timm that vitjax does
      not have (qk_norm, SwiGLU, rotary positions, distillation, norm before the blocks ...). Lists all.

  Source: the models of timm 1.0; DeiT-III (arXiv 2204.07118), DINOv2 (2304.07193), SigLIP (2303.15343).
  """
  facts = _read_facts(path, {key: entry.shape for key, entry in entries.items()}, config)
  model = ModelConfig(
    pool=facts.pool,
    num_registers=facts.num_prefix - (facts.pool == 'token'),
    layer_scale_init=facts.layer_scale,
    final_norm=facts.final_norm,
    gelu=facts.gelu,
    **facts.sizes,
  )
  table = entries['pos_embed'].shape
  rows, cells = _grid(path, table[1], facts, grid)
  size = (cells[0] * facts.downsample, cells[1] * facts.downsample)
  preprocess, assumed, problems = timm_config.read_preprocess(
    facts.cfg, size, imagenet=facts.layer_scale is not None
  )
  raise_problems(f'{path}: config.json cannot be used', problems)
  names, more = timm_config.read_labels(config, facts.num_classes) if config is not None else (None, [])
  entries, folded = _one_row(entries, rows, facts)
  expected = expected_shapes(model, num_classes=facts.num_classes, image_size=size)
  has_class_row = rows > 0 and facts.pool == 'token'
  units = _stem_units({key: entry.shape for key, entry in entries.items()})
  links = timm_names.links_of(expected, has_class_row=has_class_row, stem_units=units)
  params, dtype, loaded = load_links(path, entries, links, expected)
  if (named := _named_size(facts)) not in (None, size):
    text = f'config.json speaks of {named} pixels, the positions are for {size}'
    assumed.append(f'image_size: {text}')
  return Imported(
    format='timm',
    model=dataclasses.replace(model, param_dtype=dtype),
    num_classes=facts.num_classes,
    image_size=size,
    params=params,
    preprocess=preprocess,
    class_names=names,
    assumed=(*facts.assumed, *assumed, *more),
    report=ImportReport((*loaded, *folded)),
  )


def _read_facts(path: str, shapes: Mapping[str, Shape], config: Mapping[str, Any] | None) -> _Facts:
  """Returns what keys, shapes and config.json say; raises CheckpointError with all that vitjax does not have."""
  args, cfg, problems = _sections(config)
  name = config['architecture'] if config is not None and 'architecture' in config else None
  problems += timm_config.argument_problems(args) + timm_names.exotic_keys(shapes)
  # The name matters where the arrays give nothing away; shapes, where they are those of a plain transformer.
  if not problems and config is not None and (problem := timm_names.architecture_problem(name)):
    problems.append(problem)
  problems = problems or _shape_problems(shapes)
  raise_problems(f'{path} is no timm checkpoint that vitjax can hold', problems)
  width, _, patch_size, _ = shapes['patch_embed.proj.weight']
  depth = 1 + max(int(match[1]) for key in shapes if (match := _BLOCK.fullmatch(key)))
  mlp_dim = shapes['blocks.0.mlp.fc1.weight'][0]
  assumed = []
  if isinstance(args.get('num_heads'), int):
    num_heads, remark = args['num_heads'], ''
  else:
    num_heads, remark = timm_names.default_heads(name, width, depth, mlp_dim)
  assumed += [remark] if remark else []
  has_pooling = 'attn_pool.latent' in shapes
  if isinstance(args.get('act_layer'), str):
    gelu = timm_config.GELU[args['act_layer']]
  else:
    gelu, remark = timm_names.default_gelu(name, has_attention_pooling=has_pooling)
    assumed += [remark] if remark else []
  pool, problems = _pool(shapes, args, config)
  problems += _conflicts(shapes, args, depth)
  units = _stem_units(shapes)
  raise_problems(f'{path}: config.json and arrays disagree', problems)
  variant, sizes = nearest_variant(
    width=width,
    depth=depth,
    mlp_dim=mlp_dim,
    num_heads=num_heads,
    patch_size=patch_size,
    stem_units=units,
  )
  return _Facts(
    architecture=name,
    args=args,
    cfg=cfg,
    sizes={'variant': variant, **sizes},
    patch_size=patch_size,
    downsample=patch_size * (2 ** (len(units) + 1) if units else 1),
    num_prefix=('cls_token' in shapes) + (shapes['reg_token'][1] if 'reg_token' in shapes else 0),
    pool=pool,
    final_norm='tokens' if 'norm.weight' in shapes else 'pooled',
    layer_scale=_layer_scale(args) if 'blocks.0.ls1.gamma' in shapes else None,
    gelu=gelu,
    num_classes=shapes['head.weight'][0] if 'head.weight' in shapes else 0,
    assumed=tuple(assumed),
  )


def _layer_scale(args: Mapping[str, Any]) -> float:
  """Returns what a new model's LayerScale would start with; the file's own values are loaded in any case."""
  value = args.get('init_values')
  return float(value) if isinstance(value, int | float) and 0 < value < 1e6 else 1e-5


def _sections(
  config: Mapping[str, Any] | None,
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None, list[Problem]]:
  """Returns (model_args, pretrained_cfg, problems) of config.json; in its oldest form it is all pretrained_cfg."""
  if config is None:
    return {}, None, []
  sections, problems = [], []
  for name, absent in (('model_args', {}), ('pretrained_cfg', config)):
    section = config[name] if name in config else absent
    if not isinstance(section, Mapping):
      problems.append(Problem(name, str(section)[:80], 'a JSON object'))
      section = {}
    sections.append(section)
  return sections[0], sections[1], problems


def _shape_problems(shapes: Mapping[str, Shape]) -> list[Problem]:
  """Returns what keeps the sizes from being read."""
  ranks = {
    'patch_embed.proj.weight': 4,
    'pos_embed': 3,
    'blocks.0.mlp.fc1.weight': 2,
    'reg_token': 3,
    'head.weight': 2,
    _STEM: 4,
  }
  optional = ('reg_token', 'head.weight', _STEM)
  problems = []
  for key, rank in ranks.items():
    if key not in shapes and key not in optional:
      problems.append(Problem(key, 'missing in the file', f'an array with {rank} axes'))
    elif key in shapes and (len(shapes[key]) != rank or 0 in shapes[key]):
      problems.append(Problem(key, f'shape {list(shapes[key])}', f'{rank} axes, none empty'))
  if not problems:
    problems += _token_problems(shapes)
    first = _STEM if _STEM in shapes else 'patch_embed.proj.weight'
    patch = shapes['patch_embed.proj.weight'][2:]
    if shapes[first][1] != 3:
      problems.append(Problem(first, f'{shapes[first][1]} input channels', '3'))
    if patch[0] != patch[1]:
      problems.append(Problem('patch_embed.proj.weight', f'patches of {patch[0]}x{patch[1]}', 'square ones'))
  deepest = max((int(match[1]) for key in shapes if (match := _BLOCK.fullmatch(key))), default=0)
  if deepest >= _MAX_DEPTH:
    problems.append(Problem(f'blocks.{deepest}', 'a block', f'at most {_MAX_DEPTH}'))
  return problems


def _token_problems(shapes: Mapping[str, Shape]) -> list[Problem]:
  """Returns a problem for each token or position table that is not as wide as the patches are embedded."""
  width = shapes['patch_embed.proj.weight'][0]
  problems = []
  for key in ('cls_token', 'reg_token', 'pos_embed'):
    rows = 1 if key == 'cls_token' else 'any number'
    if key in shapes and (len(shapes[key]) != 3 or shapes[key] != (1, shapes[key][1], width)):
      problems.append(Problem(key, f'shape {list(shapes[key])}', f'[1, {rows}, {width}]'))
  if 'cls_token' in shapes and not problems and shapes['cls_token'][1] != 1:
    problems.append(Problem('cls_token', f'shape {list(shapes["cls_token"])}', f'[1, 1, {width}]'))
  return problems


def _pool(
  shapes: Mapping[str, Shape], args: Mapping[str, Any], config: Mapping[str, Any] | None
) -> tuple[str, list[Problem]]:
  """Returns (ModelConfig.pool, problems)."""
  named = args.get('global_pool') or (config.get('global_pool') if config is not None else None)
  if 'attn_pool.latent' in shapes:
    seen = 'map'
  elif named == 'avg' or 'fc_norm.weight' in shapes or 'cls_token' not in shapes:
    seen = 'gap'
  else:
    seen = 'token'
  theirs = {ours: name for name, ours in timm_config.POOL.items()}[seen]
  if named not in (None, theirs):
    return seen, [Problem('global_pool', repr(named)[:80], f'{theirs!r}, going by the arrays')]
  return seen, []


def _conflicts(shapes: Mapping[str, Shape], args: Mapping[str, Any], depth: int) -> list[Problem]:
  """Returns where model_args name other sizes than the arrays have."""
  width, _, patch_size, _ = shapes['patch_embed.proj.weight']
  found: dict[str, Any] = {
    'embed_dim': width,
    'depth': depth,
    'patch_size': patch_size,
    'class_token': 'cls_token' in shapes,
    'reg_tokens': shapes['reg_token'][1] if 'reg_token' in shapes else 0,
  }
  problems = []
  for name, value in found.items():
    said = args.get(name)
    if said is not None and said not in (value, [value, value]):
      problems.append(Problem(f'model_args.{name}', repr(said)[:80], f'{value!r}, as in the arrays'))
  heads = args.get('num_heads')
  if heads is not None and (type(heads) is not int or heads < 1 or width % heads):
    problems.append(Problem('model_args.num_heads', repr(heads)[:80], f'a divisor of the width, {width}'))
  return problems


def _stem_units(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
  """Returns the residual units per stage of a hybrid, () for a plain ViT."""
  units: dict[int, int] = {}
  for key in shapes:
    if match := _UNIT.fullmatch(key):
      stage, unit = int(match[1]), int(match[2])
      units[stage] = max(unit + 1, units[stage]) if stage in units else unit + 1
  return tuple(units[stage] for stage in sorted(units))


def _named_size(facts: _Facts) -> Size | None:
  """Returns the (h, w) in pixels that config.json names, None when it names none."""
  if (size := size_pair(facts.args.get('img_size'))) is not None:
    return size
  value = facts.cfg.get('input_size') if facts.cfg is not None else None
  return size_pair(value[1:]) if isinstance(value, list) and len(value) == 3 else None


def _grid(path: str, num_rows: int, facts: _Facts, grid: Size | None) -> tuple[int, Size]:
  """Returns (rows of `pos_embed` for class token and registers, (h, w) patches).

  timm's table has a row for each of them, or for none (no_embed_class).
  """
  choices = dict.fromkeys((facts.num_prefix, 0))
  said = facts.args.get('no_embed_class')
  if isinstance(said, bool):
    choices = {0 if said else facts.num_prefix: None}
  if grid is None and (size := _named_size(facts)) is not None:
    cells = (size[0] // facts.downsample, size[1] // facts.downsample)
    if any(num_rows - rows == cells[0] * cells[1] for rows in choices):
      grid = cells
  for rows in choices:
    if grid is not None and grid[0] * grid[1] == num_rows - rows:
      return rows, (grid[0], grid[1])
    if grid is None and (square := square_grid(num_rows - rows)) is not None:
      return rows, square
  rows = min(choices)
  found = grid_of(num_rows - rows, grid, where='pos_embed')
  raise_problems(f'{path}: the grid of patches is not known', [found] if isinstance(found, Problem) else [])
  assert not isinstance(found, Problem)
  return rows, found


def _one_row(
  entries: Mapping[str, Entry], rows: int, facts: _Facts
) -> tuple[dict[str, Entry], tuple[KeyRow, ...]]:
  """Returns (arrays with a position for the class token at most, rows of the report for what was joined)."""
  result = dict(entries)
  kept = int(facts.pool == 'token')
  names = [name for name in ('cls_token', 'reg_token') if name in entries]
  joined = names[kept:]
  if not joined or (joined == ['reg_token'] and rows <= kept):
    return result, ()
  table = entries['pos_embed'] if rows else None
  result['reg_token'] = joined_tokens([entries[name] for name in joined], table, kept)
  if rows:
    result['pos_embed'] = without_rows(entries['pos_embed'], kept, rows)
  if 'cls_token' not in joined:
    return result, ()
  del result['cls_token']
  note = "not pooled, hence a register with its position, for pool='gap'"
  return result, (KeyRow('cls_token', 'registers', 'loaded', note),)
