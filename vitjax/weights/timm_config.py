"""timm's config.json: model_args, pretrained_cfg and labels, read and written. Host-side, no jax."""

from __future__ import annotations

import math
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
  triple,
)

# Arguments of timm's VisionTransformer that are read, or say nothing about the outputs in evaluation.
_FREE_ARGS = frozenset(
  [
    'img_size',
    'patch_size',
    'embed_dim',
    'depth',
    'num_heads',
    'mlp_ratio',
    'num_classes',
    'class_token',
    'reg_tokens',
    'no_embed_class',
    'global_pool',
    'fc_norm',
    'init_values',
    'act_layer',
    'drop_rate',
    'pos_drop_rate',
    'patch_drop_rate',
    'proj_drop_rate',
    'attn_drop_rate',
    'drop_path_rate',
    'weight_init',
    'fix_init',
    'dynamic_img_size',
  ]
)
# Arguments with the only value that vitjax has.
_FIXED_ARGS: Mapping[str, tuple[Any, ...]] = {
  'in_chans': (3,),
  'qkv_bias': (True,),
  'proj_bias': (True,),
  'qk_norm': (False,),
  'scale_attn_norm': (False,),
  'scale_mlp_norm': (False,),
  'pre_norm': (False,),
  'final_norm': (True,),
  'pool_include_prefix': (False,),
  'dynamic_img_pad': (False,),
  'pos_embed': ('learn',),
  'norm_layer': ('layernorm', 'LayerNorm'),
  'embed_norm_layer': (),
  'mlp_layer': ('mlp', 'Mlp'),
  'attn_layer': ('attn', 'Attention'),
  'block_fn': (),
}
GELU = {'gelu': 'exact', 'gelu_tanh': 'tanh'}
POOL = {'token': 'token', 'avg': 'gap', 'map': 'map'}

_SIZE_NAMES = {
  'Ti': 'tiny',
  'S': 'small',
  'M': 'medium',
  'B': 'base',
  'L': 'large',
  'H': 'huge',
  'g': 'giant',
}
_SIZE_NAMES |= {'G': 'gigantic'}
_PLAIN = {
  f'vit_{size}_patch{patch}_{image}'
  for size, patch, image in (
    ('tiny', 16, 224), ('tiny', 16, 384), ('small', 32, 224), ('small', 32, 384), ('small', 16, 224),
    ('small', 16, 384), ('small', 8, 224), ('base', 32, 224), ('base', 32, 384), ('base', 16, 224),
    ('base', 16, 384), ('base', 8, 224), ('large', 32, 224), ('large', 32, 384), ('large', 16, 224),
    ('large', 16, 384), ('large', 14, 224), ('huge', 14, 224), ('giant', 14, 224), ('gigantic', 14, 224),
  )
}  # fmt: skip
_HYBRIDS = {
  (3, 4, 9): 'vit_base_r50_s16_384',
  (2, 2, 2, 2): 'vit_small_r26_s32_224',
  (3, 4, 6, 3): 'vit_large_r50_s32_224',
}


def argument_problems(args: Mapping[str, Any]) -> list[Problem]:
  """Returns a problem for each of model_args that vitjax does not have."""
  problems = []
  for name, value in args.items():
    where = f'model_args.{name}'
    if name == 'act_layer' and value not in (None, *GELU):
      problems.append(Problem(where, repr(value)[:80], f'one of {", ".join(GELU)}'))
    elif name == 'global_pool' and value not in (None, *POOL):
      problems.append(Problem(where, repr(value)[:80], f'one of {", ".join(POOL)}'))
    elif name in _FIXED_ARGS and value is not None and value not in _FIXED_ARGS[name]:
      expected = ' or '.join(map(repr, _FIXED_ARGS[name])) or 'not given'
      problems.append(Problem(where, repr(value)[:80], f'{expected}: vitjax has no other form'))
    elif name not in _FREE_ARGS and name not in _FIXED_ARGS:
      problems.append(Problem(where, repr(value)[:80], "an argument of timm's VisionTransformer"))
  return problems


def read_preprocess(
  cfg: Mapping[str, Any] | None, size: Size, *, imagenet: bool
) -> tuple[Preprocess, list[str], list[Problem]]:
  """Returns (the evaluation transform, what was assumed, problems).

  Args:
    cfg: `pretrained_cfg`, None when there is no config.json.
    size: (h, w) of the images that the positions are for.
    imagenet: assume ImageNet's mean and std where nothing is said, instead of [-1, 1].
  """
  mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else (HALF, HALF)
  if cfg is None:
    short = math.floor(min(size) / 0.9) if size[0] == size[1] else None
    text = f'preprocess: bicubic, crop_pct 0.9, mean {mean}, std {std}; a bare file does not say'
    return Preprocess(size, mean, std, 'bicubic_antialias', short), [text], []
  assumed, problems, values = [], [], {}
  # timm's own defaults: ImageNet's mean and std, bicubic, 0.875.
  for name, default in (('mean', IMAGENET_MEAN), ('std', IMAGENET_STD)):
    value = triple(cfg[name], f'pretrained_cfg.{name}') if cfg.get(name) is not None else default
    problems += [value] if isinstance(value, Problem) else []
    values[name] = value
  name = cfg.get('interpolation') or 'bicubic'
  if not isinstance(name, str) or name not in INTERPOLATIONS:
    assumed.append(f'preprocess: bicubic instead of pretrained_cfg.interpolation={name!r}')
    name = 'bicubic'
  short = _read_crop(cfg, size, assumed, problems)
  if isinstance(values['std'], tuple) and min(values['std']) <= 0:
    problems.append(Problem('pretrained_cfg.std', str(values['std']), 'positive numbers'))
  if problems:
    return Preprocess(size), assumed, problems
  return Preprocess(size, values['mean'], values['std'], INTERPOLATIONS[name], short), assumed, []


