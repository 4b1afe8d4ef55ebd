"""A tiny transformer with random parameters, and its files in the released layouts."""

from __future__ import annotations

import numpy as np
import official_files
from official_files import FAMILIES

from vitjax.config.schema import ModelConfig
from vitjax.weights import npz
from vitjax.weights.files import Entry
from vitjax.weights.imported import expected_shapes

TINY = ModelConfig(variant='Ti/4', width=24, depth=3, mlp_dim=40, num_heads=4)
SIZE = (16, 16)
CLASSES = 7


def random_flat(model, *, num_classes=CLASSES, size=SIZE, dtype=np.float32, seed=0):
  """Returns random parameters by path, with a class row of zeros, so that all families can hold them."""
  rng = np.random.default_rng(seed)
  shapes = expected_shapes(model, num_classes=num_classes, image_size=size)
  flat = {path: rng.normal(0, 0.3, shape).astype(dtype) for path, shape in shapes.items()}
  if model.pool == 'token' and npz.POSITIONS in flat:
    flat[npz.POSITIONS][:, 0] = 0
  return flat


def write_family(path, flat, family, depth=TINY.depth):
  np.savez(path, **official_files.vit_file(flat, depth, family))
  return path


def assert_equal(found, expected):
  assert sorted(found) == sorted(expected)
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape, name
    assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


def zeros_entries(shapes):
  """Returns entries that take no memory, for files of full size."""
  return {
    name: Entry(shape, np.dtype(np.float32), lambda shape=shape: np.broadcast_to(np.float32(0), shape))
    for name, shape in shapes.items()
  }


def export_options(name):
  family = FAMILIES[name]
  layout = 'big_vision' if not family.class_row else 'linen' if family.norm == 'LayerNorm_1' else 'official'
  return {'layout': layout, 'prefix': family.prefix, **({'scanned': True} if family.scanned else {})}
