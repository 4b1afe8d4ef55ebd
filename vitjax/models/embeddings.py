"""Tokens and their positions: patch embedding checks, and every kind of position table."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.errors import DataError, Problem
from vitjax.ops.naflex import Places, sample_axes, sample_cells, sample_sincos
from vitjax.ops.patches import pi_resize, resize_cells
from vitjax.ops.positions import Grid, num_relative_keys, relative_index, sincos_2d

Array = jax.Array
DType = Any


class PositionTable(nn.Module):
  """The position information of one place in the network; parameters by kind, all normal(0.02):

    learned_1d  pos_embedding [1, c + h*w, d]: one row per class token and patch (c = 1 with a class token)
    learned_2d  pos_embedding_x [1, w, d/2] and pos_embedding_y [1, h, d/2], concatenated x first; with a
                class token also pos_embedding_cls [1, 1, d], its own position as in learned_1d
    sincos_2d   none; the class token gets zeros
    relative    relative_keys [r, e], shared by the heads; rows as ops.positions.relative_index says

  Registers get zeros in the additive kinds: they are free vectors already.

  Attributes:
    kind: one of the four above.
    grid: (h, w) patches.
    num_class_tokens: 0 or 1, first in the sequence.
    num_registers: tokens between the class token and the patches.
    width: d; for 'relative' the head dim e.
    dtype: dtype of the result.
    param_dtype: dtype of the parameters.
    table_grid: (h, w) that learned tables are stored for, and resized from; None: `grid`.

  Source: ViT (arXiv 2010.11929) D.4; sincos_2d: 2205.01580; table_grid: FlexiViT 2212.08013.
  """

  kind: str
  grid: tuple[int, int]
  num_class_tokens: int
  num_registers: int
  width: int
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32
  table_grid: Grid | None = None

  @nn.compact
  def __call__(self, places: Places | None = None) -> Array:
    """Returns [1, l, d] to add to the tokens, or for 'relative' [l, l, e] keys of each (query, key) pair.

    With `places` of patches in images at their own aspect ratio, [n, l, d]: tables are resized from table_grid to the
    grid of each image. Additive kinds alone.
    """
    if places is not None:
      return self._of_places(places)
    h, w = self.grid
    if self.kind == 'relative':
      num_prefix = self.num_class_tokens + self.num_registers
      keys = self._table('relative_keys', (num_relative_keys(h * w, num_prefix), self.width))
      return keys[relative_index(h * w, num_prefix)]
    if self.kind == 'learned_1d':
      stored = self.table_grid or self.grid
      table = self._table('pos_embedding', (1, self.num_class_tokens + math.prod(stored), self.width))
      first, cells = table[:, : self.num_class_tokens], table[:, self.num_class_tokens :]
      cells = resize_cells(cells, stored, self.grid)
    elif self.kind == 'learned_2d':
      first, cells = self._two_tables()
    else:
      cells = jnp.asarray(sincos_2d(h, w, self.width), self.dtype)[None]
      first = jnp.zeros((1, self.num_class_tokens, self.width), self.dtype)
    registers = jnp.zeros((1, self.num_registers, self.width), self.dtype)
    return jnp.concatenate([first, registers, cells], axis=1)

  def _of_places(self, places: Places) -> Array:
    """Returns [n, l, d], the positions of patches in images of several grids."""
    stored = self.table_grid or self.grid
    first = jnp.zeros((1, self.num_class_tokens, self.width), self.dtype)
    if self.kind == 'learned_1d':
      table = self._table('pos_embedding', (1, self.num_class_tokens + math.prod(stored), self.width))
      first = table[:, : self.num_class_tokens]
      cells = sample_cells(table[:, self.num_class_tokens :], stored, places)
    elif self.kind == 'learned_2d':
      half = self.width // 2
      x = self._table('pos_embedding_x', (1, stored[1], half))
      y = self._table('pos_embedding_y', (1, stored[0], half))
      cells = sample_axes(x, y, places)
      if self.num_class_tokens:
        first = self._table('pos_embedding_cls', (1, 1, self.width))
    else:
      assert self.kind == 'sincos_2d', 'checked in config/'
      cells = sample_sincos(places, self.width).astype(self.dtype)
    registers = jnp.zeros((1, self.num_registers, self.width), self.dtype)
    prefix = jnp.concatenate([first, registers], axis=1)
    return jnp.concatenate([jnp.broadcast_to(prefix, (len(cells), *prefix.shape[1:])), cells], axis=1)

  def _two_tables(self) -> tuple[Array, Array]:
    """Returns learned_2d's rows: [1, c, d] of the class token, [1, h * w, d] of the grid."""
    (h, w), half = self.grid, self.width // 2
    rows, columns = self.table_grid or self.grid
    x = resize_cells(self._table('pos_embedding_x', (1, columns, half)), (1, columns), (1, w))
    y = resize_cells(self._table('pos_embedding_y', (1, rows, half)), (1, rows), (1, h))
    x = jnp.broadcast_to(x[:, None], (1, h, w, half))
    y = jnp.broadcast_to(y[:, :, None], (1, h, w, half))
    cells = jnp.concatenate([x, y], axis=-1).reshape(1, h * w, self.width)
    if not self.num_class_tokens:
      return jnp.zeros((1, 0, self.width), self.dtype), cells
    return self._table('pos_embedding_cls', (1, 1, self.width)), cells

  def _table(self, name: str, shape: tuple[int, ...]) -> Array:
    """Returns a learned table in `dtype`; a stored one must have been made for this grid."""
    if self.has_variable('params', name):
      stored = jnp.shape(self.get_variable('params', name))
      if stored != shape:
        h, w = self.grid
        where, found = '/'.join((*self.path, name)), f'a table of shape {stored}'
        expected = f'{shape}, since the images make a {h}x{w} grid of patches'
        hint = 'Give images of the size the model was made for, or resample the table: ops.positions'
        raise DataError('the images do not fit the position table', [Problem(where, found, expected, hint)])
    return self.param(name, nn.initializers.normal(0.02), shape, self.param_dtype).astype(self.dtype)


