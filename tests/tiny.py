"""Tiny recipes that tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from vitjax.checkpoint import manifest, open_checkpoint
from vitjax.checkpoint.reading import read_arrays
from vitjax.config import default_config, evaluator, evaluators, parse_recipe, source_config
from vitjax.config.schema import Recipe


def tiny_config(**edits: Any):
  """Returns the ConfigDict of a two-block ViT on 64 synthetic images; edits are 'a__b': value for config.a.b."""
  config = default_config()
  config.model.variant = 'Ti/4'
  config.model.width = 32
  config.model.depth = 2
  config.model.mlp_dim = 64
  config.model.num_heads = 4
  config.data.source = source_config(kind='synthetic', num_examples=64, num_classes=4)
  config.data.image_size = (16, 16)
  config.data.batch_size = 16
  config.data.crop = 'resize'
  config.data.num_threads = 1
  config.optim.warmup = '2 steps'
  config.optim.peak_lr = 3e-3
  config.total = '20 steps'
  config.checkpoint.every = '5 steps'
  config.log.every = '1 steps'
  config.log.tensorboard = False
  config.log.progress = False
  config.evals = evaluators(
    val=evaluator(
      source=source_config(kind='synthetic', num_examples=24, num_classes=4), batch_size=16, every='10 steps'
    )
  )
  for path, value in edits.items():
    *groups, name = path.split('__')
    node = config
    for group in groups:
      node = node[group]
    node[name] = value
  return config


def tiny_recipe(**edits: Any) -> Recipe:
  """Returns the parsed form of tiny_config(**edits)."""
  return parse_recipe(tiny_config(**edits))


def restore_arrays(path: Any) -> dict[str, np.ndarray]:
  """Returns {'params/a/b': array} of all items of a workdir's newest step, or of one step."""
  step = open_checkpoint(path).path
  entries = manifest.load(step).arrays
  return read_arrays(step, entries, dict.fromkeys(entries))
