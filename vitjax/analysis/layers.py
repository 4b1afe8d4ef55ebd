"""What a loaded model computes on its way, as maps on a grid: blocks of a ViT, stages of a ResNet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vitjax.config.variants import ResNetVariant, ViTVariant
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded
from vitjax.models import resolve_variant
from vitjax.models.sizes import num_prefix_tokens


@dataclasses.dataclass(frozen=True)
class TokenLayout:
  """Where a transformer's tokens lie on the image.

  Attributes:
    grid: (h, w) patches.
    stride: pixels from one patch to the next.
    num_prefix: tokens in front of the patches: class token, registers.
    has_class_token: the first token is a class token.
  """

  grid: tuple[int, int]
  stride: int
  num_prefix: int
  has_class_token: bool

  @property
  def num_patches(self) -> int:
    """Patch tokens, h * w."""
    return self.grid[0] * self.grid[1]


def is_transformer(loaded: Loaded) -> bool:
  """Returns whether the model has tokens that attend to each other."""
  return isinstance(resolve_variant(loaded.config), ViTVariant)


def token_layout(loaded: Loaded) -> TokenLayout:
  """Returns where the tokens of a ViT or hybrid lie.

  Raises:
    ConfigError: the model is a ResNet.
  """
  variant = resolve_variant(loaded.config)
  if isinstance(variant, ResNetVariant):
    problem = Problem('model', loaded.config.variant, 'a ViT or a hybrid, which have tokens and attention')
    raise ConfigError('this analysis needs a transformer', [problem])
  h, w = loaded.preprocess.image_size
  return TokenLayout(
    (h // variant.downsample, w // variant.downsample),
    variant.downsample,
    num_prefix_tokens(loaded.config),
    loaded.config.pool == 'token',
  )


def layer_names(loaded: Loaded) -> tuple[str, ...]:
  """Returns the names of `layer_maps`, from input to output: 'block 1' ... or 'stage 1' ..., then 'final norm'."""
  variant = resolve_variant(loaded.config)
  if isinstance(variant, ResNetVariant):
    return (*(f'stage {i + 1}' for i in range(len(variant.units))), 'final norm')
  return (*(f'block {i + 1}' for i in range(variant.size.depth)), 'final norm')


def layer_maps(loaded: Loaded, params: Any, images: jax.Array) -> dict[str, jax.Array]:
  """Returns every layer's output as a map [n, h, w, d]; class token and registers are left out. Traced.

  Args:
    loaded: the model.
    params: its parameters, apart so that they are an argument of the jitted function.
    images: float [n, h, w, 3], preprocessed and normalised.
  """
  _, out = loaded.model.apply({'params': params}, images, train=False, return_features=True)
  n = images.shape[0]
  if not is_transformer(loaded):
    maps = {f'stage {name.removeprefix("stage")}': x for name, x in out.items() if name.startswith('stage')}
    last = list(maps.values())[-1]
    return {**maps, 'final norm': out['tokens'].reshape(n, *last.shape[1:3], -1)}
  layout = token_layout(loaded)
  names = [name for name in sorted(out) if name.startswith('block')]
  maps = dict(zip(layer_names(loaded), [*(out[name] for name in names), out['tokens']], strict=True))
  return {name: x[:, layout.num_prefix :].reshape(n, *layout.grid, -1) for name, x in maps.items()}


def mapped(loaded: Loaded, images: Any, *, batch_size: int = 16) -> Iterator[dict[str, np.ndarray]]:
  """Yields `layer_maps` of the images, batch by batch, as float32 numpy, in the order of `layer_names`."""
  run = jax.jit(functools.partial(layer_maps, loaded))
  for batch in loaded.inputs(images, batch_size):
    # jit hands dicts back sorted by key, with 'block 10' before 'block 2'.
    out = run(loaded.params, batch)
    yield {name: np.asarray(out[name], np.float32) for name in layer_names(loaded)}
