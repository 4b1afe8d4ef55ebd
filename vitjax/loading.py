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


def load(source: str | os.PathLike[str]) -> Loaded:
  """Returns the model of a vitjax workdir or checkpoint step, whatever topology wrote it.

  Args:
    source: a workdir (its newest step), WORKDIR/checkpoints, or one step's folder.

  Raises:
    CheckpointError: no checkpoint there, or a damaged one, with the array's name.
    ConfigError: a stored recipe of another version that this one cannot read.
  """
  meta = read_meta(source)
  recipe = recipe_from_json(meta['recipe'])
  params = restore_params(source)
  return Loaded(
    model=build_model(recipe.model, num_classes=recipe.model.num_classes),
    params=params,
    preprocess=Preprocess.from_json(meta['preprocess']),
    class_names=tuple(meta['class_names']),
    recipe=recipe,
    step=open_checkpoint(source).step,
  )
