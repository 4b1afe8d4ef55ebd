"""The names of Hugging Face transformers: four families of vision transformers, and their links to the tree."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from vitjax.errors import Problem
from vitjax.weights.imported import Shape
from vitjax.weights.links import (
  CONV,
  DENSE,
  HALF_DENSE,
  HEADS,
  HEADS_BIAS,
  OUT,
  ROWS,
  SAME,
  Link,
  dense,
  fused,
  norm,
)
from vitjax.weights.pytorch import POSITIONS


@dataclasses.dataclass(frozen=True)
class Family:
  """The names of one family; {i} stands for the number of a block.

  Attributes:
    block: prefix of a block.
    query, key, value, out: the layers of attention, below `block`.
    norms: the two norms.
    mlp: the two layers of the MLP.
    last_norm: the norm after the blocks.
    patches: the patch embedding.
    positions: the table, and how it is stored.
    models: config.json's model_type -> prefix of a backbone inside a model with a head.
  """

  block: str
  query: str
  key: str
  value: str
  out: str
  norms: tuple[str, str]
  mlp: tuple[str, str]
  last_norm: str
  patches: str
  positions: str
  models: Mapping[str, str]


VIT = Family(
  block='encoder.layer.{i}.',
  query='attention.attention.query',
  key='attention.attention.key',
  value='attention.attention.value',
  out='attention.output.dense',
  norms=('layernorm_before', 'layernorm_after'),
  mlp=('intermediate.dense', 'output.dense'),
  last_norm='layernorm',
  patches='embeddings.patch_embeddings.projection',
  positions='embeddings.position_embeddings',
  models={'vit': 'vit.', 'deit': 'deit.'},
)
DINOV2 = dataclasses.replace(
  VIT,
  norms=('norm1', 'norm2'),
  mlp=('mlp.fc1', 'mlp.fc2'),
  models={'dinov2': 'dinov2.', 'dinov2_with_registers': 'dinov2_with_registers.'},
)
SIGLIP = Family(
  block='encoder.layers.{i}.',
  query='self_attn.q_proj',
  key='self_attn.k_proj',
  value='self_attn.v_proj',
  out='self_attn.out_proj',
  norms=('layer_norm1', 'layer_norm2'),
  mlp=('mlp.fc1', 'mlp.fc2'),
  last_norm='post_layernorm',
  patches='embeddings.patch_embedding',
  positions='embeddings.position_embedding.weight',
  models={'siglip_vision_model': '', 'siglip': 'vision_model.'},
)
FAMILIES = {'vit': VIT, 'dinov2': DINOV2, 'siglip': SIGLIP}
MODEL_TYPES = {model: family for family in FAMILIES.values() for model in family.models}

_BLOCK_PATH = re.compile(r'Transformer/encoderblock_(\d+)/')
_EXOTIC_KEYS = (
  (r'.*distillation_classifier\..*', 'a distilled model that averages two heads'),
  (r'.*(pre_layrnorm|pre_layernorm|class_embedding).*', 'the norm before the blocks of CLIP'),
  (r'.*mlp\.(weights_in|weights_out|gate_proj|up_proj|down_proj)\..*', 'SwiGLU'),
  (r'.*(relative_position|rope|rotary).*', 'rotary or relative positions'),
  (r'.*(lambda_[12]|q_norm|k_norm|q_bias)\b.*', 'the blocks of BEiT or another family'),
  (r'decoder\..*', 'a model for masked images, with a decoder'),
  (r'.*\.(lora_[AB])\..*', 'LoRA adapters that are not merged'),
)
_UNUSED = (
  (r'text_model\..*', 'text tower'),
  (r'logit_(scale|bias)', 'temperature of image and text pairs'),
  (r'(.*\.)?embeddings\.mask_token', 'token of masked patches, for pretraining'),
  (r'(.*\.)?position_ids', 'constant'),
)


def family_of(keys: Mapping[str, Shape]) -> tuple[Family, str] | None:
  """Returns (family, prefix of the backbone) of the arrays of a file, None when it is no such family."""
  for family in (VIT, SIGLIP):
    end = f'{family.patches}.weight'
    for key in keys:
      if key == end or key.endswith(f'.{end}'):
        prefix = key.removesuffix(end)
        dino = f'{prefix}{DINOV2.block.format(i=0)}{DINOV2.norms[0]}.weight' in keys
        return (DINOV2 if dino and family is VIT else family), prefix
  return None


def exotic_keys(keys: Mapping[str, Shape]) -> list[Problem]:
  """Returns a problem for each feature, seen in the keys, that vitjax does not have."""
  problems = []
  for pattern, feature in _EXOTIC_KEYS:
    if found := [key for key in keys if re.fullmatch(pattern, key) and not re.fullmatch(_UNUSED[0][0], key)]:
      more = f' and {len(found) - 1} more' if len(found) > 1 else ''
      problems.append(Problem(f'{found[0]}{more}', feature, 'a plain pre-norm transformer'))
  return problems


def unused_reason(key: str) -> str:
  """Returns why an array is not needed, '' when it should not be there."""
  return next((reason for pattern, reason in _UNUSED if re.fullmatch(pattern, key)), '')


def depth_of(keys: Mapping[str, Shape], family: Family, prefix: str) -> int:
  """Returns the number of blocks, by the highest number."""
  pattern = re.compile(re.escape(prefix + family.block).replace(r'\{i\}', r'(\d+)') + '.*')
  return 1 + max((int(match[1]) for key in keys if (match := pattern.fullmatch(key))), default=-1)


def links_of(expected: Mapping[str, Shape], family: Family, prefix: str) -> list[Link]:
  """Returns a link for every parameter of the model whose shapes are `expected`."""
  depth = 1 + max((int(match[1]) for path in expected if (match := _BLOCK_PATH.match(path))), default=-1)
  links = [
    Link(f'{prefix}embeddings.cls_token', ('cls',)),
    Link(f'{prefix}{_registers(family)}', ('registers',)),
    Link(f'{prefix}{family.positions}', (POSITIONS,), ROWS if family is SIGLIP else SAME),
    *dense(f'{prefix}{family.patches}', 'embedding', CONV),
    *norm(f'{prefix}{family.last_norm}', 'Transformer/encoder_norm'),
    *dense(f'{prefix}pooler.dense', 'pre_logits'),
    *_pooling_links(f'{prefix}head', 'MAPHead_0'),
    Link('classifier.weight', ('head/kernel',), HALF_DENSE if family is DINOV2 else DENSE),
    Link('classifier.bias', ('head/bias',)),
  ]
  for i in range(depth):
    links += _block_links(prefix + family.block.format(i=i), f'Transformer/encoderblock_{i}', family)
  return [link for link in links if link.paths[0] in expected]


def _registers(family: Family) -> str:
  """Returns the name of the registers; DeiT's distillation token is one in a model without its head."""
  return 'embeddings.distillation_token' if family is VIT else 'embeddings.register_tokens'


