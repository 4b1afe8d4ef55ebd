"""Checkpoints of Hugging Face transformers, in and out: ViT, DeiT, DINOv2 with and without registers, SigLIP.

What transformers and vitjax say differently:

  DeiT            its distillation token is one register here, with the token's position added to it
  DINOv2          a head on the class token beside the mean of the patches cannot be expressed here, unless its half
                  for the mean is zero; otherwise the backbone is loaded alone
  SigLIP          the vision tower alone is read; a classifier on it stands on the mean of the tokens
  pooler          is `pre_logits` in a model without head
  image size      transformers resizes DINOv2's positions on the fly; here positions and images agree

Host-side.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.data.preprocess import Preprocess
from vitjax.errors import Problem
from vitjax.weights import hf_config, hf_names
from vitjax.weights.entries import Entry
from vitjax.weights.files import read_json
from vitjax.weights.hf_names import DINOV2, MODEL_TYPES, SIGLIP, VIT, Family
from vitjax.weights.imported import (
  Exported,
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
from vitjax.weights.links import load_links, save_links
from vitjax.weights.pytorch import (
  checked_params,
  joined_tokens,
  size_pair,
  with_learned_positions,
  without_rows,
)

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
  beside = pathlib.Path(path).parent / PREPROCESSOR
  if preprocessor is None and beside.is_file():
    preprocessor = read_json(beside)
  preprocess, remarks, problems = hf_config.read_preprocess(preprocessor, size, model_type)
  raise_problems(f'{PREPROCESSOR} beside {path} cannot be used', problems)
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


def _family(
  path: str, shapes: Mapping[str, Shape], config: Mapping[str, Any] | None
) -> tuple[Family, str, str]:
  """Returns (family, prefix of the backbone, model_type), which keys and config.json must agree on."""
  found = hf_names.family_of(shapes)
  said = config.get('model_type') if config is not None else None
  known = ', '.join(MODEL_TYPES)
  headline = f'{path} is no checkpoint of transformers that vitjax can hold'
  if found is None or (said is not None and said not in MODEL_TYPES):
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
  depth = hf_names.depth_of(shapes, family, prefix)
  if depth > _MAX_DEPTH:
    problems.append(Problem(prefix + family.block.format(i=depth - 1), 'a block', f'at most {_MAX_DEPTH}'))
  return problems


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
  scale = section.get('layerscale_value') if section is not None else None
  pooler = f'{prefix}pooler.dense.weight'
  has_pooler = pooler in shapes and 'classifier.weight' not in shapes
  return ModelConfig(
    variant=variant,
    pool=pool,
    num_registers=registers,
    representation_size=shapes[pooler][0] if has_pooler else None,
    layer_scale_init=None
    if family is not DINOV2
    else float(scale)
    if type(scale) in (int, float) and scale >= 0
    else 1.0,
    norm_eps=eps,
    gelu=gelu,
    **sizes,
  ), assumed


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
  result, ignored, assumed = dict(entries), {}, []
  if family is DINOV2 and 'classifier.weight' in entries:
    width = entries['classifier.weight'].shape[1] // 2
    if entries['classifier.weight'].read()[:, width:].any():
      reason = 'a head on the class token beside the mean of the patches'
      ignored = dict.fromkeys(('classifier.weight', 'classifier.bias'), reason)
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


def export(
  params: Mapping[str, Any],
  model: ModelConfig,
  num_classes: int,
  image_size: Size,
  preprocess: Preprocess,
  class_names: Sequence[str] | None = None,
) -> Exported:
  """Returns arrays, config.json and preprocessor_config.json that `AutoModel...from_pretrained(FOLDER)` loads.

  The class of transformers follows from the model:

    class token                                    ViTForImageClassification, or ViTModel without head
    class token, one register                      DeiTForImageClassification, DeiTModel
    class token, LayerScale                        Dinov2ForImageClassification, Dinov2Model
    class token, LayerScale, registers             Dinov2WithRegisters...
    attention pooling, no head                     SiglipVisionModel
    mean of the tokens                             SiglipForImageClassification, SiglipVisionModel

  Args:
    params: the parameters, blocks in either form, numpy or jax arrays.
    model: their model.
    num_classes: outputs of the head; 0: no head.
    image_size: (h, w) that the position table is for.
    preprocess: what the model was evaluated with.
    class_names: name of each output, or None.

  Raises:
    CheckpointError: parameters that are not the model's, or a knob that transformers cannot express. Lists
      all.
  """
  flat, variant = checked_params(params, model, num_classes, image_size, library='transformers')
  family, model_type = _target(model, num_classes)
  raise_problems(
    'the model cannot be written for transformers',
    _unspeakable(model, variant, family, num_classes, image_size),
  )
  grid = (image_size[0] // variant.downsample, image_size[1] // variant.downsample)
  flat, baked = with_learned_positions(flat, model, grid)
  prefix = family.models[model_type] if num_classes else ''
  shapes = {path: leaf.shape for path, leaf in flat.items()}
  arrays = save_links(hf_names.links_of(shapes, family, prefix), flat)
  table, token = f'{prefix}{family.positions}', f'{prefix}embeddings.distillation_token'
  if token in arrays:
    arrays[table] = np.insert(arrays[table], 1, 0, axis=1)
  if family is DINOV2:
    arrays[f'{prefix}embeddings.mask_token'] = np.zeros((1, variant.size.width), flat['cls'].dtype)
  processor, lost = hf_config.write_preprocessor(preprocess, model_type)
  return Exported(
    arrays,
    hf_config.write_config(model, variant, model_type, num_classes, image_size, class_names),
    (*baked, *lost),
    {'format': 'pt'},
    processor,
  )


def _target(model: ModelConfig, num_classes: int) -> tuple[Family, str]:
  """Returns the family and model_type that come nearest to the model."""
  if model.pool != 'token':
    return SIGLIP, 'siglip' if num_classes else 'siglip_vision_model'
  if model.layer_scale_init is not None:
    return DINOV2, 'dinov2_with_registers' if model.num_registers else 'dinov2'
  return VIT, 'deit' if model.num_registers else 'vit'


def _unspeakable(
  model: ModelConfig, variant: ViTVariant, family: Family, num_classes: int, image_size: Size
) -> list[Problem]:
  """Returns a problem for each knob that the family cannot express."""
  name = {id(VIT): 'ViT', id(DINOV2): 'DINOv2', id(SIGLIP): 'SigLIP'}[id(family)]
  size = variant.size
  most = {'ViT': 1, 'DINOv2': model.num_registers, 'SigLIP': 0}[name]
  problems = []
  if variant.stem_units:
    problems.append(
      Problem('model.variant', repr(model.variant), 'a plain ViT: transformers has no ResNet v2 stem')
    )
  if model.num_registers > most:
    hint = 'With LayerScale it would be a DINOv2' if name == 'ViT' else ''
    problems.append(
      Problem('model.num_registers', str(model.num_registers), f'at most {most} in a {name}', hint)
    )
  if model.final_norm != 'tokens':
    problems.append(Problem('model.final_norm', repr(model.final_norm), "'tokens'"))
  if model.representation_size is not None and (num_classes or name != 'ViT'):
    expected = 'None: only a ViTModel without head has such a layer, its pooler'
    problems.append(Problem('model.representation_size', str(model.representation_size), expected))
  if model.pool == 'map' and num_classes:
    expected = "'token' or 'gap': transformers classifies the mean of SigLIP's tokens"
    problems.append(Problem('model.pool', "'map'", expected, 'Export with num_classes=0'))
  if name == 'SigLIP' and model.layer_scale_init is not None:
    expected = "None, or pool='token' as in DINOv2"
    problems.append(Problem('model.layer_scale_init', str(model.layer_scale_init), expected))
  if name == 'SigLIP' and image_size[0] != image_size[1]:
    problems.append(Problem('image_size', str(image_size), 'a square one in a SigLIP'))
  if name == 'DINOv2' and size.mlp_dim % size.width:
    problems.append(
      Problem('model.mlp_dim', str(size.mlp_dim), f'a multiple of the width, {size.width}, in a DINOv2')
    )
  return problems
