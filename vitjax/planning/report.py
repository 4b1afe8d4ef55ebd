"""Plans as text: a page for one job, a table for many."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from vitjax.config.schema import DataConfig
from vitjax.models import image_shape
from vitjax.planning.collectives import summarise
from vitjax.planning.job import Job
from vitjax.planning.topology import Topology
from vitjax.trees import num_params

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Assumptions:
  """What the user knows and the compiler does not.

  Attributes:
    price_per_hour: of one device, in any currency; None: no cost.
    mfu: utilisation to expect, in (0, 1]; None: the bound.
    storage_bytes_per_s: rate at which all hosts together write a checkpoint.
  """

  price_per_hour: float | None
  mfu: float | None
  storage_bytes_per_s: float


def report(job: Job, topology: Topology, note: str, assumptions: Assumptions) -> str:
  """Returns the page of one job: what it is, memory, communication, bounds, input, checkpoints, time and cost."""
  blocks = [_lines(_facts(job, topology, note)), _memory(job)]
  if job.compiled is not None:
    blocks.append(_communication(job))
  if job.bounds is not None:
    blocks.append(_lines(_bounds(job)))
  blocks.append(_lines(_costs(job, assumptions)))
  return '\n\n'.join(blocks)


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
  """Returns rows as aligned columns, the first row being the heading; columns in `right` are flushed right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  text = [
    '  '.join(
      c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
    )
    for row in rows
  ]
  return '\n'.join(line.rstrip() for line in text)


def comparison(jobs: Sequence[Job], best: Sequence[Job]) -> str:
  """Returns one line per job: mesh, remat, memory (estimated and compiled), bound, MFU, communication share.

  A star marks the Pareto front of memory and step time: nothing else is both smaller and faster.
  """
  heading = ('', 'mesh', 'remat', 'GiB est.', 'GiB comp.', 'step ms', 'MFU bound', 'comm. share', 'fits')
  rows: list[tuple[str, ...]] = [heading]
  for job in jobs:
    assert job.bounds is not None
    compiled = '-' if job.compiled is None else f'{job.compiled.total / _GIB:.2f}'
    if job.refusal is not None:
      compiled = f'> {job.refusal.needed / _GIB:.1f}'
    seconds = job.bounds.exposed_step_s
    star = '*' if any(job is other for other in best) else ''
    rows.append(
      (
        star,
        job.mesh_text,
        job.run.recipe.model.remat,
        f'{job.memory.total / _GIB:.2f}',
        compiled,
        f'{seconds * 1e3:,.1f}',
        f'{job.bounds.mfu(seconds):.0%}',
        f'{job.bounds.network_s / seconds:.0%}',
        'yes' if job.fits else 'no',
      )
    )
  return table(rows, right=range(3, 8))


def _lines(facts: dict[str, str]) -> str:
  width = max(map(len, facts))
  return '\n'.join(f'{name.ljust(width)}  {text}' for name, text in facts.items())


def _facts(job: Job, topology: Topology, note: str) -> dict[str, str]:
  recipe = job.run.recipe
  kind = job.run.mesh.devices.flat[0].device_kind
  facts = {
    'model': f'{recipe.model.variant}, {num_params(job.run.abstract_state.params):,} parameters, '
    f'layers={recipe.model.layers}, remat={recipe.model.remat}, {recipe.model.dtype}',
    'devices': f'{topology.text}: {topology.num_devices} x {kind}, mesh {job.mesh_text}',
    'batch': f'{recipe.data.batch_size:,} images of {_size_of_images(recipe.data)}, '
    f'accumulation {recipe.optim.accumulation_steps}',
    'data': note,
    'steps': f'{job.run.total_steps:,}',
  }
  if job.compiled is not None:
    facts['compiled'] = f'traced in {job.compiled.lower_s:.1f} s, compiled in {job.compiled.compile_s:.1f} s'
  return facts


def _size_of_images(data: DataConfig) -> str:
  if data.max_tokens is not None:
    return f'at most {data.max_tokens} patches'
  return 'x'.join(map(str, data.image_size))


