"""Checkpoints of Hugging Face transformers, in and out: ViT, DeiT, DINOv2 with and without registers, SigLIP.

What transformers and vitjax say differently:

  DeiT            its distillation token is one register here, with the token's position added to it
  DINOv2          a head on the class token beside the mean of the patches cannot be expressed here, unless its half
                  for the mean is zero; otherwise the backbone is loaded alone
  SigLIP          the vision tower alone is read; a classifier on it stands on the mean of the tokens
  pooler          is `pre_logits` in a model without head
  centre crop     transformers rounds half a pixel down, here as in torchvision it goes to the even side
  image size      transformers resizes DINOv2's positions on the fly; here positions and images agree

Host-side.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.errors import Problem
from vitjax.weights import hf_config, hf_names
from vitjax.weights.entries import Entry
from vitjax.weights.files import read_json
from vitjax.weights.hf_export import export
from vitjax.weights.hf_names import DINOV2, MODEL_TYPES, SIGLIP, VIT, Family
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

__all__ = ['PREPROCESSOR', 'export', 'load', 'recognises']

PREPROCESSOR = 'preprocessor_config.json'
_MAX_DEPTH = 512


def recognises(keys: Mapping[str, Shape], config: Mapping[str, Any] | None = None) -> bool:
  """Returns whether these are the arrays of a vision transformer of transformers, or config.json says so."""
  return hf_names.family_of(keys) is not None or (config is not None and 'model_type' in config)


def load(
  path: str,
  entries: Mapping[str, Entry],
  config: Mapping[str, Any] | None = None,
  *,
  grid: Size | None = None,
  preprocessor: Mapping[str, Any] | None = None,
) -> Imported:
  """Returns the model of a checkpoint of transformers.

  Args:
    path: the file's name, for errors; preprocessor_config.json is looked for beside it.
    entries: its arrays, from `files.read_safetensors`.
    config: content of the config.json beside it, None when there is none: heads, GELU, epsilon and
      preprocessing are then assumed.
    grid: (rows, columns) of the patches; needed when the positions do not make a square and config.json does
      not say.
    preprocessor: content of preprocessor_config.json, None to look for the file.

  Raises:
    CheckpointError: arrays that are missing, left over or of a wrong shape; settings that vitjax does not
      have (SwiGLU, no biases, distillation heads, another family ...). Lists all.

  Source: the models of transformers 4 and 5; the names are those that `save_pretrained` writes in both.
  """
  shapes = {key: entry.shape for key, entry in entries.items()}
  family, prefix, model_type = _family(path, shapes, config)
  section = None if config is None else hf_config.vision_section(config)
  problems = hf_names.exotic_keys(shapes) + _shape_problems(shapes, family, prefix)
  problems += hf_config.config_problems(section) if section is not None else []
  raise_problems(f'{path} is no checkpoint of transformers that vitjax can hold', problems)
  model, assumed = _model(path, shapes, section, family, prefix, model_type)
  cells = _grid(path, shapes, section, family, prefix, grid)
  patch_size = shapes[f'{prefix}{family.patches}.weight'][2]
  size = (cells[0] * patch_size, cells[1] * patch_size)
  num_classes = shapes['classifier.weight'][0] if 'classifier.weight' in shapes else 0
  entries, ignored, more = _head(entries, family, prefix, model)
  num_classes = num_classes if 'classifier.weight' in entries else 0
  entries = _deit_tokens(entries, prefix)
  expected = expected_shapes(model, num_classes=num_classes, image_size=size)
  links = hf_names.links_of(expected, family, prefix)

  def unused(key: str) -> str:
    return ignored[key] if key in ignored else hf_names.unused_reason(key)

  params, dtype, rows = load_links(path, entries, links, expected, unused)
  preprocess, remarks = _preprocess(path, preprocessor, size, model_type)
  names, labels = hf_config.read_labels(config, num_classes) if config is not None else (None, [])
  dropped = tuple(KeyRow(key, '', 'unused', reason) for key, reason in ignored.items() if key not in entries)
  return Imported(
    format='huggingface',
    model=dataclasses.replace(model, param_dtype=dtype),
    num_classes=num_classes,
    image_size=size,
    params=params,
    preprocess=preprocess,
    class_names=names,
    assumed=(*assumed, *more, *remarks, *labels),
    report=ImportReport((*rows, *dropped)),
  )


def _preprocess(
  path: str, preprocessor: Mapping[str, Any] | None, size: Size, model_type: str
) -> tuple[Preprocess, list[str]]:
  """Returns (the preparation by preprocessor_config.json, given or beside the file, what was assumed)."""
  beside = pathlib.Path(path).parent / PREPROCESSOR
  if preprocessor is None and beside.is_file():
    preprocessor = read_json(beside)
  preprocess, assumed, problems = hf_config.read_preprocess(preprocessor, size, model_type)
  raise_problems(f'{PREPROCESSOR} beside {path} cannot be used', problems)
  return preprocess, assumed


def _family(
  path: str, shapes: Mapping[str, Shape], config: Mapping[str, Any] | None
) -> tuple[Family, str, str]:
  """Returns (family, prefix of the backbone, model_type), which keys and config.json must agree on."""
  found = hf_names.family_of(shapes)
  said = config.get('model_type') if config is not None else None
  known = ', '.join(MODEL_TYPES)
  headline = f'{path} is no checkpoint of transformers that vitjax can hold'
  if found is None or (said is not None and said not in tuple(MODEL_TYPES)):
    where = 'model_type' if said is not None else path
    problems = [Problem(where, repr(said)[:80] if said is not None else 'other arrays', f'one of {known}')]
    raise_problems(headline, [*problems, *hf_names.exotic_keys(shapes)])
  assert found is not None
  family, prefix = found
  if said is not None and MODEL_TYPES[said] is not family:
    seen = ' or '.join(family.models)
    raise_problems(headline, [Problem('model_type', repr(said), f'{seen}, going by the arrays')])
  return family, prefix, said or _guessed_type(shapes, family, prefix)


def _guessed_type(shapes: Mapping[str, Shape], family: Family, prefix: str) -> str:
  """Returns the model_type that the arrays of a file without config.json stand for."""
  if family is DINOV2:
    return 'dinov2_with_registers' if f'{prefix}embeddings.register_tokens' in shapes else 'dinov2'
  if family is VIT:
    return 'deit' if f'{prefix}embeddings.distillation_token' in shapes else 'vit'
  return 'siglip' if prefix else 'siglip_vision_model'


def _shape_problems(shapes: Mapping[str, Shape], family: Family, prefix: str) -> list[Problem]:
  """Returns what keeps the sizes from being read."""
  first = prefix + family.block.format(i=0)
  ranks = {
    f'{prefix}{family.patches}.weight': 4,
    f'{prefix}{family.positions}': 2 if family is SIGLIP else 3,
    f'{first}{family.mlp[0]}.weight': 2,
  }
  if f'{prefix}embeddings.register_tokens' in shapes:
    ranks[f'{prefix}embeddings.register_tokens'] = 3
  if 'classifier.weight' in shapes:
    ranks['classifier.weight'] = 2
  problems = []
  for key, rank in ranks.items():
    if key not in shapes:
      problems.append(Problem(key, 'missing in the file', f'an array with {rank} axes'))
    elif len(shapes[key]) != rank or 0 in shapes[key]:
      problems.append(Problem(key, f'shape {list(shapes[key])}', f'{rank} axes, none empty'))
  patches = f'{prefix}{family.patches}.weight'
  if not problems and (shapes[patches][1] != 3 or shapes[patches][2] != shapes[patches][3]):
    problems.append(Problem(patches, f'shape {list(shapes[patches])}', '3 channels, square patches'))
  if f'{first}{family.query}.bias' not in shapes and not problems:
    problems.append(Problem(f'{first}{family.query}.bias', 'missing: qkv_bias=False', 'biases'))
  if not problems:
    problems += _width_problems(shapes, family, prefix)
  depth = hf_names.depth_of(shapes, family, prefix)
  if depth > _MAX_DEPTH:
    problems.append(Problem(prefix + family.block.format(i=depth - 1), 'a block', f'at most {_MAX_DEPTH}'))
  return problems


def _width_problems(shapes: Mapping[str, Shape], family: Family, prefix: str) -> list[Problem]:
  """Returns a problem for each token, table or head that does not go with the width of the patches."""
  width = shapes[f'{prefix}{family.patches}.weight'][0]
  table = f'{prefix}{family.positions}'
  token = f'{prefix}embeddings.distillation_token'
  wanted = {table: (*(() if family is SIGLIP else (1,)), shapes[table][-2], width), token: (1, 1, width)}
  if 'classifier.weight' in shapes:
    seen = 2 * width if family is DINOV2 else width
    wanted['classifier.weight'] = (shapes['classifier.weight'][0], seen)
  return [
    Problem(key, f'shape {list(shapes[key])}', f'{list(shape)}')
    for key, shape in wanted.items()
    if key in shapes and shapes[key] != shape
  ]


def _model(
  path: str,
  shapes: Mapping[str, Shape],
  section: Mapping[str, Any] | None,
  family: Family,
  prefix: str,
  model_type: str,
) -> tuple[ModelConfig, list[str]]:
  """Returns (the network, what was assumed)."""
  width, _, patch_size, _ = shapes[f'{prefix}{family.patches}.weight']
  gelu, eps, assumed = hf_config.read_numbers(section, model_type)
  raise_problems(
    f'{path}: config.json and arrays disagree', _conflicts(shapes, section, family, prefix, model_type)
  )
  heads = section.get('num_attention_heads') if section is not None else None
  if heads is None:
    heads = max(width // 64, 1)
    assumed.append(f'num_attention_heads: {heads}, 64 features each; the file does not say')
  elif type(heads) is not int or heads < 1 or width % heads:
    problem = Problem('num_attention_heads', repr(heads)[:80], f'a divisor of the width, {width}')
    raise_problems(f'{path}: config.json and arrays disagree', [problem])
  first = prefix + family.block.format(i=0)
  variant, sizes = nearest_variant(
    width=width,
    depth=hf_names.depth_of(shapes, family, prefix),
    mlp_dim=shapes[f'{first}{family.mlp[0]}.weight'][0],
    num_heads=heads,
    patch_size=patch_size,
  )
  pool, registers = 'token', 0
  if family is SIGLIP:
    has_head = f'{prefix}head.probe' in shapes and 'classifier.weight' not in shapes
    pool = 'map' if has_head else 'gap'
    if pool == 'gap' and 'classifier.weight' not in shapes:
      assumed.append('pool: the mean of the tokens, since there is no pooling head')
  elif f'{prefix}embeddings.register_tokens' in shapes:
    registers = shapes[f'{prefix}embeddings.register_tokens'][1]
  elif f'{prefix}embeddings.distillation_token' in shapes:
    registers = 1
  pooler = f'{prefix}pooler.dense.weight'
  has_pooler = pooler in shapes and 'classifier.weight' not in shapes
  return ModelConfig(
    variant=variant,
    pool=pool,
    num_registers=registers,
    representation_size=shapes[pooler][0] if has_pooler else None,
    layer_scale_init=_layer_scale(section) if family is DINOV2 else None,
    norm_eps=eps,
    gelu=gelu,
    **sizes,
  ), assumed


def _conflicts(
  shapes: Mapping[str, Shape],
  section: Mapping[str, Any] | None,
  family: Family,
  prefix: str,
  model_type: str,
) -> list[Problem]:
  """Returns where config.json names other sizes or tokens than the arrays have."""
  width, _, patch_size, _ = shapes[f'{prefix}{family.patches}.weight']
  tokens = {'deit': 'embeddings.distillation_token', 'dinov2_with_registers': 'embeddings.register_tokens'}
  problems = []
  for name, key in tokens.items():
    if (model_type == name) != (f'{prefix}{key}' in shapes):
      there = 'missing in the file' if model_type == name else 'in the file'
      problems.append(Problem(f'{prefix}{key}', there, f'such an array with model_type {name!r} alone'))
  registers = f'{prefix}{tokens["dinov2_with_registers"]}'
  found = {
    'hidden_size': width,
    'num_hidden_layers': hf_names.depth_of(shapes, family, prefix),
    'patch_size': patch_size,
    'num_register_tokens': shapes[registers][1] if registers in shapes else 0,
  }
  for name, value in found.items():
    said = section.get(name) if section is not None else None
    if said is not None and said not in (value, [value, value]):
      problems.append(Problem(name, repr(said)[:80], f'{value}, as in the arrays'))
  return problems


def _layer_scale(section: Mapping[str, Any] | None) -> float:
  """Returns what a new model's LayerScale would start with; the file's own values are loaded in any case."""
  value = section.get('layerscale_value') if section is not None else None
  return float(value) if isinstance(value, int | float) and 0 <= value < 1e6 else 1.0


def _grid(
  path: str,
  shapes: Mapping[str, Shape],
  section: Mapping[str, Any] | None,
  family: Family,
  prefix: str,
  grid: Size | None,
) -> Size:
  """Returns the (h, w) patches of the position table."""
  key = f'{prefix}{family.positions}'
  num_prefix = 0 if family is SIGLIP else 1
  if f'{prefix}embeddings.distillation_token' in shapes:
    num_prefix = 2
  num_cells = shapes[key][-2] - num_prefix
  patch_size = shapes[f'{prefix}{family.patches}.weight'][2]
  size = size_pair(section.get('image_size')) if section is not None else None
  if grid is None and size is not None and square_grid(num_cells) is None:
    cells = (size[0] // patch_size, size[1] // patch_size)
    grid = cells if cells[0] * cells[1] == num_cells else None
  found = grid_of(num_cells, grid, where=key)
  raise_problems(f'{path}: the grid of patches is not known', [found] if isinstance(found, Problem) else [])
  assert not isinstance(found, Problem)
  return found


def _head(
  entries: Mapping[str, Entry], family: Family, prefix: str, model: ModelConfig
) -> tuple[dict[str, Entry], dict[str, str], list[str]]:
  """Returns (arrays without a head that cannot be expressed, unused keys with reasons, what was assumed)."""
  result, assumed = dict(entries), []
  ignored: dict[str, str] = {}
  if family is DINOV2 and 'classifier.weight' in entries:
    width = entries['classifier.weight'].shape[1] // 2
    if entries['classifier.weight'].read()[:, width:].any():
      reason = 'a head on the class token beside the mean of the patches'
      ignored |= {key: reason for key in ('classifier.weight', 'classifier.bias') if key in entries}
      result = {key: entry for key, entry in entries.items() if key not in ignored}
      assumed.append(f'head: left out, being {reason}, which vitjax cannot express; num_classes is 0')
  if 'classifier.weight' in entries:
    for key in entries:
      if key.startswith((f'{prefix}pooler.', f'{prefix}head.')):
        ignored[key] = 'the classifier does not stand on it'
  return result, ignored, assumed


def _deit_tokens(entries: Mapping[str, Entry], prefix: str) -> dict[str, Entry]:
  """Returns the arrays with the distillation token's position added to it, and its row taken out of the table."""
  token, table = f'{prefix}embeddings.distillation_token', f'{prefix}{VIT.positions}'
  if token not in entries:
    return dict(entries)
  joined = joined_tokens([entries[token]], entries[table], 1)
  return dict(entries) | {token: joined, table: without_rows(entries[table], 1, 2)}
