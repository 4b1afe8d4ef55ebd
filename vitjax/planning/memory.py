"""Memory per device before anything is compiled: what the step is handed, and what it keeps while it runs.

  arguments    parameters, optimiser state, averaged and a teacher's weights, the batch, as sharded; exact up to padding
  gradients    like the parameters; twice with gradient accumulation
  uphill       the weights that SAM's second gradient is taken at, where they are not those of the cast copy; with GSAM
               the first gradient as well
  cast copy    the parameters in the compute dtype, where that differs
  saved        what the forward pass leaves for the backward pass, read from the traced program, so that it follows
               every change of model and remat policy
  working      what one block needs at once: intermediates or their gradients, and under fsdp its gathered weights

The first five follow from the program; a teacher's activations are left out, being gone before the student's arise. The
rest is fitted to what the TPU compiler reports for ViTs, from B/16 to 22B.
`working` is what a block's backward pass needs beside the saved: under remat its intermediates once more, all alive at
once (_RECOMPUTED_SHARE), without remat a part of them as gradients (_GRADIENT_SHARE); and its gathered weights and
their gradient. Of what is saved outside the blocks, _OUTSIDE_SHARE is alive at the peak, the head's part having been
used up.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.config.schema import Recipe
from vitjax.config.variants import ViTVariant
from vitjax.models.sizes import image_shape, resolve_variant
from vitjax.objectives import build_objective, resized_objective
from vitjax.parallel.mesh import BATCH_AXES
from vitjax.training.build import Run

_RECOMPUTED_SHARE = 1.05
_GRADIENT_SHARE = 0.2
_OUTSIDE_SHARE = 0.5
_PROGRAM_BYTES = (
  64 * 2**20
)  # a TPU's code and small buffers, which matter where everything else is sharded away
_TILE = (8, 128)  # sublanes and lanes of a TPU register: the last two dimensions of a layout are padded to it


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
  """Bytes on one device; see the module's docstring."""

  params: int
  optimizer: int
  averaged: int
  teacher: int
  batch: int
  gradients: int
  uphill: int
  cast_copy: int
  saved: int
  working: int
  program: int

  @property
  def arguments(self) -> int:
    """Returns the bytes that live from step to step, and the batch."""
    return self.params + self.optimizer + self.averaged + self.teacher + self.batch

  @property
  def total(self) -> int:
    """Returns the peak."""
    return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Residuals:
  """What a backward pass needs of the forward pass of `rows` examples, on one device: shapes and dtypes.

  Attributes:
    arrays: (shape, dtype), parameters left out.
    depth: number of blocks; their residuals are stacked on axis 0.
    sharded_sizes: dimensions (heads, MLP width) that tensor parallelism splits.
  """

  arrays: tuple[tuple[tuple[int, ...], np.dtype], ...]
  depth: int
  sharded_sizes: tuple[int, ...]

  def bytes_per_device(self, *, model: int, tiled: bool) -> int:
    """Returns the bytes at the peak with tensor parallelism of `model`, padded as a TPU does if `tiled`."""
    blocks = self.block_bytes(model=model, tiled=tiled) * self.depth
    outside = [a for a in self.arrays if not self._is_stacked(a[0])]
    share = _OUTSIDE_SHARE if self.depth else 1.0  # a network without blocks keeps all of it
    return blocks + int(share * sum(self._bytes(shape, dtype, model, tiled) for shape, dtype in outside))

  def block_bytes(self, *, model: int, tiled: bool) -> int:
    """Returns the bytes that belong to one block."""
    stacked = [a for a in self.arrays if self._is_stacked(a[0])]
    return sum(self._bytes(shape, dtype, model, tiled) for shape, dtype in stacked) // max(self.depth, 1)

  def _is_stacked(self, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and shape[0] == self.depth

  def _bytes(self, shape: tuple[int, ...], dtype: np.dtype, model: int, tiled: bool) -> int:
    fixed = 2 if self._is_stacked(shape) else 1  # layers and rows are not split by tensor parallelism
    split = [
      s // model if i >= fixed and s in self.sharded_sizes and s % model == 0 else s
      for i, s in enumerate(shape)
    ]
    return (
      padded_bytes(tuple(split), dtype, lanes=range(min(fixed, len(shape) - 1), len(shape)))
      if tiled
      else (math.prod(split) * dtype.itemsize)
    )


def padded_bytes(shape: tuple[int, ...], dtype: Any, lanes: Iterable[int] | None = None) -> int:
  """Returns the bytes of an array on a TPU, in the layout that pads least.

  Args:
    shape: of one device's part.
    dtype: of its elements.
    lanes: dimensions that may lie along the 128 lanes; None: all.
  """
  size = math.prod(shape) * np.dtype(dtype).itemsize
  if len(shape) < 2 or size == 0:
    return size
  dims = range(len(shape))
  ratios = [
    (_round_up(shape[i], _TILE[1]) / shape[i]) * (_round_up(shape[j], _TILE[0]) / shape[j])
    for i, j in itertools.product(dims if lanes is None else lanes, dims)
    if i != j
  ]
  return round(size * min(ratios))


def trace_residuals(
  recipe: Recipe, *, num_classes: int, rows: int, remat: str, device_class: str | None = None
) -> Residuals:
  """Returns what the loss of `rows` examples keeps for its gradient. Traces (seconds); computes and compiles nothing.

  Args:
    recipe: its blocks are scanned for this, whatever model.layers says: the same arrays, in less time.
    num_classes: outputs of the head.
    rows: examples of one device and micro-batch.
    remat: the policy, in place of model.remat.
    device_class: as in parallel.tuning; attention keeps other arrays on other devices. None: jax's own device.
  """
  variant = resolve_variant(recipe.model)
  is_vit = isinstance(variant, ViTVariant)
  if is_vit:
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, layers='scan', remat=remat))
  objective = build_objective(recipe, num_classes=num_classes, device_class=device_class)
  if recipe.model.patch_sizes:
    objective = resized_objective(objective, patch_size=min(recipe.model.patch_sizes))
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(objective.init, key)
  raw = {
    'image': jax.ShapeDtypeStruct((rows, *image_shape(recipe.model, recipe.data)), jnp.uint8),
    'label': jax.ShapeDtypeStruct((rows,), jnp.int32),
  }
  batch = jax.eval_shape(objective.augment, key, raw)

  def forward(params: Any, batch: Any, key: jax.Array) -> list[Any]:
    return jax.tree.leaves(jax.vjp(lambda params: objective.loss(params, batch, key).loss, params)[1])

  jaxpr = jax.make_jaxpr(forward)(params, batch, key).jaxpr
  inputs = {id(var) for var in jaxpr.invars}
  shapes = {leaf.shape for leaf in jax.tree.leaves(params)}
  kept = {id(var): var.aval for var in jaxpr.outvars if id(var) not in inputs}
  arrays = [
    (tuple(aval.shape), np.dtype(aval.dtype))
    for aval in kept.values()
    # A parameter's shape: its cast copy, which is counted apart. Keys of the random generator are tiny.
    if aval.shape not in shapes and not jnp.issubdtype(aval.dtype, jax.dtypes.extended)
  ]
  if not is_vit:
    return Residuals(tuple(arrays), 0, ())
  assert isinstance(variant, ViTVariant)
  return Residuals(tuple(arrays), variant.size.depth, (variant.size.num_heads, variant.size.mlp_dim))


