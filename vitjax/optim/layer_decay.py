"""Layer-wise decay of the learning rate, by the layer that a parameter's path names."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.errors import ConfigError, Problem

# Below the blocks: tokens, patches, stem positions, and the ResNet stem of a hybrid.
_BOTTOM = re.compile(r'cls|registers|(embedding|conv_root|gn_root|block\d+)/.*|Transformer/posembed_input/.*')
_BLOCK = re.compile(r'Transformer/encoderblock_(\d+)/.*')
_STACKED = re.compile(r'Transformer/encoderblock/.*')
_TOP = re.compile(r'Transformer/encoder_norm/.*|(MAPHead_0|pool_norm|pre_logits|head|objective)/.*')


def is_stacked(path: str) -> bool:
  """Returns whether the first axis of the parameter at this path counts layers (model.layers='scan')."""
  return _STACKED.fullmatch(path) is not None


def layer_multipliers(params: Any, layer_decay: float) -> dict[str, float | np.ndarray]:
  """Returns {parameter path: what its learning rate is multiplied by}.

  With L blocks, a parameter of layer i gets layer_decay^(L + 1 - i). Layer 0 is everything below the blocks
  (class token, patch embedding, positions, the ResNet stem of a hybrid), layer i + 1 is encoderblock_i, and
  layer L + 1 is the final norm, the pooling head, pre_logits and the head, which keep the full rate.

  Args:
    params: parameters of a transformer, abstract or not, with blocks in loop or in scanned form.
    layer_decay: factor from one layer to the one below, in (0, 1].

  Returns:
    A float, or for stacked blocks a float32 array [L, 1, ...] of the parameter's rank.

  Raises:
    ConfigError: paths that belong to no known layer (all are listed), or no blocks at all.

  Source: BEiT, arXiv 2106.08254, after discriminative fine-tuning in ULMFiT (1801.06146).
  """
  flat = trees.flatten(params)
  indices = [int(match[1]) for path in flat if (match := _BLOCK.fullmatch(path))]
  depths = [leaf.shape[0] for path, leaf in flat.items() if _STACKED.fullmatch(path)]
  depth = max((*(i + 1 for i in indices), *depths), default=0)
  multipliers: dict[str, float | np.ndarray] = {}
  problems = []
  for path, leaf in flat.items():
    if match := _BLOCK.fullmatch(path):
      multipliers[path] = layer_decay ** (depth - int(match[1]))
    elif is_stacked(path):
      column = layer_decay ** np.arange(depth, 0, -1, dtype=np.float64)
      multipliers[path] = column.astype(np.float32).reshape((depth,) + (1,) * (len(leaf.shape) - 1))
    elif _BOTTOM.fullmatch(path):
      multipliers[path] = layer_decay ** (depth + 1)
    elif _TOP.fullmatch(path):
      multipliers[path] = 1.0
    else:
      problems.append(Problem(path, '', 'a parameter below, in or above the encoder blocks of a ViT'))
  if not depth:
    hint = 'Leave optim.layer_decay at 1'
    problems = [Problem('optim.layer_decay', f'{layer_decay:g}', 'a model with encoder blocks', hint)]
  if problems:
    raise ConfigError('layer-wise learning-rate decay does not know which layer these are', problems)
  return multipliers
