"""Images at their own aspect ratio (NaFlex), on the device: unpacking, positions of each grid, masked means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vitjax.config.naflex import NUM_PLACE_BYTES
from vitjax.ops.normalize import normalize
from vitjax.ops.positions import Grid, sincos_frequencies


class Places(NamedTuple):
  """Where the patches of a batch stand in their images, int32 [n, l] each; all zero in padding.

  Attributes:
    row: from the top, 0 first.
    column: from the left.
    rows: of the image that the patch belongs to.
    columns: of that image.
  """

  row: jax.Array
  column: jax.Array
  rows: jax.Array
  columns: jax.Array

  def lengths(self) -> jax.Array:
    """Returns int32 [n], the patches of each image, which stand first; at least 1, so that means exist."""
    return jnp.maximum((self.rows > 0).sum(axis=1, dtype=jnp.int32), 1)


class NativeImages(NamedTuple):
  """A batch that a VisionTransformer takes in the place of images.

  Attributes:
    strips: float [n, l * p, p, c], the patches of each image one below the other: to a patch embedding, an image of
      l x 1 patches.
    places: where these patches stand.
  """

  strips: jax.Array
  places: Places


def model_inputs(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array | NativeImages:
  """Returns what a model takes of raw images, normalised. Traced or not; local or global batches.

  Args:
    images: uint8 [n, h, w, 3], or patches [n, l, p * p * 3 + 4] as data.naflex.cut makes them.
    mean: per channel, in [0, 1] pixel units.
    std: per channel.
  """
  if images.ndim == 4:
    return normalize(images, mean, std)
  n, length, width = images.shape
  side = math.isqrt((width - NUM_PLACE_BYTES) // len(mean))
  pixels = images[..., :-NUM_PLACE_BYTES].reshape(n, length * side, side, len(mean))
  places = jnp.asarray(images[..., -NUM_PLACE_BYTES:], jnp.int32)
  return NativeImages(normalize(pixels, mean, std), Places(*jnp.moveaxis(places, -1, 0)))


def axis_samples(place: jax.Array, size: jax.Array, stored: int) -> jax.Array:
  """Returns float32 [n, l, stored], what each stored cell of an axis weighs in cell `place` of `size`. Traced.

  Linear, antialiased where the axis shrinks: as jax.image.resize(..., 'linear') and ops.patches.resize_cells, with a
  size of its own for each patch. With size == stored every weight is 0 or 1.

  Args:
    place: int32 [n, l].
    size: int32 [n, l], cells of the axis in the patch's image; 0 counts as 1.
    stored: cells of the table.
  """
  step = stored / jnp.maximum(size, 1).astype(jnp.float32)
  centre = (place + 0.5) * step - 0.5
  distance = jnp.abs(centre[..., None] - jnp.arange(stored, dtype=jnp.float32)[None, None])
  weights = jnp.maximum(1 - distance / jnp.maximum(step, 1.0)[..., None], 0)
  return weights / weights.sum(axis=-1, keepdims=True)


def sample_cells(cells: jax.Array, stored: Grid, places: Places) -> jax.Array:
  """Returns each patch's position of a table: [n, l, d]; in padding something finite. Traced.

  Args:
    cells: float [1, h * w, d], row by row.
    stored: (h, w).
    places: of the patches.

  Source: SigLIP 2 (arXiv 2502.14786), NaFlex: the table is resized to the grid of each image, antialiased.
  Differs from source: by a product with weights per patch, so that shapes are static and one program serves all grids.
  """
  rows = axis_samples(places.row, places.rows, stored[0])
  columns = axis_samples(places.column, places.columns, stored[1])
  weights = (rows[..., :, None] * columns[..., None, :]).reshape(*rows.shape[:2], -1)
  return _weighted(weights, cells)


def sample_axes(x: jax.Array, y: jax.Array, places: Places) -> jax.Array:
  """Returns the same of two tables, [n, l, d + d]: `x` [1, w, d] of columns first, `y` [1, h, d] of rows."""
  columns = axis_samples(places.column, places.columns, x.shape[1])
  rows = axis_samples(places.row, places.rows, y.shape[1])
  return jnp.concatenate([_weighted(columns, x), _weighted(rows, y)], axis=-1)


def sample_sincos(places: Places, d: int) -> jax.Array:
  """Returns float32 [n, l, d], the rows of `ops.positions.sincos_2d` for each patch. Traced."""
  frequency = jnp.asarray(sincos_frequencies(d), jnp.float32)[None, None]
  x, y = places.column[..., None] * frequency, places.row[..., None] * frequency
  return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=-1)


def _weighted(weights: jax.Array, table: jax.Array) -> jax.Array:
  # Accelerators would round the table to bfloat16 otherwise, where a copy of its rows is asked for.
  total = jnp.einsum(
    'nlc,cd->nld', weights, table[0].astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
  )
  return total.astype(table.dtype)


def masked_mean(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
  """Returns float32 [n, d], the mean of the first lengths [n] of tokens [n, l, d]. Traced."""
  real = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
  total = jnp.where(real[..., None], tokens.astype(jnp.float32), 0.0).sum(axis=1)
  return total / lengths[:, None].astype(jnp.float32)