@dataclasses.dataclass
class ResidualCache:
  """Traces each (rows, remat) once; a sweep over meshes asks for few different ones."""

  recipe: Recipe
  num_classes: int
  device_class: str | None = None
  known: dict[tuple[int, str], Residuals] = dataclasses.field(default_factory=dict)

  def __call__(self, rows: int, remat: str) -> Residuals:
    """Returns the residuals of `rows` examples under a remat policy."""
    if (rows, remat) not in self.known:
      traced = trace_residuals(
        self.recipe, num_classes=self.num_classes, rows=rows, remat=remat, device_class=self.device_class
      )
      self.known[rows, remat] = traced
    return self.known[rows, remat]


def estimate_memory(run: Run, cache: ResidualCache, *, tiled: bool) -> MemoryEstimate:
  """Returns the memory of one device of `run.mesh`.

  Args:
    run: what `training.build` returned for the devices in question.
    cache: for the run's recipe; model.remat and the mesh may differ between calls.
    tiled: pad as a TPU does.
  """
  state, model, optim = run.abstract_state, run.recipe.model, run.recipe.optim
  params = _tree_bytes(state.params, tiled)
  steps = optim.accumulation_steps
  shards = math.prod(run.mesh.shape[axis] for axis in BATCH_AXES)
  rows = run.recipe.data.batch_size // (shards * steps)
  split = run.mesh.shape['model']
  saved = cache(rows, model.remat)
  block = cache(rows, 'none').block_bytes(model=split, tiled=tiled)
  ratio = jnp.dtype(model.dtype).itemsize / jnp.dtype(model.param_dtype).itemsize
  gathered = 0
  if run.mesh.shape['fsdp'] > 1 and saved.depth:
    whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in _block_leaves(state.params))
    gathered = 2 * int(whole / saved.depth / split * ratio)
  return MemoryEstimate(
    params=params,
    optimizer=_tree_bytes(state.opt_state, tiled),
    averaged=_tree_bytes(state.ema_params, tiled),
    teacher=_tree_bytes(state.frozen, tiled),
    batch=_tree_bytes(run.abstract_batch(), tiled),
    gradients=params * (2 if steps > 1 else 1),
    uphill=params * ((optim.sam_rho > 0 and model.dtype == model.param_dtype) + (optim.gsam_alpha > 0)),
    cast_copy=int(params * ratio) if model.dtype != model.param_dtype else 0,
    saved=saved.bytes_per_device(model=split, tiled=tiled),
    working=int((_GRADIENT_SHARE if model.remat == 'none' else _RECOMPUTED_SHARE) * block) + gathered,
    program=_PROGRAM_BYTES if tiled else 0,
  )


def _block_leaves(params: Any) -> list[Any]:
  return jax.tree.leaves(params['Transformer']) if 'Transformer' in params else []


def _tree_bytes(tree: Any, tiled: bool) -> int:
  """Returns the bytes of one device's parts of a tree of ShapeDtypeStructs that carry shardings."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape)
    total += padded_bytes(shape, leaf.dtype) if tiled else math.prod(shape) * leaf.dtype.itemsize
  return total


def _round_up(value: int, unit: int) -> int:
  return -(-value // unit) * unit
