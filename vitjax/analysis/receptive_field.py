"""Which pixels a layer's central cell depends on, measured with gradients."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.analysis.layers import layer_maps, layer_names
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
  """The effective receptive field of layers' central cells.

  Attributes:
    layers: names.
    maps: float64 [layers, H, W], pixels of the input: root mean square of the derivative of the central cell's
      features; each map sums to 1.
    centre: float64 [layers, 2]: (y, x) of the central cell's middle, pixels.
    radius_50, radius_90: float64 [layers]: radius in pixels around it that holds this share of the map.
  """

  layers: tuple[str, ...]
  maps: np.ndarray
  centre: np.ndarray
  radius_50: np.ndarray
  radius_90: np.ndarray


def radius_holding(weights: np.ndarray, centre: np.ndarray, share: float) -> float:
  """Returns the radius around `centre` within which pixels hold `share` of the weights, in pixels. Host-side.

  Args:
    weights: not negative [H, W].
    centre: (y, x); pixel i covers i to i + 1, so that its middle is at i + 0.5.
    share: in (0, 1).
  """
  y, x = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
  distance = np.hypot(y - centre[0], x - centre[1]).ravel()
  order = np.argsort(distance, kind='stable')
  held = np.cumsum(weights.ravel()[order])
  return float(distance[order][np.searchsorted(held, share * held[-1])])


def receptive_field(
  loaded: Loaded,
  images: Any,
  *,
  layers: tuple[str, ...] | None = None,
  num_probes: int = 4,
  batch_size: int = 4,
  seed: int = 0,
) -> ReceptiveField:
  """Returns how much each input pixel moves the central cell of each layer.

    map(y, x) = sqrt( mean over images of sum over channels c, features f of (d f_centre / d pixel(y, x, c))^2 )

  The sum over features is estimated without bias by random signs s: E[(d sum_f s_f f / d pixel)^2].

  Args:
    loaded: any model.
    images: as for `Loaded.predict`.
    layers: names of `layer_names`; None: all.
    num_probes: random sign vectors per image.
    batch_size: images per gradient.
    seed: of the signs.

  Raises:
    ConfigError: a layer that the model does not have.

  Source: effective receptive fields, Luo et al. (arXiv 1701.04128) section 2.
  Differs from source: all features of the cell instead of one channel's.
  """
  known = layer_names(loaded)
  layers = known if layers is None else layers
  unknown = [name for name in layers if name not in known]
  if unknown:
    raise ConfigError('no such layer', [Problem('layers', name, ', '.join(known)) for name in unknown])
  maps, centres = [], []
  for name in layers:
    run = jax.jit(functools.partial(_squared_gradient, loaded, name))
    energy, count = 0.0, 0
    for i, batch in enumerate(loaded.inputs(images, batch_size)):
      keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), num_probes)
      squared, centre = run(loaded.params, batch, keys)
      energy, count = energy + np.asarray(squared, np.float64), count + len(batch)
    rms = np.sqrt(energy / count)
    maps.append(rms / max(rms.sum(), 1e-300))
    centres.append(np.asarray(centre, np.float64))
  radii = [[radius_holding(m, c, share) for m, c in zip(maps, centres, strict=True)] for share in (0.5, 0.9)]
  return ReceptiveField(
    tuple(layers), np.stack(maps), np.stack(centres), np.array(radii[0]), np.array(radii[1])
  )


def _squared_gradient(
  loaded: Loaded, layer: str, params: Any, images: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the squared gradient [H, W] of the centre's features times random signs, the mean over keys and the
  sum over images, and the centre (y, x)."""
  _, height, width, _ = images.shape

  def centre_of(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps = layer_maps(loaded, params, x)[layer]
    _, h, w, d = maps.shape
    signs = jax.random.rademacher(key, (len(x), d), jnp.float32)
    place = jnp.array([(h // 2 + 0.5) * height / h, (w // 2 + 0.5) * width / w])
    return jnp.sum(maps[:, h // 2, w // 2].astype(jnp.float32) * signs), place

  def squared(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    gradient, place = jax.grad(centre_of, has_aux=True)(images, key)
    return jnp.sum(gradient.astype(jnp.float32) ** 2, axis=(0, 3)), place

  maps, places = jax.lax.map(squared, keys)
  return maps.mean(axis=0), places[0]
