"""Checkpoints as models that predict: `vitjax.load(path)`, on whatever machine is at hand."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from vitjax.checkpoint import open_checkpoint, read_meta, restore_params
from vitjax.config import recipe_from_json
from vitjax.config.schema import Recipe
from vitjax.data import Preprocess
from vitjax.models import build_model
from vitjax.ops.normalize import normalize


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A restored model with all it needs to be used.

  Attributes:
    model: Linen module; model.apply({'params': params}, images) with images float [n, h, w, 3], preprocessed.
    params: nested dict of arrays.
    preprocess: how any image becomes a uint8 [h, w, 3] input, and the normalisation that follows.
    class_names: name of each output.
    recipe: what the model was trained with.
    step: optimiser steps done.
  """

  model: Any
  params: Any
  preprocess: Preprocess
  class_names: tuple[str, ...]
  recipe: Recipe
  step: int

  def predict(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
    """Returns logits, float32 [n, v].

    Args:
      images: one image or a sequence of paths, encoded bytes, PIL images or uint8 [h, w, 3] arrays, each of
        which is preprocessed; or a float32 array [n, h, w, 3], which is taken as already preprocessed.
      batch_size: images per forward pass.

    Raises:
      DataError: an image that cannot be read, with its name.
    """
    return np.concatenate([self._logits(self.params, x) for x in self._inputs(images, batch_size)])

  @functools.cached_property
  def _logits(self) -> Any:
    return jax.jit(lambda params, images: self.model.apply({'params': params}, images, train=False))

  def _inputs(self, images: Any, batch_size: int) -> Iterable[np.ndarray]:
    """Yields preprocessed float32 batches of up to batch_size images."""
    if isinstance(images, np.ndarray | jax.Array) and images.ndim == 4 and images.dtype == np.float32:
      for start in range(0, len(images), batch_size):
        yield np.asarray(images[start : start + batch_size])
      return
    several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
    if isinstance(images, np.ndarray) and images.ndim == 4:
      several = True
    images = list(images) if several else [images]
    for start in range(0, len(images), batch_size):
      raw = np.stack([self.preprocess(image) for image in images[start : start + batch_size]])
      yield np.asarray(normalize(raw, self.preprocess.mean, self.preprocess.std))


@dataclasses.dataclass(frozen=True)
class StoredRun:
  """What a vitjax checkpoint holds besides optimiser state.

  Attributes:
    params: the weights that evaluation used: averaged ones where optim.ema_decay is set.
    recipe: what the run was asked to do.
    meta: the JSON beside the arrays: 'preprocess', 'class_names', 'metrics', 'versions' ...
    step: optimiser steps done.
  """

  params: Any
  recipe: Recipe
  meta: dict[str, Any]
  step: int


def read_run(source: str | os.PathLike[str], *, as_numpy: bool = False) -> StoredRun:
  """Returns the verified weights and the recipe of a vitjax workdir (its newest step) or checkpoint step.

  Args:
    source: a workdir, WORKDIR/checkpoints, or one step's folder.
    as_numpy: leave the arrays in host memory; otherwise they are on the first local device.

  Raises:
    CheckpointError: no checkpoint there, or a damaged one, with the array's name.
    ConfigError: a stored recipe of another version that this one cannot read.
  """
  found = open_checkpoint(source)
  meta = read_meta(found.path)
  recipe = recipe_from_json(meta['recipe'])
  subtree = 'params' if recipe.optim.ema_decay is None else 'aux/ema_params'
  return StoredRun(restore_params(found.path, subtree=subtree, as_numpy=as_numpy), recipe, meta, found.step)


def load(source: str | os.PathLike[str]) -> Loaded:
  """Returns the model of a vitjax workdir or checkpoint step, whatever topology wrote it.

  Args:
    source: a workdir (its newest step), WORKDIR/checkpoints, or one step's folder.

  Raises:
    CheckpointError: no checkpoint there, or a damaged one, with the array's name.
    ConfigError: a stored recipe of another version that this one cannot read.
  """
  run = read_run(source)
  return Loaded(
    model=build_model(run.recipe.model, num_classes=run.recipe.model.num_classes),
    params=run.params,
    preprocess=Preprocess.from_json(run.meta['preprocess']),
    class_names=tuple(run.meta['class_names']),
    recipe=run.recipe,
    step=run.step,
  )
