"""timm's names: arrays of its VisionTransformer, and what the name of an architecture says. Host-side, no jax."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vitjax.config.variants import VIT_SIZES
from vitjax.errors import Problem
from vitjax.weights.imported import Shape
from vitjax.weights.links import (
  CONV,
  DENSE,
  HEADS,
  HEADS_BIAS,
  OUT,
  SAME,
  WITHOUT_CLASS_ROW,
  Form,
  Link,
  dense,
  fused,
  norm,
)
from vitjax.weights.pytorch import POSITIONS

# Architectures that are plain pre-norm transformers. Others may hold arrays of the same names and shapes and
# compute something else with them, such as rotary positions, so that an unknown name is an error.
_FAMILIES = (
  r'vit_[a-z0-9]+_patch\d+(_(plus|gap|map|reg\d+|siglip|dinov2|tipsv2|36x1|miil|\d+))*',
  r'vit_(tiny|small|base|large)_r(26|50)?_s\d+(_p\d+)?_\d+',
  r'deit_(tiny|small|base)(_distilled)?_patch\d+_\d+',
  r'deit3_[a-z]+_patch\d+_\d+',
  r'flexivit_[a-z]+',
  r'eva_large_patch14_\d+',
  r'test_vit[23]?',
)
_TANH = (
  r'vit_(base_patch32|giantopt_patch16|so400m_patch16)_siglip(_gap)?_\d+',
  r'vit_large_patch16_siglip(_gap)?_512',
)
# Heads that are not 64 wide.
_HEADS = (
  (r'vit_base_patch16_gap_\d+', 16),
  (r'(vit|deit3)_(huge|giant|giantopt|gigantic|so400m)_.*', 16),
  (r'test_vit2?', 2),
  (r'test_vit3', 3),
)
_EXOTIC_KEYS = (
  (r'norm_pre\..*', 'pre_norm=True, a norm before the blocks (CLIP)'),
  (r'(blocks\.\d+\.attn|attn_pool)\.[qk]_norm\..*', 'qk_norm=True, norms of queries and keys with biases'),
  (r'head_dist\..*|dist_token', 'a distilled model with a second token and head'),
  (r'blocks\.\d+\.mlp\.(fc1_[gx]|w12|w3)\..*', 'SwiGLU'),
  (r'blocks\.\d+\.(attns|ffns|in_proj|out_proj)\b.*', 'parallel blocks'),
  (r'blocks\.\d+\.(attn|mlp)\.norm\..*', 'scale_attn_norm or scale_mlp_norm=True'),
  (r'blocks\.\d+\.(gamma_[12]|attn\.[qkv]_(proj|bias).*)', 'the blocks of BEiT or EVA'),
  (r'blocks\.\d+\.attn\.(lambda_.*|sub_norm\..*)', 'differential attention'),
  (r'.*(rope|rel_pos|relative_position).*', 'rotary or relative positions'),
  (r'attn_pool\.pos_embed', 'positions of its own in the attention pooling'),
  (
    r'patch_embed\.(norm|backbone\.(conv1|bn1|layer\d|conv|\d))\b.*',
    'another stem than plain patches or ResNet v2',
  ),
)


def exotic_keys(shapes: Mapping[str, Shape]) -> list[Problem]:
  """Returns a problem for each feature of timm, seen in the keys, that vitjax does not have."""
  problems = []
  for pattern, feature in _EXOTIC_KEYS:
    keys = [key for key in shapes if re.fullmatch(pattern, key)]
    if keys:
      more = f' and {len(keys) - 1} more' if len(keys) > 1 else ''
      problems.append(Problem(f'{keys[0]}{more}', feature, 'a plain pre-norm transformer'))
  needed = {
    'blocks.0.attn.qkv.bias': 'qkv_bias=False',
    'blocks.0.norm1.bias': 'norms without bias, such as RMSNorm',
    'pos_embed': "pos_embed='none', or rotary positions",
  }
  for key, feature in needed.items():
    if key not in shapes and 'blocks.0.norm1.weight' in shapes and not problems:
      problems.append(Problem(key, f'missing: {feature}', 'a plain pre-norm transformer'))
  hidden, out = shapes.get('blocks.0.mlp.fc1.weight'), shapes.get('blocks.0.mlp.fc2.weight')
  if hidden and out and len(out) == 2 and hidden[0] == 2 * out[1]:
    problems.append(Problem('blocks.0.mlp.fc1.weight', f'{list(hidden)}: SwiGLU', 'as wide as mlp.fc2 takes'))
  if 'blocks.0.norm1.weight' in shapes and not {'norm.weight', 'fc_norm.weight'} & set(shapes):
    problems.append(Problem('norm.weight', 'missing: final_norm=False', 'a norm after the blocks'))
  return problems


def architecture_problem(name: Any) -> Problem | None:
  """Returns why config.json's `architecture` is refused, None when it is one of the plain ones."""
  if isinstance(name, str) and any(re.fullmatch(family, name) for family in _FAMILIES):
    return None
  hint = 'When it is a plain VisionTransformer all the same, load the .safetensors file without config.json'
  expected = 'a plain vit_*, deit*, flexivit_* or hybrid vit_*_r50_s16_* of timm'
  return Problem('architecture', repr(name)[:80], expected, hint)


