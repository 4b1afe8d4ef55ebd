"""Names and shapes of the released .npz files, written out by hand: what the readers and writers are held against.

Nothing here uses vitjax.weights. A 'family' is how one of the released collections names things.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Family:
  """One way of naming: see the rows of FAMILIES."""

  attention: str = 'MultiHeadDotProductAttention_1'
  norm: str = 'LayerNorm_2'
  mlp: str = 'MlpBlock_3'
  positions: str = 'Transformer/posembed_input/pos_embedding'
  class_row: bool = True
  prefix: str = ''
  scanned: bool = False
  old_group_norm: bool = False


LINEN = {'attention': 'MultiHeadDotProductAttention_0', 'norm': 'LayerNorm_1', 'mlp': 'MlpBlock_0'}
BIG_VISION = {**LINEN, 'positions': 'pos_embedding', 'class_row': False}
FAMILIES = {
  'augreg': Family(old_group_norm=True),
  'opt_target': Family(prefix='opt/target/', old_group_norm=True),
  'linen': Family(**LINEN),
  'big_vision': Family(**BIG_VISION, prefix='params/'),
  'big_vision_scanned': Family(**BIG_VISION, prefix='params/', scanned=True),
  'big_vision_img': Family(**BIG_VISION, prefix='params/img/', scanned=True),
  'before_2022': Family(**{**LINEN, 'positions': 'Transformer/pos_embedding'}, prefix='params/'),
}


def block_names(family: Family) -> dict[str, str]:
  """Returns {our name inside a block: its name in the file}."""
  names = {'LayerNorm_0/scale': 'LayerNorm_0/scale', 'LayerNorm_0/bias': 'LayerNorm_0/bias'}
  for part in ('query', 'key', 'value', 'out'):
    for kind in ('kernel', 'bias'):
      names[f'MultiHeadDotProductAttention_0/{part}/{kind}'] = f'{family.attention}/{part}/{kind}'
  for part in ('query_ln', 'key_ln'):
    names[f'MultiHeadDotProductAttention_0/{part}/scale'] = f'{family.attention}/{part}/scale'
  for kind in ('scale', 'bias'):
    names[f'LayerNorm_1/{kind}'] = f'{family.norm}/{kind}'
  for part in ('Dense_0', 'Dense_1'):
    for kind in ('kernel', 'bias'):
      names[f'MlpBlock_0/{part}/{kind}'] = f'{family.mlp}/{part}/{kind}'
  return names


def vit_file(flat: dict[str, np.ndarray], depth: int, family: Family) -> dict[str, np.ndarray]:
  """Returns the arrays of a family's file from our flat tree ('a/b/c': array, blocks in loop form).

  A family without the class token's row expects a row of zeros in our table and leaves it out.
  """
  flat, file = dict(flat), {}
  names = block_names(family)
  for ours, theirs in names.items():
    arrays = [flat.pop(f'Transformer/encoderblock_{i}/{ours}', None) for i in range(depth)]
    if arrays[0] is None:
      continue
    if family.scanned:
      file[f'Transformer/encoderblock/{theirs}'] = np.stack(arrays)
    else:
      file |= {f'Transformer/encoderblock_{i}/{theirs}': array for i, array in enumerate(arrays)}
  if 'Transformer/posembed_input/pos_embedding' in flat:
    table = flat.pop('Transformer/posembed_input/pos_embedding')
    if 'cls' in flat and not family.class_row:
      assert not table[:, 0].any()
      table = table[:, 1:]
    file[family.positions] = table
  for name, array in flat.items():
    is_group_norm = 'gn' in name.split('/')[-2] if '/' in name else False
    file[name] = array[None, None, None] if is_group_norm and family.old_group_norm else array
  return {family.prefix + name: array for name, array in file.items()}


def vit_shapes(
  *,
  width: int,
  depth: int,
  mlp: int,
  heads: int,
  patch: int,
  tokens: int,
  classes: int,
  units: tuple[int, ...] = (),
  pre_logits: bool = False,
) -> dict[str, tuple[int, ...]]:
  """Returns the names and shapes of an original file with a class token, plain or hybrid."""
  channels = 64 * 2 ** (len(units) + 1) if units else 3
  shapes = {
    'cls': (1, 1, width),
    'embedding/kernel': (patch, patch, channels, width),
    'embedding/bias': (width,),
    'Transformer/posembed_input/pos_embedding': (1, tokens, width),
    'Transformer/encoder_norm/scale': (width,),
    'Transformer/encoder_norm/bias': (width,),
    'head/kernel': (width, classes),
    'head/bias': (classes,),
  }
  if pre_logits:
    shapes |= {'pre_logits/kernel': (width, width), 'pre_logits/bias': (width,)}
  side = width // heads
  for i in range(depth):
    block = f'Transformer/encoderblock_{i}'
    attention = f'{block}/MultiHeadDotProductAttention_1'
    for part in ('query', 'key', 'value'):
      shapes |= {
        f'{attention}/{part}/kernel': (width, heads, side),
        f'{attention}/{part}/bias': (heads, side),
      }
    shapes |= {f'{attention}/out/kernel': (heads, side, width), f'{attention}/out/bias': (width,)}
    for norm in ('LayerNorm_0', 'LayerNorm_2'):
      shapes |= {f'{block}/{norm}/scale': (width,), f'{block}/{norm}/bias': (width,)}
    dense = f'{block}/MlpBlock_3/Dense'
    shapes |= {f'{dense}_0/kernel': (width, mlp), f'{dense}_0/bias': (mlp,)}
    shapes |= {f'{dense}_1/kernel': (mlp, width), f'{dense}_1/bias': (width,)}
  return shapes | (_stem_shapes(units) if units else {})


def _stem_shapes(units: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
  """Returns the ResNet of an original hybrid, group norms as (1, 1, 1, c)."""

  def norm(name, c):
    return {f'{name}/scale': (1, 1, 1, c), f'{name}/bias': (1, 1, 1, c)}

  shapes = {'conv_root/kernel': (7, 7, 3, 64), **norm('gn_root', 64)}
  c_in = 64
  for b, count in enumerate(units, 1):
    mid = 32 * 2**b
    for u in range(1, count + 1):
      unit = f'block{b}/unit{u}'
      shapes |= {
        f'{unit}/conv1/kernel': (1, 1, c_in, mid),
        f'{unit}/conv2/kernel': (3, 3, mid, mid),
        f'{unit}/conv3/kernel': (1, 1, mid, 4 * mid),
        **norm(f'{unit}/gn1', mid),
        **norm(f'{unit}/gn2', mid),
        **norm(f'{unit}/gn3', 4 * mid),
      }
      if u == 1:
        shapes |= {f'{unit}/conv_proj/kernel': (1, 1, c_in, 4 * mid), **norm(f'{unit}/gn_proj', 4 * mid)}
      c_in = 4 * mid
  return shapes


def bit_shapes(units: tuple[int, ...], width: int, classes: int) -> dict[str, tuple[int, ...]]:
  """Returns the names and shapes of a TensorFlow dump of a BiT ResNet."""
  conv, norm = 'standardized_conv2d/kernel', 'group_norm'

  def pair(name, c):
    return {f'{name}/gamma': (c,), f'{name}/beta': (c,)}

  shapes = {f'root_block/{conv}': (7, 7, 3, width)}
  c_in = width
  for b, count in enumerate(units, 1):
    mid = width * 2 ** (b - 1)
    for u in range(1, count + 1):
      unit = f'block{b}/unit{u:02d}'
      shapes |= {
        f'{unit}/a/{conv}': (1, 1, c_in, mid),
        f'{unit}/b/{conv}': (3, 3, mid, mid),
        f'{unit}/c/{conv}': (1, 1, mid, 4 * mid),
        **pair(f'{unit}/a/{norm}', c_in),
        **pair(f'{unit}/b/{norm}', mid),
        **pair(f'{unit}/c/{norm}', mid),
      }
      if u == 1:
        shapes[f'{unit}/a/proj/{conv}'] = (1, 1, c_in, 4 * mid)
      c_in = 4 * mid
  shapes |= pair(norm, c_in) | {'head/conv2d/kernel': (1, 1, c_in, classes), 'head/conv2d/bias': (classes,)}
  return {f'resnet/{name}': shape for name, shape in shapes.items()}
