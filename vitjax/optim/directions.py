"""Gradients -> the direction of a step, before any rate or decay: one optax transformation per optim.name."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitjax import trees
from vitjax.config.schema import OptimConfig

Params = Any

MUON_RMS = 0.2  # of Muon's direction, which is about Adam's, so that rates and decay carry over
# Matrices that Muon takes: their rank without a stacked layer axis, and how many of their last axes are outputs. The
# rest (patches, positions, norms, biases, head) goes to Adam.
_MUON_MATRICES = (
  (re.compile(r'.*encoderblock(_\d+)?/.*/(query|key|value)/kernel'), 3, 2),
  (re.compile(r'.*encoderblock(_\d+)?/.*/out/kernel'), 3, 1),
  (re.compile(r'.*encoderblock(_\d+)?/.*/Dense_\d+/kernel'), 2, 1),
  (re.compile(r'block\d+/unit\d+/conv.*/kernel'), 4, 1),
)


def direction(config: OptimConfig) -> optax.GradientTransformation:
  """Returns the transformation from (clipped) gradients g of step t = 1, 2, ... to the direction u.

    sgd         m = momentum m + g; u = m, or momentum m + g with nesterov
    adamw       u = m' / (sqrt(v') + eps): bias-corrected averages of g (b1) and g^2 (b2)
    lamb        the same; `make_optimizer` adds the decay, then scales each array by |w| / |u|
    lion        u = sign(b1 m + (1 - b1) g), then m = b2 m + (1 - b2) g
    adafactor   u = average (momentum, not bias-corrected) of g / sqrt(v), where v averages g^2 + 1e-30 with
                weight min(b2, 1 - t^-0.8), and is kept as its row and column means for arrays whose two largest
                dimensions have at least factor_min_dim entries
    muon        matrices inside blocks: u = 0.2 sqrt(max(fan in, fan out)) O, where O is the nearest
                semi-orthogonal matrix (five Newton-Schulz steps) of Nesterov's momentum; all else: adamw

  Averages are kept in momentum_dtype and multiplied in float32; second moments are float32.

  Source: Adam 1412.6980; LAMB 1904.00962; Lion 2302.06675; Adafactor 1804.04235 as modified in Scaling ViT
    (2106.04560) section 3.4, with big_vision's factor_min_dim of 32; Muon: K. Jordan 2024, its scale from 2502.16982.
  Differs from source: with model.layers='scan' a stacked array has one more dimension, which Adafactor may count among
    its two largest when blocks are many and the array is small. Muon takes an attention projection as one matrix
    over all heads, and a convolution as one from patch to channels.
  """
  dtype = jnp.dtype(config.momentum_dtype)
  # Times a numpy float32, a bfloat16 moment becomes float32; a Python float would be rounded to bfloat16.
  momentum, b1 = np.float32(config.momentum), np.float32(config.b1)
  adam = optax.scale_by_adam(b1, config.b2, config.eps, mu_dtype=dtype)
  if config.name in ('adamw', 'lamb'):
    return adam
  if config.name == 'lion':
    return optax.scale_by_lion(b1, np.float32(config.b2), mu_dtype=dtype)
  if config.name == 'adafactor':
    return _adafactor(config)
  if config.name == 'muon':
    muon = optax.contrib.scale_by_muon(
      beta=momentum, mu_dtype=dtype, weight_dimension_numbers=_dimension_numbers
    )
    return optax.partition(
      {'muon': optax.chain(muon, optax.stateless(_muon_scale)), 'adam': adam}, _muon_labels
    )
  if config.momentum == 0:
    return optax.identity()
  return optax.trace(momentum, config.nesterov, accumulator_dtype=dtype)


def _adafactor(config: OptimConfig) -> optax.GradientTransformation:
  def weight_of_the_past(step: jax.Array, exponent: float) -> jax.Array:
    return jnp.minimum(config.b2, 1.0 - (jnp.asarray(step, jnp.float32) + 1.0) ** -exponent)

  scaled = optax.scale_by_factored_rms(
    min_dim_size_to_factor=config.factor_min_dim, decay_rate_fn=weight_of_the_past
  )
  if config.momentum == 0:
    return scaled
  dtype = jnp.dtype(config.momentum_dtype)
  return optax.chain(scaled, optax.ema(np.float32(config.momentum), debias=False, accumulator_dtype=dtype))


def _muon_scale(updates: Params, params: Params | None = None) -> Params:
  """Returns orthogonal matrices scaled to an RMS of MUON_RMS whatever their shape."""
  del params

  def scaled(path: str, update: jax.Array) -> jax.Array:
    inputs, outputs = (math.prod(update.shape[axis] for axis in axes) for axes in _matrix_axes(path))
    return update * (MUON_RMS * math.sqrt(max(inputs, outputs)))

  return trees.map_with_path(scaled, updates)


def is_muon_matrix(path: str) -> bool:
  """Returns whether Muon orthogonalises the parameter at this path; Adam takes the others."""
  return any(pattern.fullmatch(path) for pattern, _, _ in _MUON_MATRICES)


def _muon_labels(tree: Params) -> Params:
  return trees.map_with_path(lambda path, _: 'muon' if is_muon_matrix(path) else 'adam', tree)


def _dimension_numbers(tree: Params) -> Params:
  return trees.map_with_path(lambda path, _: optax.contrib.MuonDimensionNumbers(*_matrix_axes(path)), tree)


def _matrix_axes(path: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns the input and the output axes of a matrix, counted from the end: stacked layers stay a batch."""
  rank, outputs = next((r, o) for pattern, r, o in _MUON_MATRICES if pattern.fullmatch(path))
  return tuple(range(-rank, -outputs)), tuple(range(-outputs, 0))
