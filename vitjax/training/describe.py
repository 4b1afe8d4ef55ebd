"""The text of --dry_run: what a run is, before it costs anything."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from vitjax.config import render, render_derivation
from vitjax.parallel.rules import sharding_table
from vitjax.training.build import Run
from vitjax.trees import num_params


def describe(run: Run) -> str:
  """Returns the resolved recipe, the parameter table with shardings, FLOPs, steps and memory per device."""
  derivation = [render_derivation(run.recipe)] if run.recipe.derivation else []
  return '\n\n'.join([render(run.recipe), *derivation, _parameters(run), _summary(run)])


def _parameters(run: Run) -> str:
  """Returns one line per parameter: path, shape, partition spec, bytes per device."""
  rows = sharding_table(run.abstract_state.params, run.mesh, run.recipe.parallel.rules)
  cells = [('parameter', 'shape', 'sharding', 'bytes per device')]
  cells += [(r.path, str(r.shape), str(r.spec), f'{r.bytes_per_device:,}') for r in rows]
  widths = [max(len(row[i]) for row in cells) for i in range(4)]
  return '\n'.join('  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _bytes_per_device(tree: Any) -> int:
  """Returns the bytes of one device's shards of a tree of ShapeDtypeStructs with shardings."""
  return sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _summary(run: Run) -> str:
  """Returns sizes, steps, FLOPs and memory, one fact a line."""
  state, data = run.abstract_state, run.recipe.data
  mib = 2**20
  train_gflop = run.train_flops_per_example / 1e9
  epochs = run.total_steps * data.batch_size / len(run.source)
  params = _bytes_per_device(state.params)
  parts = {
    'parameters': params,
    'gradients': params,
    'optimiser': _bytes_per_device(state.opt_state),
    'averaged weights': 0 if state.ema_params is None else _bytes_per_device(state.ema_params),
    "teacher's weights": _bytes_per_device(state.frozen),
    'batch': _bytes_per_device(run.abstract_batch()),
  }
  memory = ', '.join(f'{name} {size / mib:,.1f}' for name, size in parts.items() if size)
  axes = ' x '.join(f'{name} {size}' for name, size in run.mesh.shape.items())
  lines = {
    'parameters': f'{num_params(state.params):,}',
    'FLOPs': f'{train_gflop / 3:,.3f} GFLOP forward per image, {train_gflop:,.3f} to train',
    'data': f'{len(run.source):,} examples, {run.source.num_classes} classes, {run.source.fingerprint}',
    'steps': f'{run.total_steps:,} of {data.batch_size} examples = {epochs:.4g} epochs'
    + (f', stopping after {run.stop_step:,}' if run.stop_step < run.total_steps else ''),
    'every': f'log {run.log_every}, save {run.save_every}'
    + ''.join(f', evaluate {name} {every}' for name, every in run.eval_every.items())
    + ' steps',
    'mesh': f'{axes} on {run.mesh.size} x {run.mesh.devices.flat[0].device_kind}',
    'memory per device': f'{sum(parts.values()) / mib:,.1f} MiB before activations: {memory}',
    'activations': _activation_memory(run),
  }
  width = max(map(len, lines))
  return '\n'.join(f'{name.ljust(width)}  {text}' for name, text in lines.items())


def _activation_memory(run: Run) -> str:
  """Returns the compiler's own figure for temporary memory; the CPU backend's says nothing about accelerators."""
  if jax.default_backend() == 'cpu':
    return 'known on GPU and TPU only, where --dry_run compiles the step'
  analysis = run.step_fn.lower(run.abstract_state, run.abstract_batch()).compile().memory_analysis()
  return f'{analysis.temp_size_in_bytes / 2**20:,.1f} MiB by the compiled step'
