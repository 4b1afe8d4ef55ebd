"""The additive position tables of a transformer, picked from its parameters."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.models.layout import unstack_blocks
from vitjax.models.sizes import resolve_variant
from vitjax.ops.positions import sincos_2d
from vitjax.trees import flatten

_BLOCK = re.compile(r'.*/encoderblock_(\d+)/.*')


def position_tables(config: ModelConfig, params: Any, *, grid: tuple[int, int]) -> dict[str, np.ndarray]:
  """Returns the additive position tables by place, float32 [h, w, d]; {} where there is none. Host-side.

  Keys are 'stem', 'every block' (one table that all blocks add), or 'block 1' ... The class token's row is left
  out. Models without positions, with relative ones, and ResNets have no such table.

  Args:
    config: of the model.
    params: nested dict; leaves other than the position embeddings may be missing.
    grid: (h, w) patches.
  """
  variant = resolve_variant(config)
  if not isinstance(variant, ViTVariant) or config.position in ('none', 'relative'):
    return {}
  h, w = grid
  whole = 'stem' if config.position_at == 'stem' else 'every block'
  if config.position == 'sincos_2d':
    return {whole: sincos_2d(h, w, variant.size.width).reshape(h, w, -1)}
  flat, tables = flatten(unstack_blocks(params)), {}
  for path, leaf in flat.items():
    block = _BLOCK.fullmatch(path)
    place = whole if block is None else f'block {int(block[1]) + 1}'
    if path.endswith('/pos_embedding'):
      tables[place] = np.asarray(leaf, np.float32)[0, -h * w :].reshape(h, w, -1)
    elif path.endswith('/pos_embedding_x'):
      x = np.asarray(leaf, np.float32)[0]
      y = np.asarray(flat[path.removesuffix('_x') + '_y'], np.float32)[0]
      left, right = np.broadcast_to(x, (h, *x.shape)), np.broadcast_to(y[:, None], (h, w, y.shape[1]))
      tables[place] = np.concatenate([left, right], axis=-1)
  return dict(sorted(tables.items(), key=lambda item: (len(item[0]), item[0])))