def _memory(job: Job) -> str:
  memory, compiled = job.memory, job.compiled
  unit, name = (_GIB, 'GiB') if job.memory_bytes >= _GIB else (2**20, 'MiB')
  rows = [(f'memory per device, {name}', 'estimated', 'compiled')]

  def add(name: str, estimated: int, measured: int | None = None) -> None:
    rows.append((name, f'{estimated / unit:.3f}', '' if measured is None else f'{measured / unit:.3f}'))

  add('  parameters', memory.params)
  add('  optimiser', memory.optimizer)
  if memory.averaged:
    add('  averaged weights', memory.averaged)
  if memory.teacher:
    add("  teacher's weights", memory.teacher)
  add('  batch', memory.batch)
  add('arguments', memory.arguments, compiled and compiled.arguments)
  add('  gradients', memory.gradients)
  if memory.uphill:
    add('  SAM, beside the gradients', memory.uphill)
  if memory.cast_copy:
    add(f'  parameters in {job.run.recipe.model.dtype}', memory.cast_copy)
  add('  activations saved for the backward pass', memory.saved)
  add('  working set', memory.working)
  temporaries = memory.total - memory.arguments - memory.program
  add('temporaries', temporaries, compiled and compiled.temporaries)
  add('outputs and code', memory.program, compiled and compiled.outputs + compiled.code)
  add('total', memory.total, compiled and compiled.total)
  lines = [table(rows, right=(1, 2))]
  if job.hardware is not None:
    share = job.memory_bytes / job.hardware.hbm_bytes
    lines.append(f'limit {job.hardware.hbm_bytes / _GIB:.2f} GiB, {share:.0%} of it')
    # The CPU backend's figures mean no accelerator, so only here is there something to agree with.
    if compiled is not None:
      lines[-1] += f'; estimate off by {memory.total / compiled.total - 1:+.1%}'
  return '\n'.join(lines)


def _communication(job: Job) -> str:
  assert job.compiled is not None
  rows = [('collectives of a step', 'over', 'count', 'MB sent per device', 'overlapped')]
  for kind, axes, count, wire, overlapped in summarise(job.compiled.collectives):
    rows.append((kind, axes, f'{count:,}', f'{wire / 1e6:,.1f}', f'{overlapped:.0%}'))
  return table(rows, right=(2, 3, 4)) if len(rows) > 1 else 'collectives of a step: none'


def _bounds(job: Job) -> dict[str, str]:
  bounds = job.bounds
  assert bounds is not None
  assert job.hardware is not None
  seconds = bounds.exposed_step_s
  hosts = len({device.process_index for device in job.run.mesh.devices.flat})
  images = job.run.recipe.data.batch_size / seconds
  pixels = math.prod(image_shape(job.run.recipe.model, job.run.recipe.data))
  times = {'arithmetic': bounds.compute_s, 'memory': bounds.memory_s, 'network': bounds.network_s}
  parts = ', '.join(f'{name} {value * 1e3:,.1f} ms' for name, value in times.items())
  return {
    'FLOPs': f'{bounds.model_flops / 1e15:,.3f} PFLOP per step, {job.run.train_flops_per_example / 1e9:,.1f} GFLOP '
    'per image, recomputation left out',
    'roofline': f'{parts} ({bounds.exposed_s * 1e3:,.1f} ms not overlapped)',
    'step at least': f'{bounds.step_s * 1e3:,.1f} ms ({bounds.limit}) if all communication hides, '
    f'{seconds * 1e3:,.1f} ms as compiled',
    'MFU at most': f'{bounds.mfu(bounds.step_s):.0%} and {bounds.mfu(seconds):.0%}',
    'input needed': f'{images:,.0f} images/s; each of {hosts} hosts {images / hosts:,.0f} images/s, '
    f'{images / hosts * pixels / 1e6:,.0f} MB/s',
    'data sheet': f'{job.hardware.source}: {job.hardware.peak_flops_per_s / 1e12:,.0f} TFLOP/s, '
    f'{job.hardware.hbm_bytes_per_s / 1e9:,.0f} GB/s',
  }


def _costs(job: Job, assumptions: Assumptions) -> dict[str, str]:
  size = _global_bytes(job.run.abstract_state)
  rate = assumptions.storage_bytes_per_s
  facts = {
    'checkpoint': f'{size / 1e9:,.2f} GB, {size / rate:,.1f} s at {rate / 1e9:g} GB/s, '
    f'every {job.run.save_every:,} steps'
  }
  if job.bounds is None:
    return facts
  step, words = job.bounds.exposed_step_s, 'at the bound'
  if assumptions.mfu is not None:
    step = job.bounds.model_flops / (assumptions.mfu * job.bounds.peak_flops_per_s)
    words = f'at {assumptions.mfu:.0%} MFU'
  seconds = step * job.run.total_steps
  facts['duration'] = f'{_duration(seconds)} for {job.run.total_steps:,} steps {words}'
  if assumptions.price_per_hour is not None:
    hours = seconds / 3600 * job.run.mesh.size
    price = assumptions.price_per_hour
    facts['cost'] = f'{hours * price:,.0f} for {hours:,.0f} device hours at {price:g} {words}'
  return facts


def _global_bytes(state: Any) -> int:
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _duration(seconds: float) -> str:
  if seconds < 7200:
    return f'{seconds / 60:,.1f} min'
  return f'{seconds / 3600:,.1f} h' if seconds < 72 * 3600 else f'{seconds / 86400:,.1f} days'
