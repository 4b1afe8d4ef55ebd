"""What a layer costs: convolution, recurrence and self-attention as formulas in T, d and k, and as code to measure.

T: positions in the sequence. d: features of a position. k: width of a convolution's kernel, in positions.

  layer           parameters      multiply-adds        sequential steps    longest path
  convolution     k d^2 + d       k T d^2              1                   ceil(2 (T - 1) / (k - 1))
  recurrence      2 d^2 + d       2 T d^2              T                   T - 1
  self-attention  4 d^2 + 4 d     2 T^2 d + 4 T d^2    1                   1
    products      0               2 T^2 d
    projections   4 d^2 + 4 d     4 T d^2

Source: Vaswani et al. (arXiv 1706.03762) Table 1, which has k T d^2, T d^2 and T^2 d.
Differs from source: constants are kept; the projections of self-attention, which the table leaves out, are counted;
  the path of a centred convolution, which reaches (k - 1) / 2 to each side, instead of O(T / k).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class LayerCost:
  """The cost of one kind of layer, as formulas and as a function that can be run.

  Attributes:
    name: as in the table of this module.
    formulas: parameters, multiply-adds, sequential steps and longest path, as text.
    leading: multiply-adds as in the paper's table, as text.
    exponents: of T and of d in the multiply-adds, for T much larger than d where that matters.
    num_params: (d, k) -> parameters, biases included.
    num_operations: (T, d, k) -> multiply-adds of matrix products.
    num_steps: T -> steps that cannot run at the same time.
    path: (T, k) -> layers of this kind between the first and the last position.
    init: (key, d, k) -> parameters.
    apply: (parameters, x [n, T, d]) -> [n, T, d].
  """

  name: str
  formulas: tuple[str, str, str, str]
  leading: str
  exponents: tuple[int, int]
  num_params: Callable[[int, int], int]
  num_operations: Callable[[int, int, int], int]
  num_steps: Callable[[int], int]
  path: Callable[[int, int], int]
  init: Callable[[Any, int, int], dict[str, jax.Array]]
  apply: Callable[[dict[str, jax.Array], jax.Array], jax.Array]


def _matrices(key: Any, d: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, jax.Array]:
  """Returns normal arrays of the given shapes, small enough that repeated products stay finite."""
  keys = jax.random.split(key, max(len(shapes), 1))
  return {
    name: jax.random.normal(k, shape) / np.sqrt(d)
    for k, (name, shape) in zip(keys, shapes.items(), strict=False)
  }


def apply_convolution(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Returns a 1-D convolution over positions, zeros around: [n, T, d] -> [n, T, d]. Traced."""
  y = jax.lax.conv_general_dilated(x, params['kernel'], (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC'))
  return y + params['bias'][None, None]


def recurrent_step(params: dict[str, jax.Array], h: jax.Array, x: jax.Array) -> jax.Array:
  """Returns tanh(x W + h U + b), one position of a plain recurrence: [n, d] -> [n, d]. Traced."""
  return jnp.tanh(x @ params['input'] + h @ params['state'] + params['bias'][None])


def apply_recurrence(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Returns all states of a plain recurrence: [n, T, d] -> [n, T, d]. Traced."""

  def step(h: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
    h = recurrent_step(params, h, x_t)
    return h, h

  _, states = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))
  return states.swapaxes(0, 1)


def attention_products(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Returns softmax(x x' / sqrt(d)) x, attention without projections: [n, T, d] -> [n, T, d]. Traced."""
  del params
  return _attend(x, x, x)


def attention_projections(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Returns x through the four projections of self-attention, and nothing else: [n, T, d] -> [n, T, d]. Traced."""
  q, k, v = (_project(params, name, x) for name in ('query', 'key', 'value'))
  return _project(params, 'out', q + k + v)


def apply_attention(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Returns a self-attention layer with one head: [n, T, d] -> [n, T, d]. Traced."""
  q, k, v = (_project(params, name, x) for name in ('query', 'key', 'value'))
  return _project(params, 'out', _attend(q, k, v))


def _project(params: dict[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
  return x @ params[name] + params[f'{name}_bias'][None, None]


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  weights = jax.nn.softmax(jnp.einsum('nqd,ntd->nqt', q, k) / np.sqrt(q.shape[-1]), axis=-1)
  return jnp.einsum('nqt,ntd->nqd', weights, v)


def _init_attention(key: Any, d: int, k: int) -> dict[str, jax.Array]:
  names = ('query', 'key', 'value', 'out')
  return _matrices(key, d, dict.fromkeys(names, (d, d)) | {f'{name}_bias': (d,) for name in names})


def _convolution_path(t: int, k: int) -> int:
  return -(-2 * (t - 1) // (k - 1)) if k > 1 else 0


LAYERS: dict[str, LayerCost] = {
  layer.name: layer
  for layer in (
    LayerCost(
      'convolution',
      ('k d² + d', 'k T d²', '1', '⌈2 (T-1) / (k-1)⌉'),
      'k T d²',
      (1, 2),
      lambda d, k: k * d * d + d,
      lambda t, d, k: k * t * d * d,
      lambda t: 1,
      _convolution_path,
      lambda key, d, k: _matrices(key, d, {'kernel': (k, d, d), 'bias': (d,)}),
      apply_convolution,
    ),
    LayerCost(
      'recurrence',
      ('2 d² + d', '2 T d²', 'T', 'T - 1'),
      'T d²',
      (1, 2),
      lambda d, k: 2 * d * d + d,
      lambda t, d, k: 2 * t * d * d,
      lambda t: t,
      lambda t, k: t - 1,
      lambda key, d, k: _matrices(key, d, {'input': (d, d), 'state': (d, d), 'bias': (d,)}),
      apply_recurrence,
    ),
    LayerCost(
      'attention products',
      ('0', '2 T² d', '1', '1'),
      'T² d',
      (2, 1),
      lambda d, k: 0,
      lambda t, d, k: 2 * t * t * d,
      lambda t: 1,
      lambda t, k: 1,
      lambda key, d, k: {},
      attention_products,
    ),
    LayerCost(
      'attention projections',
      ('4 d² + 4 d', '4 T d²', '1', '-'),
      '-',
      (1, 2),
      lambda d, k: 4 * d * d + 4 * d,
      lambda t, d, k: 4 * t * d * d,
      lambda t: 1,
      lambda t, k: 0,
      _init_attention,
      attention_projections,
    ),
    LayerCost(
      'self-attention',
      ('4 d² + 4 d', '2 T² d + 4 T d²', '1', '1'),
      'T² d',
      (2, 1),
      lambda d, k: 4 * d * d + 4 * d,
      lambda t, d, k: 2 * t * t * d + 4 * t * d * d,
      lambda t: 1,
      lambda t, k: 1,
      _init_attention,
      apply_attention,
    ),
  )
}
