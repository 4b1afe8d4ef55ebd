"""Hugging Face's config.json and preprocessor_config.json, read and written. Host-side, no jax."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.data.preprocess import Preprocess
from vitjax.errors import Problem
from vitjax.weights.imported import Size
from vitjax.weights.pytorch import (
  HALF,
  IMAGENET_MEAN,
  IMAGENET_STD,
  INTERPOLATIONS,
  filter_name,
  scaled_preprocess,
  size_pair,
  triple,
)

GELU = {
  'gelu': 'exact',
  'gelu_python': 'exact',
  'gelu_pytorch_tanh': 'tanh',
  'gelu_new': 'tanh',
  'gelu_fast': 'tanh',
  'gelu_accurate': 'tanh',
}
_EPS = {'vit': 1e-12, 'deit': 1e-12, 'dinov2': 1e-6, 'dinov2_with_registers': 1e-6}
_EPS |= {'siglip': 1e-6, 'siglip_vision_model': 1e-6}
_FIXED = {
  'qkv_bias': True,
  'use_swiglu_ffn': False,
  'num_channels': 3,
  'pooler_act': 'tanh',
  'apply_layernorm': True,
}
# Pillow's numbers of filters, which preprocessor_config.json holds.
_FILTERS = {0: 'nearest', 2: 'bilinear', 3: 'bicubic'}
_PROCESSORS = {
  'vit': 'ViTImageProcessor',
  'deit': 'DeiTImageProcessor',
  'dinov2': 'BitImageProcessor',
  'dinov2_with_registers': 'BitImageProcessor',
  'siglip': 'SiglipImageProcessor',
  'siglip_vision_model': 'SiglipImageProcessor',
}


def vision_section(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the part of config.json that describes the vision tower."""
  section = config.get('vision_config')
  return section if isinstance(section, Mapping) else config


def config_problems(section: Mapping[str, Any]) -> list[Problem]:
  """Returns a problem for each setting that vitjax does not have."""
  problems = []
  for name, value in _FIXED.items():
    if section.get(name) not in (None, value):
      problems.append(Problem(name, repr(section[name])[:80], f'{value!r}: vitjax has no other form'))
  act = section.get('hidden_act')
  if act is not None and act not in tuple(GELU):
    problems.append(Problem('hidden_act', repr(act)[:80], f'one of {", ".join(GELU)}'))
  eps = section.get('layer_norm_eps')
  if eps is not None and (type(eps) not in (int, float) or not 1e-12 <= eps <= 1):
    problems.append(Problem('layer_norm_eps', repr(eps)[:80], 'a number from 1e-12 to 1'))
  return problems


def read_numbers(section: Mapping[str, Any] | None, model_type: str) -> tuple[str, float, list[str]]:
  """Returns (GELU form, epsilon of the norms, what was assumed); transformers leaves out nothing, people do."""
  default = 'gelu_pytorch_tanh' if model_type.startswith('siglip') else 'gelu'
  values: dict[str, Any] = {'hidden_act': default, 'layer_norm_eps': _EPS[model_type]}
  assumed = []
  for name, value in values.items():
    if section is not None and section.get(name) is not None:
      values[name] = section[name]
    else:
      assumed.append(f'{name}: {value}, the default of model_type {model_type!r}')
  return GELU[values['hidden_act']], float(values['layer_norm_eps']), assumed


def read_labels(config: Mapping[str, Any], num_classes: int) -> tuple[tuple[str, ...] | None, list[str]]:
  """Returns (class names of id2label or None, what was assumed); LABEL_0, LABEL_1 ... are no names."""
  labels = config.get('id2label')
  if not isinstance(labels, Mapping) or not num_classes:
    return None, []
  if set(labels) != {str(i) for i in range(num_classes)}:
    return None, [f'class names: id2label of config.json does not name 0 ... {num_classes - 1}']
  names = [labels[str(i)] for i in range(num_classes)]
  if not all(isinstance(name, str) for name in names):
    return None, ['class names: id2label of config.json holds other things than text']
  return (None, []) if all(re.fullmatch(r'LABEL_\d+', name) for name in names) else (tuple(names), [])


