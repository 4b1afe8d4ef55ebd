"""The collectives that a sharding implies, without compiling: for ordering meshes, and to hold the compiler to.

fsdp    each block's weights are gathered in the forward and again in the backward pass; gradients are reduce-scattered
data    gradients are all-reduced
model   the activations are all-reduced once after attention and once after the MLP, in both passes

All of them twice with SAM.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitjax.config.variants import ViTVariant
from vitjax.models.sizes import computed_size, num_prefix_tokens, resolve_variant
from vitjax.optim.sharpness import gradient_evaluations
from vitjax.parallel.mesh import BATCH_AXES
from vitjax.planning.collectives import Collective
from vitjax.training.build import Run


def expected_collectives(run: Run) -> list[Collective]:
  """Returns what the train step of `run` has to communicate per step, small arrays left out."""
  mesh, model = run.mesh, run.recipe.model
  evaluations = gradient_evaluations(run.recipe.optim)
  steps = run.recipe.optim.accumulation_steps * evaluations
  itemsize = jnp.dtype(model.dtype).itemsize
  gathered = reduced = 0
  for leaf in jax.tree.leaves(run.abstract_state.params):
    axes = [name for entry in leaf.sharding.spec for name in _names(entry)]
    part = math.prod(leaf.shape) * itemsize // math.prod(mesh.shape[name] for name in axes if name == 'model')
    if 'fsdp' in axes:
      gathered += part
      reduced += part // mesh.shape['fsdp']
    else:
      reduced += part
  found = [
    _collective('all-gather', ('fsdp',), gathered, 2 * steps, mesh, overlapped=True),
    _collective('reduce-scatter', ('fsdp',), gathered, steps, mesh, overlapped=False),
    _collective('all-reduce', ('data',), reduced, steps, mesh, overlapped=False),
  ]
  variant = resolve_variant(model)
  if isinstance(variant, ViTVariant):
    rows = run.recipe.data.batch_size // math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    grid = [side // variant.downsample for side in computed_size(model, run.recipe.data)]
    size = rows * (math.prod(grid) + num_prefix_tokens(model)) * variant.size.width * itemsize
    # The backward pass of parallel blocks adds its two halves before it reduces them.
    times = (3 if variant.size.parallel_blocks else 4) * variant.size.depth * evaluations
    found.append(_collective('all-reduce', ('model',), size, times, mesh, overlapped=False))
  return [c for c in found if len(c.group) > 1 and c.payload_bytes]


def _collective(
  kind: str, axes: tuple[str, ...], size: int, count: int, mesh: Mesh, *, overlapped: bool
) -> Collective:
  ids = np.arange(mesh.size).reshape(tuple(mesh.shape.values()))
  index = tuple(slice(None) if name in axes else 0 for name in mesh.shape)
  group = tuple(ids[index].ravel().tolist())
  return Collective(kind, axes, group, size, count, overlapped, shape='', op_name='')


def _names(entry: Any) -> tuple[str, ...]:
  return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
