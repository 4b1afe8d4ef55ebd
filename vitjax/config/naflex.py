"""Images at their own aspect ratio (NaFlex): the grid that each is cut into, and how its patches travel.

The input workers and the device both read it. Nothing here imports jax or numpy.
"""

from __future__ import annotations

import dataclasses
import functools

# What stands behind the pixels of each patch, a byte each: its row and column, and the rows and columns of its image.
# All four are zero in padding.
NUM_PLACE_BYTES = 4
_LONGEST = 255  # rows or columns that a byte can count
_CHANNELS = 3


@dataclasses.dataclass(frozen=True)
class NativePatches:
  """Images as a fixed number of patches each, the last ones padding.

  One image makes one row of a batch, as in SigLIP 2 and timm (NaFlex); NaViT packs several into a row. A row per image
  keeps the shape of every array static, the example the unit of order, weights and counts, and attention without
  segments; the price is the padding, which the largest grid within max_tokens keeps small.

  Attributes:
    max_tokens: patches of a row, padding included.
    patch_size: side of a patch, pixels.

  Source: SigLIP 2 (arXiv 2502.14786), NaFlex, after NaViT (2307.06304) and FlexiViT (2212.08013).
  """

  max_tokens: int
  patch_size: int

  @property
  def shape(self) -> tuple[int, int]:
    """Returns the shape of one image on its way to the device, uint8 [l, patch_size**2 * 3 + 4]."""
    return self.max_tokens, self.patch_size**2 * _CHANNELS + NUM_PLACE_BYTES

  @property
  def strip_size(self) -> tuple[int, int]:
    """Returns (height, width) of all patches of a row, one below the other: what a network computes on, pixels."""
    return self.max_tokens * self.patch_size, self.patch_size

  def grid(self, height: int, width: int) -> tuple[int, int]:
    """Returns (rows, columns) of the patches of an image; see `largest_grid`."""
    return largest_grid(height, width, self.max_tokens)

  def resized(self, height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) that an image is resized to, pixels: larger or smaller than it was."""
    rows, columns = self.grid(height, width)
    return rows * self.patch_size, columns * self.patch_size


@functools.lru_cache(maxsize=4096)
def largest_grid(height: int, width: int, max_tokens: int) -> tuple[int, int]:
  """Returns the (rows, columns) of patches that an image is resized to.

  With an image scaled by s, its sides in patches, rounded up, are the grid; taken is the largest s whose grid has at
  most `max_tokens` cells. So the aspect ratio changes by less than a patch, and an image whose sides stand to each
  other as those of a grid with max_tokens cells keeps it exactly.

  Args:
    height: of the image, pixels.
    width: of the image, pixels.
    max_tokens: at least 1.

  Source: SigLIP 2 (arXiv 2502.14786), NaFlex; transformers and timm search s by bisection, here it is exact.
  """
  # The grid changes where a side is a whole number of patches, so one of these is the largest.
  # Scales are compared as fractions (patches, pixels) of the side that is whole.
  best, scale = None, (0, 1)
  for whole, other, is_height in ((height, width, True), (width, height, False)):
    for count in range(1, min(max_tokens, _LONGEST) + 1):
      across = -(-count * other // whole)
      if count * across > max_tokens or across > _LONGEST:
        break
      if count * scale[1] > scale[0] * whole:
        best, scale = ((count, across) if is_height else (across, count)), (count, whole)
  assert best is not None, 'a single patch across the longer side always fits'
  return best