def _block_links(key: str, path: str, family: Family) -> list[Link]:
  attention = f'{path}/MultiHeadDotProductAttention_0'
  links = [
    *norm(f'{key}{family.norms[0]}', f'{path}/LayerNorm_0'),
    *dense(f'{key}{family.query}', f'{attention}/query', HEADS, HEADS_BIAS),
    *dense(f'{key}{family.key}', f'{attention}/key', HEADS, HEADS_BIAS),
    *dense(f'{key}{family.value}', f'{attention}/value', HEADS, HEADS_BIAS),
    *dense(f'{key}{family.out}', f'{attention}/out', OUT),
    *norm(f'{key}{family.norms[1]}', f'{path}/LayerNorm_1'),
    *dense(f'{key}{family.mlp[0]}', f'{path}/MlpBlock_0/Dense_0'),
    *dense(f'{key}{family.mlp[1]}', f'{path}/MlpBlock_0/Dense_1'),
  ]
  if family is DINOV2:
    links += [
      Link(f'{key}layer_scale1.lambda1', (f'{path}/LayerScale_0/scale',)),
      Link(f'{key}layer_scale2.lambda1', (f'{path}/LayerScale_1/scale',)),
    ]
  return links


def _pooling_links(key: str, path: str) -> list[Link]:
  """Returns the links of SigLIP's attention pooling, whose three projections stand in one array."""
  attention = f'{path}/MultiHeadDotProductAttention_0'
  names = ('query', 'key', 'value')
  return [
    Link(f'{key}.probe', (f'{path}/probe',)),
    Link(
      f'{key}.attention.in_proj_weight', tuple(f'{attention}/{name}/kernel' for name in names), fused(HEADS)
    ),
    Link(
      f'{key}.attention.in_proj_bias', tuple(f'{attention}/{name}/bias' for name in names), fused(HEADS_BIAS)
    ),
    *dense(f'{key}.attention.out_proj', f'{attention}/out', OUT),
    *norm(f'{key}.layernorm', f'{path}/LayerNorm_0'),
    *dense(f'{key}.mlp.fc1', f'{path}/MlpBlock_0/Dense_0'),
    *dense(f'{key}.mlp.fc2', f'{path}/MlpBlock_0/Dense_1'),
  ]