def read_preprocess(
  processor: Mapping[str, Any] | None, size: Size, model_type: str
) -> tuple[Preprocess, list[str], list[Problem]]:
  """Returns (the preparation of preprocessor_config.json for images of `size`, what was assumed, problems)."""
  if processor is None:
    preprocess, text = _default_preprocess(size, model_type)
    return preprocess, [f'preprocess: {text}; there is no preprocessor_config.json'], []
  values, problems = {}, []
  for name, absent in (('image_mean', HALF), ('image_std', HALF)):
    value = triple(processor[name], name) if processor.get(name) is not None else absent
    problems += [value] if isinstance(value, Problem) else []
    values[name] = value
  if isinstance(values['image_std'], tuple) and min(values['image_std']) <= 0:
    problems.append(Problem('image_std', str(values['image_std']), 'positive numbers'))
  if problems:
    return Preprocess(size), [], problems
  assumed: list[str] = []
  if processor.get('do_normalize') is False:
    values = {'image_mean': (0.0, 0.0, 0.0), 'image_std': (1.0, 1.0, 1.0)}
  scale = processor.get('rescale_factor')
  if processor.get('do_rescale') is False or (type(scale) is float and abs(scale * 255 - 1) > 1e-6):
    assumed.append('preprocess: pixels are scaled to [0, 1] before normalisation, unlike do_rescale says')
  number = processor.get('resample')
  default = 2 if model_type == 'vit' else 3
  known = isinstance(number, int) and number in _FILTERS
  if number is not None and not known:
    assumed.append(f'preprocess: {_FILTERS[default]} instead of resample={number!r}')
  name = _FILTERS[number] if isinstance(number, int) and known else _FILTERS[default]
  crop, short = _read_crop(processor, size, assumed)
  if short is not None and short > 20 * max(crop):
    problem = Problem('size', f'a short side of {short}', f'at most 20 times the crop, {crop}')
    return Preprocess(size), [], [problem]
  preprocess = Preprocess(crop, values['image_mean'], values['image_std'], INTERPOLATIONS[name], short)
  if crop != size:
    text = f'{crop[0]}x{crop[1]} in preprocessor_config.json, where transformers resizes positions on the fly'
    assumed.append(f'preprocess: for {size[0]}x{size[1]} images, as the positions are; {text}')
    preprocess = scaled_preprocess(preprocess, size)
  return preprocess, assumed, []


def _default_preprocess(size: Size, model_type: str) -> tuple[Preprocess, str]:
  if model_type.startswith('dinov2'):
    short = max(round(size[0] * 256 / 224), *size)
    preprocess = Preprocess(size, IMAGENET_MEAN, IMAGENET_STD, INTERPOLATIONS['bicubic'], short)
    return preprocess, f"bicubic, short side {short}, ImageNet's mean and std, the habit of DINOv2"
  name = 'bilinear' if model_type == 'vit' else 'bicubic'
  return Preprocess(size, HALF, HALF, INTERPOLATIONS[name]), f'plain {name} resize, pixels in [-1, 1]'


def _read_crop(processor: Mapping[str, Any], size: Size, assumed: list[str]) -> tuple[Size, int | None]:
  """Returns (image size, resize_short), and adds what is not exact to `assumed`."""
  resized, crop = processor.get('size'), processor.get('crop_size')
  short = None
  if isinstance(resized, Mapping) and type(resized.get('shortest_edge')) is int:
    short = resized['shortest_edge']
  elif isinstance(resized, Mapping):
    resized = (resized.get('height'), resized.get('width'))
  target = size_pair(resized)
  crop = (crop.get('height'), crop.get('width')) if isinstance(crop, Mapping) else crop
  final = size_pair(crop) if processor.get('do_center_crop') is True else None
  if processor.get('do_resize') is False:
    assumed.append('preprocess: images are resized, unlike do_resize says: the model takes one size')
    return size, None
  if short is not None:
    final = final or (short, short)
    if processor.get('do_center_crop') is not True:
      assumed.append('preprocess: the centre is taken after the resize of the short side')
    return final, max(short, *final)
  if target is None:
    assumed.append(f'preprocess: plain resize instead of size={processor.get("size")!r}')
    return size, None
  if final is not None and final != target:
    text = (
      f'the short side is resized to {max(*target)}, not both sides to {target}, before the centre is taken'
    )
    assumed.append(f'preprocess: {text}')
    return final, max(*target, *final)
  return target, None


