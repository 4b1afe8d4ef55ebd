"""What attention and positions look like at this step of training: no labels, no accuracy."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitjax.config.schema import DataConfig, ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.data import Batches
from vitjax.models import position_tables, resolve_variant
from vitjax.models.sizes import num_prefix_tokens
from vitjax.objectives import Objective
from vitjax.ops.attention_distance import patch_distances, query_distances
from vitjax.ops.position_structure import position_structure
from vitjax.parallel.constrain import on_mesh
from vitjax.parallel.interruption import interruption_point
from vitjax.parallel.mesh import replicated, to_global
from vitjax.trees import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class AttentionEvaluator:
  """Mean attention distance of every block, and how far rows and columns explain the position table.

  Attributes:
    objective: gives the attention probabilities.
    model: knobs of the network, a ViT or hybrid.
    data: gives the image size.
    mesh: where batches are placed.
    batches: starts one pass over the images.
  """

  objective: Objective
  model: ModelConfig
  data: DataConfig
  mesh: Mesh
  batches: Callable[[], Batches]
  _step: Any = dataclasses.field(init=False, repr=False)
  _whole: Any = dataclasses.field(init=False, repr=False)

  def __post_init__(self):
    whole = replicated(self.mesh)
    object.__setattr__(self, '_step', jax.jit(on_mesh(self.mesh, self._distances), out_shardings=whole))
    object.__setattr__(self, '_whole', jax.jit(lambda tables: tables, out_shardings=whole))

  @functools.cached_property
  def _layout(self) -> tuple[tuple[int, int], int]:
    """((h, w) patches, pixels from one to the next)."""
    variant = resolve_variant(self.model)
    assert isinstance(variant, ViTVariant), 'checked in config/'
    h, w = self.data.image_size
    return (h // variant.downsample, w // variant.downsample), variant.downsample

  def _distances(self, params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns sums over the real images of one global batch: 'distances' [depth] and 'images'."""
    grid, stride = self._layout
    prefix = num_prefix_tokens(self.model)
    # Block by block, so that only one block's attention has to be held.
    blocks = [
      query_distances(block, grid=grid, stride=stride, num_prefix=prefix).mean(axis=(1, 2))
      for block in self.objective.attention(params, batch['image'])
    ]
    return {'distances': jnp.stack(blocks) @ batch['weight'], 'images': batch['weight'].sum()}

  def run(self, params: Any) -> dict[str, float]:
    """Returns metrics of this step. Called by every process; the same on all.

    'attention_distance_block00' ...: pixels; mean over images, heads and patches (`ops.attention_distance`).
    'attention_distance_uniform': pixels; what looking at all patches alike would give.
    'position_rows', 'position_columns': shares of the table's variance; 'position_structure' is their sum and
    'position_structure_chance' what independent random vectors have (`ops.position_structure`). With a table in
    every block '_block00' ... follows. Missing where there is no additive table.
    'num_examples': images looked at.
    """
    results = []
    with self.batches() as batches:
      for batch in batches:
        interruption_point()
        rows = {name: batch[name] for name in ('image', 'weight')}
        results.append(self._step(params, to_global(self.mesh, rows)))
    sums = jax.device_get(results)
    images = float(np.sum([s['images'] for s in sums], dtype=np.float64))
    means = np.sum([s['distances'] for s in sums], axis=0, dtype=np.float64) / images
    grid, stride = self._layout
    found = {f'attention_distance_block{i:02d}': float(mean) for i, mean in enumerate(means)}
    found['attention_distance_uniform'] = float(patch_distances(grid, stride).mean())
    return found | self._positions(params) | {'num_examples': images}

  def _positions(self, params: Any) -> dict[str, float]:
    leaves = {path: leaf for path, leaf in flatten(params).items() if 'pos_embedding' in path}
    tables = position_tables(self.model, unflatten(jax.device_get(self._whole(leaves))), grid=self._layout[0])
    found = {}
    for place, table in tables.items():
      structure = position_structure(table)
      block = f'_block{int(place.removeprefix("block ")) - 1:02d}' if place.startswith('block ') else ''
      found[f'position_rows{block}'] = structure.rows
      found[f'position_columns{block}'] = structure.columns
      found[f'position_structure{block}'] = structure.rows + structure.columns
      found['position_structure_chance'] = structure.chance
    return found