def default_gelu(architecture: str | None, *, has_attention_pooling: bool) -> tuple[str, str]:
  """Returns (GELU form of an architecture whose model_args name none, what was assumed, '' for nothing)."""
  if architecture is None:
    text = 'gelu: exact erf, as most of timm; a bare file does not say'
    return 'exact', f'{text}; some SigLIP towers use tanh' if has_attention_pooling else text
  return 'tanh' if any(re.fullmatch(name, architecture) for name in _TANH) else 'exact', ''


def default_heads(architecture: str | None, width: int, depth: int, mlp_dim: int) -> tuple[int, str]:
  """Returns (attention heads where model_args name none, what was assumed, '' for nothing)."""
  if architecture is not None:
    known = (heads for pattern, heads in _HEADS if re.fullmatch(pattern, architecture))
    return next(known, max(width // 64, 1)), ''
  for row in VIT_SIZES.values():
    if (row.width, row.depth, row.mlp_dim) == (width, depth, mlp_dim):
      return row.num_heads, ''
  num_heads = max(width // 64, 1)
  return num_heads, f'num_heads: {num_heads}, 64 features each; a bare file does not say'


def links_of(
  expected: Mapping[str, Shape], *, has_class_row: bool, stem_units: tuple[int, ...]
) -> list[Link]:
  """Returns a link for every parameter.

  Args:
    expected: shapes of the model's parameters.
    has_class_row: whether `pos_embed` has a row for the class token; the tree's table always has one.
    stem_units: residual units of a hybrid's stem.
  """
  drops_row = 'cls' in expected and not has_class_row
  links = [
    Link('pos_embed', (POSITIONS,), WITHOUT_CLASS_ROW if drops_row else SAME),
    *dense('patch_embed.proj', 'embedding', CONV),
  ]
  depth = 1 + max((int(match[1]) for path in expected if (match := _BLOCK.match(path))), default=-1)
  for i in range(depth):
    links += _block_links(f'blocks.{i}', f'Transformer/encoderblock_{i}', expected)
  for stage, units in enumerate(stem_units):
    for unit in range(units):
      links += _unit_links(
        f'patch_embed.backbone.stages.{stage}.blocks.{unit}', f'block{stage + 1}/unit{unit + 1}'
      )
  links += [
    Link('cls_token', ('cls',)),
    Link('reg_token', ('registers',)),
    Link('patch_embed.backbone.stem.conv.weight', ('conv_root/kernel',), CONV),
    *norm('patch_embed.backbone.stem.norm', 'gn_root'),
    *norm('norm', 'Transformer/encoder_norm'),
    *norm('fc_norm', 'pool_norm'),
    *_pooling_links('attn_pool', 'MAPHead_0'),
    *dense('head', 'head'),
  ]
  return [link for link in links if link.paths[0] in expected]


_BLOCK = re.compile(r'Transformer/encoderblock_(\d+)/')


def _attention(path: str, names: tuple[str, ...], leaf: str) -> tuple[str, ...]:
  return tuple(f'{path}/MultiHeadDotProductAttention_0/{name}/{leaf}' for name in names)


def _fused_heads(key: str, path: str, names: tuple[str, ...]) -> list[Link]:
  """Returns the links of one linear layer that holds the projections `names`."""
  kernel: Form = fused(HEADS)
  return [
    Link(f'{key}.weight', _attention(path, names, 'kernel'), kernel),
    Link(f'{key}.bias', _attention(path, names, 'bias'), fused(HEADS_BIAS)),
  ]


def _block_links(key: str, path: str, expected: Mapping[str, Shape]) -> list[Link]:
  links = [
    *norm(f'{key}.norm1', f'{path}/LayerNorm_0'),
    *_fused_heads(f'{key}.attn.qkv', path, ('query', 'key', 'value')),
    *dense(f'{key}.attn.proj', f'{path}/MultiHeadDotProductAttention_0/out', OUT),
    *norm(f'{key}.norm2', f'{path}/LayerNorm_1'),
    *dense(f'{key}.mlp.fc1', f'{path}/MlpBlock_0/Dense_0', DENSE),
    *dense(f'{key}.mlp.fc2', f'{path}/MlpBlock_0/Dense_1', DENSE),
    Link(f'{key}.ls1.gamma', (f'{path}/LayerScale_0/scale',)),
    Link(f'{key}.ls2.gamma', (f'{path}/LayerScale_1/scale',)),
  ]
  return [link for link in links if link.paths[0] in expected]


def _unit_links(key: str, path: str) -> list[Link]:
  names = [(f'conv{i}', f'norm{i}', f'conv{i}', f'gn{i}') for i in (1, 2, 3)]
  names.append(('downsample.conv', 'downsample.norm', 'conv_proj', 'gn_proj'))
  links = []
  for conv, group_norm, conv_path, norm_path in names:
    links.append(Link(f'{key}.{conv}.weight', (f'{path}/{conv_path}/kernel',), CONV))
    links += norm(f'{key}.{group_norm}', f'{path}/{norm_path}')
  return links


def _pooling_links(key: str, path: str) -> list[Link]:
  return [
    Link(f'{key}.latent', (f'{path}/probe',)),
    *_fused_heads(f'{key}.q', path, ('query',)),
    *_fused_heads(f'{key}.kv', path, ('key', 'value')),
    *dense(f'{key}.proj', f'{path}/MultiHeadDotProductAttention_0/out', OUT),
    *norm(f'{key}.norm', f'{path}/LayerNorm_0'),
    *dense(f'{key}.mlp.fc1', f'{path}/MlpBlock_0/Dense_0'),
    *dense(f'{key}.mlp.fc2', f'{path}/MlpBlock_0/Dense_1'),
  ]
