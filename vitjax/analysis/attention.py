"""How far heads look: attention distance, and the receptive field that convolutions need layers for."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.analysis.layers import TokenLayout, token_layout
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded
from vitjax.models import stack_attention
from vitjax.ops import attention_distance as attention_distance_ops
from vitjax.ops.attention_distance import patch_distances


@dataclasses.dataclass(frozen=True)
class AttentionDistance:
  """Mean distance between a patch and what it attends to, per layer and head.

  Attributes:
    mean: float64 [depth, k], pixels, over all queries of all images.
    spread: float64 [depth, k], pixels: the standard deviation of the same over queries and images.
    width: pixels of the image's width; mean / width is the share.
    uniform: pixels; the distance of a head that looks at all patches alike.
    renormalized: rows were divided by what is left of them without class token and registers.
  """

  mean: np.ndarray
  spread: np.ndarray
  width: int
  uniform: float
  renormalized: bool

  @property
  def share(self) -> np.ndarray:
    """Mean distance as a share of the image's width, float64 [depth, k]."""
    return self.mean / self.width


def query_distances(attention: Any, layout: TokenLayout, *, renormalize: bool = True) -> jax.Array:
  """Returns how far each patch looks, pixels, float32 [n, depth, k, h * w]: `ops.attention_distance` on a layout.

  Args:
    attention: probabilities [n, depth, k, l, l], rows sum to 1.
    layout: of the tokens. Queries and keys that are no patches (class token, registers) are left out.
    renormalize: divide by what the row gives to patches, see there.
  """
  return attention_distance_ops.query_distances(
    attention,
    grid=layout.grid,
    stride=layout.stride,
    num_prefix=layout.num_prefix,
    renormalize=renormalize,
  )


def attention_distance(
  loaded: Loaded, images: Any, *, renormalize: bool = True, batch_size: int = 8
) -> AttentionDistance:
  """Returns the mean attention distance of every head over images; the paper takes 128.

  Args:
    loaded: a ViT or hybrid.
    images: as for `Loaded.predict`.
    renormalize: see `query_distances`.
    batch_size: images whose attention maps are held at once.

  Raises:
    ConfigError: the model is a ResNet.
  """
  layout = token_layout(loaded)
  reduce = jax.jit(functools.partial(query_distances, layout=layout, renormalize=renormalize))
  parts = [
    np.asarray(reduce(loaded.attention(batch, batch_size=batch_size)), np.float64)
    for batch in loaded.inputs(images, batch_size)
  ]
  found = np.concatenate(parts)
  return AttentionDistance(
    mean=found.mean(axis=(0, 3)),
    spread=found.std(axis=(0, 3)),
    width=loaded.preprocess.image_size[1],
    uniform=float(patch_distances(layout.grid, layout.stride).mean()),
    renormalized=renormalize,
  )


def conv_receptive_field(num_layers: int, *, kernel: int = 3) -> int:
  """Returns the side of the receptive field of a stack of stride-1 convolutions, 1 + layers * (kernel - 1) pixels."""
  return 1 + num_layers * (kernel - 1)


def conv_layers_needed(pixels: float, *, kernel: int = 3) -> int:
  """Returns how many such layers see at least `pixels` across: 60 layers of 3x3 for 120 pixels."""
  return max(int(np.ceil((pixels - 1) / (kernel - 1))), 0)


@dataclasses.dataclass(frozen=True)
class AttentionWithGradient:
  """Attention probabilities and how the score moves with each of them.

  Attributes:
    attention: float32 [n, depth, k, l, l].
    gradient: float32 [n, depth, k, l, l]: d score / d attention.
    scores: float32 [n]: the logits that were differentiated.
    classes: int64 [n], or None for a model without a head.
  """

  attention: np.ndarray
  gradient: np.ndarray
  scores: np.ndarray
  classes: np.ndarray | None


def attention_with_gradient(
  loaded: Loaded, images: Any, *, classes: np.ndarray | None = None, batch_size: int = 4
) -> AttentionWithGradient:
  """Returns attention and the gradient of a score with respect to it.

  The gradient is taken at zeros that the model adds to its attention probabilities on request (the collection
  'perturbations'): no hooks, and the same numbers.

  Args:
    loaded: a ViT or hybrid.
    images: as for `Loaded.predict`.
    classes: int [n], whose logits to differentiate; None: the highest logit of each image. A model without a
      head has no logits: half the squared norm of its pooled features takes their place.
    batch_size: images held at once.

  Raises:
    ConfigError: a ResNet, or classes for a model without a head.
  """
  token_layout(loaded)
  if classes is not None and loaded.num_classes == 0:
    problem = Problem('classes', str(list(classes)), 'None', 'This model has no head')
    raise ConfigError('there are no logits to differentiate', [problem])
  run = jax.jit(functools.partial(_differentiate, loaded))
  parts, start = [], 0
  for batch in loaded.inputs(images, batch_size):
    chosen = None if classes is None else jnp.asarray(classes[start : start + len(batch)])
    parts.append(jax.device_get(run(loaded.params, batch, chosen)))
    start += len(batch)
  attention, gradient, scores, found = (np.concatenate(column) for column in zip(*parts, strict=True))
  return AttentionWithGradient(attention, gradient, scores, found if loaded.num_classes else None)


def _differentiate(
  loaded: Loaded, params: Any, images: jax.Array, classes: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Returns (attention, gradient, scores, classes) of one batch."""
  apply = functools.partial(loaded.model.apply, train=False, mutable=['intermediates'])

  def score(shift: Any) -> tuple[jax.Array, Any]:
    out, kept = apply({'params': params, 'perturbations': shift}, images)
    if loaded.num_classes == 0:
      scores, chosen = 0.5 * jnp.sum(out**2, axis=-1), jnp.zeros(len(out), jnp.int32)
    else:
      chosen = jnp.argmax(out, axis=-1) if classes is None else classes
      scores = jnp.take_along_axis(out, chosen[:, None], axis=-1)[:, 0]
    return scores.sum(), (kept['intermediates'], scores, chosen)

  shapes = jax.eval_shape(lambda: apply({'params': params}, images)[1]['intermediates'])
  # sow keeps tuples of one array; the model reads the bare array.
  zeros = jax.tree.map(
    lambda kept: jnp.zeros(kept[0].shape, kept[0].dtype), shapes, is_leaf=lambda x: isinstance(x, tuple)
  )
  gradient, (kept, scores, chosen) = jax.grad(score, has_aux=True)(zeros)
  wrapped = jax.tree.map(lambda x: (x,), gradient)
  return stack_attention(kept), stack_attention(wrapped), scores, chosen