def write_preprocessor(preprocess: Preprocess, model_type: str) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns (content of preprocessor_config.json, what is lost)."""
  name, lost = filter_name(preprocess, library='transformers')
  h, w = preprocess.image_size
  processor: dict[str, Any] = {
    'image_processor_type': _PROCESSORS[model_type],
    'do_convert_rgb': True,
    'do_resize': True,
    'size': {'height': h, 'width': w},
    'resample': {text: number for number, text in _FILTERS.items()}[name],
    'do_center_crop': False,
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': list(preprocess.mean),
    'image_std': list(preprocess.std),
  }
  if preprocess.resize_short is not None:
    processor['size'] = {'shortest_edge': preprocess.resize_short}
    processor |= {'do_center_crop': True, 'crop_size': {'height': h, 'width': w}}
    # Of these processors, BiT's alone resizes the short side in every release of transformers.
    processor['image_processor_type'] = 'BitImageProcessor'
  return processor, lost


def write_config(
  model: ModelConfig,
  variant: ViTVariant,
  model_type: str,
  num_classes: int,
  image_size: Size,
  class_names: Sequence[str] | None,
) -> dict[str, Any]:
  """Returns the content of config.json."""
  size = variant.size
  h, w = image_size
  section: dict[str, Any] = {
    'model_type': model_type,
    'hidden_size': size.width,
    'num_hidden_layers': size.depth,
    'num_attention_heads': size.num_heads,
    'hidden_act': {'exact': 'gelu', 'tanh': 'gelu_pytorch_tanh'}[model.gelu],
    'layer_norm_eps': model.norm_eps,
    'image_size': h if h == w else [h, w],
    'patch_size': variant.patch_size,
    'num_channels': 3,
  }
  labels = {}
  if num_classes:
    names = class_names if class_names is not None else [f'LABEL_{i}' for i in range(num_classes)]
    labels = {
      'id2label': {str(i): name for i, name in enumerate(names)},
      'label2id': {name: i for i, name in enumerate(names)},
    }
  common = {'architectures': [_class_name(model_type, num_classes)], 'dtype': model.param_dtype}
  if model_type in ('siglip', 'siglip_vision_model'):
    section |= {'intermediate_size': size.mlp_dim, 'vision_use_head': model.pool == 'map'}
    if model_type == 'siglip_vision_model':
      return common | section
    section['model_type'] = 'siglip_vision_model'
    return common | {'model_type': 'siglip', 'vision_config': section} | labels
  section['qkv_bias'] = True
  if model_type in ('vit', 'deit'):
    section |= {'intermediate_size': size.mlp_dim, 'encoder_stride': variant.patch_size}
    if model.representation_size is not None:
      section |= {'pooler_output_size': model.representation_size, 'pooler_act': 'tanh'}
    return common | section | labels
  section |= {
    'mlp_ratio': size.mlp_dim // size.width,
    'layerscale_value': 1.0 if model.layer_scale_init is None else model.layer_scale_init,
    'use_swiglu_ffn': False,
  }
  if model_type == 'dinov2_with_registers':
    section['num_register_tokens'] = model.num_registers
  return common | section | labels


def _class_name(model_type: str, num_classes: int) -> str:
  names = {
    'vit': 'ViT', 'deit': 'DeiT', 'dinov2': 'Dinov2', 'dinov2_with_registers': 'Dinov2WithRegisters',
    'siglip': 'Siglip', 'siglip_vision_model': 'SiglipVision',
  }  # fmt: skip
  return f'{names[model_type]}{"ForImageClassification" if num_classes else "Model"}'
