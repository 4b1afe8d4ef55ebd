"""Models for timm: arrays and config.json that its `create_model` loads. Host-side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.errors import Problem
from vitjax.weights import timm_config, timm_names
from vitjax.weights.imported import Exported, Size, raise_problems
from vitjax.weights.links import save_links
from vitjax.weights.pytorch import POSITIONS, checked_params, with_learned_positions


def export(
  params: Mapping[str, Any],
  model: ModelConfig,
  num_classes: int,
  image_size: Size,
  preprocess: Preprocess,
  class_names: Sequence[str] | None = None,
) -> Exported:
  """Returns arrays and config.json that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads.

  Args:
    params: the parameters, blocks in either form, numpy or jax arrays.
    model: their model.
    num_classes: outputs of the head; 0: no head.
    image_size: (h, w) that the position table is for.
    preprocess: what the model was evaluated with.
    class_names: name of each output, or None.

  Raises:
    CheckpointError: parameters that are not the model's, or a knob that timm cannot express. Lists all.
  """
  flat, variant = checked_params(params, model, num_classes, image_size, library='timm')
  problems = []
  if model.norm_eps != 1e-6:
    hint = 'timm fixes 1e-6; model.norm_eps=1e-6 changes the outputs a little'
    problems.append(Problem('model.norm_eps', str(model.norm_eps), '1e-06', hint))
  if model.representation_size is not None:
    expected = 'None: timm has dropped this layer'
    problems.append(Problem('model.representation_size', str(model.representation_size), expected))
  raise_problems('the model cannot be written for timm', problems)
  grid = (image_size[0] // variant.downsample, image_size[1] // variant.downsample)
  flat, baked = with_learned_positions(flat, model, grid)
  table = flat[POSITIONS]
  has_class_row = model.pool == 'token' and bool(table[:, 0].any())
  shapes = {path: leaf.shape for path, leaf in flat.items()}
  links = timm_names.links_of(shapes, has_class_row=has_class_row, stem_units=variant.stem_units)
  arrays = save_links(links, flat)
  if has_class_row and model.num_registers:
    rows = np.zeros((1, model.num_registers, table.shape[-1]), table.dtype)
    arrays['pos_embed'] = np.concatenate([table[:, :1], rows, table[:, 1:]], axis=1)
  config, lost = timm_config.write_config(
    model, variant, num_classes, image_size, preprocess, class_names, has_class_row=has_class_row
  )
  return Exported(arrays, config, (*baked, *lost), {'format': 'pt'})
