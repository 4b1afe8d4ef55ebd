"""The size table: what "B/16", "R50+B/16" or "R50x1" mean. Plain data, no jax, so that configs can be checked fast.

Sizes: ViT (arXiv 2010.11929) Table 1, scaling ViT (2106.04560), So400m (2305.13035), ViT-22B (2302.05442), BiT
(1912.11370).
"""

from __future__ import annotations

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class ViTSize:
  """One row of the size table: transformer dimensions and the block form that goes with them."""

  width: int
  depth: int
  mlp_dim: int
  num_heads: int
  qk_norm: bool = False
  parallel_blocks: bool = False
  use_qkv_bias: bool = True
  use_norm_bias: bool = True


@dataclasses.dataclass(frozen=True)
class ViTVariant:
  """A parsed transformer variant.

  Attributes:
    size: the transformer's dimensions.
    patch_size: side of a patch in pixels, or in feature-map cells for a hybrid.
    stem_units: residual units per stage of a hybrid's ResNet stem, () for a plain ViT.
    downsample: input pixels per token side (16 for B/16 and R50+B/16).
  """

  size: ViTSize
  patch_size: int
  stem_units: tuple[int, ...] = ()
  downsample: int = 16


@dataclasses.dataclass(frozen=True)
class ResNetVariant:
  """A parsed BiT ResNet-v2 variant.

  Attributes:
    units: residual units per stage; each stage after the first halves the resolution.
    width: channels of the root, 64 times the multiple in the name.
    groups: groups of each GroupNorm; divides width.
    small_root: for small images: the root is one 3x3 convolution of stride 2, without pooling, instead of 7x7
      of stride 2 and max-pooling, so that the whole network downsamples by 2^stages.
  """

  units: tuple[int, ...]
  width: int
  groups: int = 32
  small_root: bool = False


VIT_SIZES = {
  'Ti': ViTSize(192, 12, 768, 3),
  'S': ViTSize(384, 12, 1536, 6),
  'M': ViTSize(512, 12, 2048, 8),
  'B': ViTSize(768, 12, 3072, 12),
  'L': ViTSize(1024, 24, 4096, 16),
  'So400m': ViTSize(1152, 27, 4304, 16),
  'H': ViTSize(1280, 32, 5120, 16),
  'g': ViTSize(1408, 40, 6144, 16),
  'G': ViTSize(1664, 48, 8192, 16),
  'e': ViTSize(1792, 56, 15360, 16),
  '22B': ViTSize(
    6144, 48, 24576, 48, qk_norm=True, parallel_blocks=True, use_qkv_bias=False, use_norm_bias=False
  ),
}

RESNET_UNITS = {'R50': (3, 4, 6, 3), 'R101': (3, 4, 23, 3), 'R152': (3, 8, 36, 3), 'R200': (3, 24, 36, 3)}

# Hybrid stems, by the downsampling that the name's "/16" or "/32" asks for. ViT 3.1 and Table 6: /16 is the form with
# stage 4 removed and its layers moved to stage 3; /32 is the output of a regular stage 4. R4, one unit, is for small
# images.
STEM_UNITS = {('R50', 16): (3, 4, 9), ('R50', 32): (3, 4, 6, 3), ('R26', 32): (2, 2, 2, 2), ('R4', 4): (1,)}

TINY_RESNET = ResNetVariant((1, 1, 1), width=8, groups=4, small_root=True)

_VIT_PATTERN = re.compile(r'(?:(?P<stem>R\d+)\+)?(?P<size>[A-Za-z0-9]+?)/(?P<patch>\d+)')
_RESNET_PATTERN = re.compile(r'(?P<units>R\d+)x(?P<width>\d+)')


def variant_examples() -> tuple[str, ...]:
  """Returns well-known variant names, for suggestions and help texts."""
  plain = tuple(f'{size}/{patch}' for size in VIT_SIZES for patch in (14, 16, 32))
  hybrid = tuple(f'{stem}+{size}/{patch}' for stem, patch in STEM_UNITS for size in ('S', 'B', 'L'))
  return (*plain, *hybrid, *(f'{units}x1' for units in RESNET_UNITS), 'R-tiny')


def parse_variant(name: str) -> ViTVariant | ResNetVariant:
  """Reads "B/16", "R50+L/32", "R101x3" or "R-tiny" (a three-unit ResNet for small images).

  Raises:
    ValueError: the size, the stem or the form of `name` is not in the tables of this module.
  """
  if name == 'R-tiny':
    return TINY_RESNET
  if match := _RESNET_PATTERN.fullmatch(name):
    if match['units'] in RESNET_UNITS and int(match['width']) > 0:
      return ResNetVariant(RESNET_UNITS[match['units']], width=64 * int(match['width']))
    raise ValueError(f'{name!r}: ResNet depth is one of {", ".join(RESNET_UNITS)}, width a positive multiple')
  match = _VIT_PATTERN.fullmatch(name)
  if match is None or match['size'] not in VIT_SIZES or int(match['patch']) < 1:
    raise ValueError(
      f'{name!r} is not SIZE/PATCH, STEM+SIZE/PATCH or RESNETxWIDTH; sizes: {", ".join(VIT_SIZES)}'
    )
  size, patch = VIT_SIZES[match['size']], int(match['patch'])
  if match['stem'] is None:
    return ViTVariant(size, patch_size=patch, downsample=patch)
  if (match['stem'], patch) not in STEM_UNITS:
    known = ', '.join(f'{stem}+.../{down}' for stem, down in STEM_UNITS)
    raise ValueError(f'{name!r}: hybrid stems are {known}')
  return ViTVariant(size, patch_size=1, stem_units=STEM_UNITS[match['stem'], patch], downsample=patch)