class ResizedPatchEmbedding(nn.Module):
  """The patch embedding of a model run on patches of another size than its kernel is stored for.

  Parameters as nn.Conv's: kernel [p, p, c, d], bias [d].

  Attributes:
    width: d.
    stored_size: p, side of the patches that the kernel is stored for.
    patch_size: side of the patches of this run.
    dtype: compute dtype; the kernel is resized in float32.
    param_dtype: dtype of the parameters.

  Source: FlexiViT (arXiv 2212.08013) 3.4.
  """

  width: int
  stored_size: int
  patch_size: int
  dtype: DType = jnp.float32
  param_dtype: DType = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Returns [n, h, w, d] from pixels [n, h * patch_size, w * patch_size, c]."""
    shape = (self.stored_size, self.stored_size, x.shape[-1], self.width)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape, self.param_dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.width,), self.param_dtype)
    kernel = pi_resize(kernel, self.patch_size).astype(self.dtype)
    y = jax.lax.conv_general_dilated(
      x, kernel, (self.patch_size, self.patch_size), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return y + bias.astype(self.dtype)[None, None, None]


def check_images(images: Array) -> None:
  """Raises DataError unless `images` is a float array [n, h, w, c]."""
  problems = []
  if images.ndim != 4:
    problems.append(
      Problem('images', f'shape {images.shape}', '[n, h, w, c]', 'Add a batch axis to a single image')
    )
  if not jnp.issubdtype(images.dtype, jnp.floating):
    problems.append(
      Problem('images', f'dtype {images.dtype}', 'floating point', 'Normalise raw pixels first')
    )
  if problems:
    raise DataError('the model cannot take these images', problems)


def check_channels(kernel_path: str, kernel: Any, images: Array) -> None:
  """Raises DataError when the stored first kernel (HWIO) was made for another number of channels."""
  expected, found = np.shape(kernel)[2], images.shape[-1]
  if expected != found:
    hint = f'{kernel_path} has shape {np.shape(kernel)}'
    raise DataError(
      'the model cannot take these images', [Problem('images', f'{found} channels', str(expected), hint)]
    )


def check_patches(
  grid: tuple[int, ...], patch_size: int, image_size: tuple[int, ...], *, hybrid: bool
) -> None:
  """Raises DataError unless patches of `patch_size` tile `grid`, the pixels or a hybrid's feature map."""
  if all(side > 0 and side % patch_size == 0 for side in grid):
    return
  found, expected = f'{image_size[0]}x{image_size[1]} pixels', f'multiples of the patch size, {patch_size}'
  if hybrid:
    hint = f'The ResNet stem makes a feature map of {grid[0]}x{grid[1]} of them; patches tile that map'
  else:
    sizes = [[max(side // patch_size + more, 1) * patch_size for side in grid] for more in (0, 1)]
    hint = f'Resize or crop, such as to {sizes[0][0]}x{sizes[0][1]} or {sizes[1][0]}x{sizes[1][1]}'
  raise DataError('patches do not tile the images', [Problem('images', found, expected, hint)])
