"""The training step of `vitjax train`, in the form that a timing harness calls."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from ml_collections import config_dict

from vitjax.config import apply_overrides, default_config, parse_recipe, source_config
from vitjax.config.memory import computes_on_cpu, keep_freed_memory
from vitjax.parallel.mesh import local_rows, to_global
from vitjax.training import Run, TrainState, build


class LossStep:
  """The jitted step of a run as (state, batch) -> (state, loss); donates the state.

  Args:
    run: what `build` returned; its step_fn is called as it is.
  """

  def __init__(self, run: Run):
    self.run = run

  def __call__(self, state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, jax.Array]:
    """Returns the next state and this step's mean loss, a float32 scalar."""
    state, metrics = self.run.step_fn(state, batch)
    return state, metrics['loss']

  def lower(self, state: Any, batch: Any) -> Any:
    """Returns the lowered step, as jax.jit does."""
    return self.run.step_fn.lower(state, batch)


def make(
  *,
  model: str = 'B/16',
  image_size: int = 224,
  batch: int = 64,
  num_classes: int = 1000,
  dtype: str = 'float32',
  seed: int = 0,
  **overrides: Any,
) -> tuple[LossStep, TrainState, dict[str, jax.Array]]:
  """Returns (step_fn, state, batch) of the step that `vitjax train` runs: step_fn(state, batch) -> (state, loss).

  That step normalises uint8 images, runs forward and backward, AdamW, and computes the run's metrics (accuracy,
  norms of gradients and updates, the check for finite numbers). What other implementations in a comparison
  leave out is off: dropout, clipping, warm-up.

  Args:
    model: a variant such as 'B/16'.
    image_size: pixels.
    batch: global examples per step.
    num_classes: outputs of the head.
    dtype: compute dtype, 'float32' or 'bfloat16'; parameters and optimiser state stay float32.
    seed: of weights and data.
    **overrides: knobs of the recipe by dotted path, {'model.pool': 'gap'}.

  Raises:
    ConfigError: everything that is wrong with the recipe.
  """
  if computes_on_cpu():
    keep_freed_memory()  # as the commands do; it must come before jax starts
  config = bench_config(model, image_size, batch, num_classes, dtype, seed)
  apply_overrides(config, [(path, str(value)) for path, value in overrides.items()])
  run = build(parse_recipe(config, num_devices=jax.device_count()))
  return LossStep(run), run.fresh_state(), random_batch(run)


def bench_config(
  model: str, image_size: int, batch: int, num_classes: int, dtype: str, seed: int
) -> config_dict.ConfigDict:
  """Returns the recipe of a plain step on synthetic images: AdamW at a constant rate, nothing else."""
  config = default_config()
  config.seed = seed
  config.model.variant = model
  config.model.dtype = dtype
  config.data.source = source_config(kind='synthetic', num_examples=batch, num_classes=num_classes)
  config.data.image_size = (image_size, image_size)
  config.data.batch_size = batch
  config.optim.schedule = 'constant'
  config.optim.warmup = '0 steps'
  config.optim.peak_lr = 1e-4
  config.optim.weight_decay = 0.05
  config.optim.clip_norm = None
  config.total = '1000 steps'
  config.log.progress = False
  return config


def random_batch(run: Run) -> dict[str, jax.Array]:
  """Returns one global batch of random pixels and labels, from the recipe's seed, placed as the loop places it."""
  shapes = run.abstract_batch()
  rng = np.random.default_rng(run.recipe.seed)
  rows = local_rows(run.mesh, run.recipe.data.batch_size)
  whole = {
    'image': rng.integers(0, 256, shapes['image'].shape, dtype=np.uint8),
    'label': rng.integers(0, run.source.num_classes, shapes['label'].shape, dtype=np.int32),
  }
  return to_global(run.mesh, {name: values[rows] for name, values in whole.items()})
