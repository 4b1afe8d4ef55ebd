"""Averaged weights (Polyak averaging) for evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = Any


def ema_init(params: Params) -> Params:
  """Returns the average before the first step: the parameters themselves, in at least float32.

  Float32 because a step of 1 - decay = 1e-4 is lost in bfloat16, whose neighbours are 4e-3 apart.
  """
  return jax.tree.map(lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32)), params)


def ema_update(ema: Params, params: Params, decay: float) -> Params:
  """Returns decay * ema + (1 - decay) * params, in the dtypes of `ema`. Traced.

  Called once per optimiser step with the parameters after the step. The decay is the same at every step,
  without warm-up: after t steps the initial parameters still weigh decay^t (0.9999: 37 % after 10,000).

  Args:
    ema: the average so far, from `ema_init`.
    params: parameters after this step, of the same structure and shapes.
    decay: in [0, 1]; 0 keeps only the newest parameters.

  Source: Polyak and Juditsky 1992; ViT (arXiv 2010.11929) section 4.1 uses 0.9999 for fine-tuning.
  """
  new = optax.incremental_update(optax.tree.cast_like(params, ema), ema, 1.0 - decay)
  return optax.tree.cast_like(new, ema)
