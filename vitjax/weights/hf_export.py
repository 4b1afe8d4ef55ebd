"""Models for Hugging Face transformers: which of its classes a model is, arrays and both JSON files. Host-side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.data.preprocess import Preprocess
from vitjax.errors import Problem
from vitjax.weights import hf_config, hf_names
from vitjax.weights.hf_names import DINOV2, SIGLIP, VIT, Family
from vitjax.weights.imported import Exported, Size, raise_problems
from vitjax.weights.links import save_links
from vitjax.weights.pytorch import checked_params, with_learned_positions


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