def _read_crop(cfg: Mapping[str, Any], size: Size, assumed: list[str], problems: list[Problem]) -> int | None:
  """Returns Preprocess.resize_short, and adds what is not exact to `assumed`."""
  share, mode = cfg.get('crop_pct') or 0.875, cfg.get('crop_mode') or 'center'
  if type(share) not in (int, float) or not 0.05 <= share <= 1:
    problems.append(Problem('pretrained_cfg.crop_pct', repr(share)[:80], 'a number from 0.05 to 1'))
    return None
  if mode == 'center' and size[0] == size[1]:
    return math.floor(size[0] / share)
  if mode != 'squash' or share < 1:
    text = f'crop_mode={mode!r} with crop_pct={share} at {size[0]}x{size[1]} is applied as a plain resize'
    assumed.append(f'preprocess: {text}')
  return None


def read_labels(config: Mapping[str, Any], num_classes: int) -> tuple[tuple[str, ...] | None, list[str]]:
  """Returns (class names of config.json or None, what was assumed)."""
  cfg = config.get('pretrained_cfg')
  labels = config.get('label_names') or (cfg.get('label_names') if isinstance(cfg, dict) else None)
  if not labels:
    return None, []
  if isinstance(labels, dict):
    labels = [labels[str(i)] for i in range(num_classes)] if _counts(labels, num_classes) else None
  if (
    not isinstance(labels, list) or len(labels) != num_classes or not all(isinstance(x, str) for x in labels)
  ):
    return None, [f'class names: label_names of config.json are not {num_classes} texts and were left out']
  return tuple(labels), []


def _counts(labels: Mapping[str, Any], num_classes: int) -> bool:
  return set(labels) == {str(i) for i in range(num_classes)}


def write_config(
  model: ModelConfig,
  variant: ViTVariant,
  num_classes: int,
  image_size: Size,
  preprocess: Preprocess,
  class_names: Sequence[str] | None,
  *,
  has_class_row: bool,
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns (content of config.json, what is lost); model_args are complete, whatever the architecture's own are."""
  size = variant.size
  pool = {ours: theirs for theirs, ours in POOL.items()}[model.pool]
  args: dict[str, Any] = {
    'img_size': list(image_size),
    'patch_size': variant.patch_size,
    'embed_dim': size.width,
    'depth': size.depth,
    'num_heads': size.num_heads,
    'mlp_ratio': _mlp_ratio(size.width, size.mlp_dim),
    'class_token': model.pool == 'token',
    'reg_tokens': model.num_registers,
    'no_embed_class': not has_class_row,
    'global_pool': pool,
    'fc_norm': model.final_norm == 'pooled',
    'act_layer': {ours: theirs for theirs, ours in GELU.items()}[model.gelu],
  }
  if model.layer_scale_init is not None:
    args['init_values'] = model.layer_scale_init or 1e-5
  cfg, lost = _write_preprocess(preprocess)
  stem = 'patch_embed.backbone.stem.conv' if variant.stem_units else 'patch_embed.proj'
  config: dict[str, Any] = {
    'architecture': _architecture(model, variant, image_size),
    'num_classes': num_classes,
    'num_features': size.width,
    'global_pool': pool,
    'model_args': args,
    'pretrained_cfg': {
      'tag': 'vitjax',
      'custom_load': False,
      'input_size': [3, *image_size],
      'fixed_input_size': True,
      **cfg,
      'num_classes': num_classes,
      'pool_size': None,
      'first_conv': stem,
      'classifier': 'head',
    },
  }
  if class_names is not None:
    config['label_names'] = list(class_names)
  return config, lost


def _write_preprocess(preprocess: Preprocess) -> tuple[dict[str, Any], tuple[str, ...]]:
  interpolation, lost = filter_name(preprocess, library='timm')
  h, w = preprocess.image_size
  cfg: dict[str, Any] = {
    'interpolation': interpolation,
    'crop_pct': 1.0,
    'crop_mode': 'squash',
    'mean': list(preprocess.mean),
    'std': list(preprocess.std),
  }
  if preprocess.resize_short is None:
    return cfg, lost
  if h != w:
    text = f'preprocess.resize_short={preprocess.resize_short}: timm crops {h}x{w} images in another way'
    return cfg | {'crop_mode': 'center', 'crop_pct': max(h, w) / preprocess.resize_short}, (*lost, text)
  return cfg | {'crop_mode': 'center', 'crop_pct': _crop_share(h, preprocess.resize_short)}, lost


def _crop_share(size: int, short: int) -> float:
  """Returns the shortest decimal r with floor(size / r) == short, as which timm resizes: 0.9 for 224 of 248."""
  shares = (size * 10**digits // short / 10**digits for digits in range(16))
  return next(share for share in shares if 0 < share <= 1 and math.floor(size / share) == short)


def _mlp_ratio(width: int, mlp_dim: int) -> float:
  """Returns the ratio r with int(width * r) == mlp_dim, in spite of rounding."""
  ratio = mlp_dim / width
  while int(width * ratio) < mlp_dim:
    ratio = math.nextafter(ratio, math.inf)
  return ratio


def _architecture(model: ModelConfig, variant: ViTVariant, image_size: Size) -> str:
  """Returns the architecture of timm with the same code path, by the same size where there is one."""
  if variant.stem_units:
    return _HYBRIDS[variant.stem_units]
  size = model.variant.partition('/')[0]
  name = f'vit_{_SIZE_NAMES[size]}_patch{variant.patch_size}_{image_size[0]}' if size in _SIZE_NAMES else ''
  return name if name in _PLAIN else 'vit_base_patch16_224'
