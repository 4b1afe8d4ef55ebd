"""Tiny models for the formats of the PyTorch libraries, and files made of them without those libraries."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.weights import read_weights
from vitjax.weights.files import write_json, write_safetensors
from vitjax.weights.imported import Exported, Imported, expected_shapes

TINY = ModelConfig(variant='Ti/16', width=24, depth=2, mlp_dim=48, num_heads=4, gelu='exact')
SIZE = (48, 48)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PREPROCESS = Preprocess(SIZE, *IMAGENET, 'bicubic_antialias', 53)
NAMES = ('cat', 'dog', 'über')


def tiny(**edits: Any) -> ModelConfig:
  """Returns TINY with other knobs."""
  return dataclasses.replace(TINY, **edits)


def random_params(
  model: ModelConfig, num_classes: int = 3, size: tuple[int, int] = SIZE, seed: int = 0
) -> Any:
  """Returns random parameters of the model's shapes and dtype."""
  rng = np.random.default_rng(seed)
  shapes = expected_shapes(model, num_classes=num_classes, image_size=size)
  dtype = np.float32 if model.param_dtype == 'float32' else __import__('ml_dtypes').bfloat16
  return trees.unflatten({path: rng.normal(0, 0.3, shape).astype(dtype) for path, shape in shapes.items()})


def written(folder: pathlib.Path, exported: Exported, **config: Any) -> pathlib.Path:
  """Writes an export into a folder, with some top-level keys of config.json replaced; returns the folder."""
  folder.mkdir(exist_ok=True)
  write_safetensors(folder / 'model.safetensors', exported.arrays, exported.metadata)
  assert exported.config is not None
  write_json(folder / 'config.json', json.loads(json.dumps(exported.config | config)))
  if exported.preprocessor is not None:
    write_json(folder / 'preprocessor_config.json', exported.preprocessor)
  return folder


def reread(folder: pathlib.Path, exported: Exported, **config: Any) -> Imported:
  """Returns what `read_weights` makes of an export."""
  return read_weights(written(folder, exported, **config))


def assert_same_params(found: Any, expected: Any) -> None:
  """Fails unless both trees hold the same bits."""
  found, expected = trees.flatten(found), trees.flatten(expected)
  assert sorted(found) == sorted(expected)
  for path, leaf in expected.items():
    assert found[path].dtype == leaf.dtype, path
    assert found[path].shape == leaf.shape, path
    assert found[path].tobytes() == np.ascontiguousarray(leaf).tobytes(), path
