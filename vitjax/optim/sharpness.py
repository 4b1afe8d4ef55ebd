"""Sharpness-aware gradients (SAM, GSAM): a gradient function made of another one, evaluated twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitjax import trees
from vitjax.config.schema import OptimConfig
from vitjax.optim.factory import is_frozen

Params = Any
# (params, batch, key) -> (loss output, gradients)
GradientFn = Callable[[Params, Any, jax.Array], tuple[Any, Params]]
# The same with the learning rate of the step as a last argument.
RatedGradientFn = Callable[[Params, Any, jax.Array, jax.Array], tuple[Any, Params]]

_TINY = 1e-12  # keeps a zero gradient from dividing by zero


def gradient_evaluations(config: OptimConfig) -> int:
  """Returns how often a step evaluates its gradient: twice with SAM."""
  return 2 if config.sam_rho else 1


def sharpness_aware(gradients: GradientFn, config: OptimConfig) -> RatedGradientFn:
  """Returns a gradient function that looks uphill first; `gradients` alone where sam_rho is 0. Traced.

  With g the gradient of the trained parameters w at learning rate r, the result is

    s = gradients at w + rho g / |g|        the same batch and key, so the same dropout
    SAM    s
    GSAM   s - gsam_alpha (g - (g . s / |s|^2) s)        also shrinks the gap between both losses
    rho = sam_rho, or sam_rho_end + (sam_rho - sam_rho_end) (r - end_lr) / (peak_lr - end_lr), at least 0

  Loss and metrics are those at w. Norms are over all trained parameters of all devices; accumulation runs inside
  each of the two evaluations. Frozen parameters are neither moved nor counted, and their gradients come back as zero.

  Args:
    gradients: from (params, batch, key) to (loss output, gradients).
    config: the recipe's `optim` part.

  Source: SAM, arXiv 2010.01412, eq. 2; GSAM, arXiv 2203.08065, Algorithm 1.
  Differs from source: both perturb each device's shard of the batch by its own gradient (m-sharpness); here the
    gradient is that of the global batch, so that the result does not depend on the number of devices.
  """
  if not config.sam_rho:
    return lambda params, batch, key, rate: gradients(params, batch, key)

  def trained(grads: Params) -> Params:
    return trees.map_with_path(lambda path, g: jnp.zeros_like(g) if is_frozen(config, path) else g, grads)

  def twice(params: Params, batch: Any, key: jax.Array, rate: jax.Array) -> tuple[Any, Params]:
    output, grads = gradients(params, batch, key)
    grads = trained(grads)
    step = _radius(config, rate) / (optax.tree.norm(grads) + _TINY)
    uphill = jax.tree.map(lambda w, g: (w + step * g).astype(w.dtype), params, grads)
    _, sharp = gradients(uphill, batch, key)
    sharp = trained(sharp)
    if config.gsam_alpha:
      share = optax.tree.vdot(grads, sharp) / (optax.tree.norm(sharp, squared=True) + _TINY)
      sharp = jax.tree.map(
        lambda s, g: (s - config.gsam_alpha * (g - share * s)).astype(s.dtype), sharp, grads
      )
    return output, sharp

  return twice


def _radius(config: OptimConfig, rate: jax.Array) -> jax.Array | float:
  if config.sam_rho_end is None:
    return config.sam_rho
  share = (rate - config.end_lr) / (config.peak_lr - config.end_lr)
  return jnp.maximum(config.sam_rho_end + (config.sam_rho - config.sam_rho_end) * share, 0.0)
