"""The PyTorch libraries that vitjax exchanges weights with: imported where they are installed, skipped elsewhere."""

from __future__ import annotations

import importlib
import pathlib
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.models import build_model
from vitjax.weights.files import read_safetensors, write_json, write_safetensors
from vitjax.weights.imported import Exported, Imported, expected_shapes


def import_peer(name: str) -> Any:
  """Returns the module `name` ('timm', 'transformers' ...), or skips the test that asks for it.

  Both libraries import torchvision, whose start-up declares shape rules for compiled operators. A torchvision
  built for another torch has no compiled operators, and the declarations fail. Nothing here calls such an
  operator, so the module with the declarations is replaced by an empty one.
  """
  pytest.importorskip('torch')
  rules = 'torchvision._meta_registrations'
  if 'torchvision' not in sys.modules:
    sys.modules.setdefault(rules, types.ModuleType(rules))
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    try:
      return importlib.import_module(name)
    except ImportError as error:
      pytest.skip(f'{name}: {error}')


def randomise(model: Any, seed: int = 0) -> Any:
  """Returns the PyTorch model with every weight random, also those that start at zero or one; in eval mode.

  Kernels keep outputs near 1, gains are around 1 (LayerScale around 0.5), all else around 0, so that an array
  that is not loaded, or loaded into a wrong place, shows in the outputs.
  """
  import torch

  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, value in model.named_parameters():
      noise = torch.randn(value.shape, generator=generator)
      if value.ndim >= 2 and not any(token in name for token in ('token', 'pos', 'probe', 'latent')):
        value.copy_(noise / value[0].numel() ** 0.5)
      elif name.endswith(('gamma', 'lambda1')):
        value.copy_(0.5 + 0.1 * noise)
      elif value.ndim == 1 and name.endswith('weight'):
        value.copy_(1 + 0.2 * noise)
      else:
        value.copy_(0.5 * noise)
  return model.eval()


def arrays_of(model: Any) -> dict[str, np.ndarray]:
  """Returns the state dict of a PyTorch model as numpy arrays."""
  return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def random_images(size: tuple[int, int], num: int = 2, seed: int = 1) -> np.ndarray:
  """Returns normalised images, float32 [num, h, w, 3]."""
  return np.random.default_rng(seed).standard_normal((num, *size, 3), dtype=np.float32)


def outputs_of(model: Any, images: np.ndarray, pick: Callable[[Any], Any] = lambda out: out) -> np.ndarray:
  """Returns what a PyTorch model makes of NHWC images, a few at a time."""
  import torch

  with torch.inference_mode():
    batches = [
      pick(model(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy()))).numpy()
      for batch in np.array_split(images, -(-len(images) // 2))
    ]
  return np.concatenate(batches)


def our_outputs(imported: Imported, images: np.ndarray) -> np.ndarray:
  """Returns the logits (or features) that vitjax computes, a few at a time."""
  model = build_model(imported.model, num_classes=imported.num_classes)
  run = jax.jit(lambda params, x: model.apply({'params': params}, x, train=False))
  batches = np.array_split(images, -(-len(images) // 2))
  return np.concatenate([np.asarray(run(imported.params, batch)) for batch in batches])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
  """Returns max |found - expected| / max |expected|; fails when shapes differ."""
  assert found.shape == expected.shape
  return float(np.abs(found - expected).max() / np.abs(expected).max())


def random_import(model: ModelConfig, *, num_classes: int, size: tuple[int, int]) -> Any:
  """Returns random parameters for a model, by shape alone."""
  rng = np.random.default_rng(0)
  shapes = expected_shapes(model, num_classes=num_classes, image_size=size)
  return trees.unflatten(
    {path: rng.normal(0, 0.3, shape).astype(np.float32) for path, shape in shapes.items()}
  )


def changed_arrays(before: pathlib.Path, after: pathlib.Path) -> set[str]:
  """Returns the names of arrays in two folders' model.safetensors that are not the same, bit by bit."""
  old, new = (read_safetensors(folder / 'model.safetensors')[0] for folder in (before, after))
  both = set(old) & set(new)
  return (set(old) ^ set(new)) | {
    name for name in both if old[name].read().tobytes() != new[name].read().tobytes()
  }


def write_folder(folder: pathlib.Path, exported: Exported) -> pathlib.Path:
  """Writes model.safetensors, config.json and what else an export has into a folder; returns it."""
  folder.mkdir(exist_ok=True, parents=True)
  write_safetensors(folder / 'model.safetensors', exported.arrays, exported.metadata)
  assert exported.config is not None
  write_json(folder / 'config.json', exported.config)
  if exported.preprocessor is not None:
    write_json(folder / 'preprocessor_config.json', exported.preprocessor)
  return folder
