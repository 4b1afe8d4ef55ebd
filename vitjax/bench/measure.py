"""Times the training step of a recipe on this machine."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import vitjax
from vitjax.bench.adapter import random_batch
from vitjax.errors import ConfigError, Problem
from vitjax.training import Run
from vitjax.training.profiling import ProfiledStep
from vitjax.training.programs import Programs

_NUM_BLOCKS = 10
_NUM_TRACED = 3
_NUM_WARMUP = 2
_MATMUL_SIZE = {'cpu': 2048}
_LONGEST_STEP_S = 120.0
_VERSIONS_OF = ('jax', 'jaxlib', 'flax', 'optax')


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What one training step of a recipe costs.

  Attributes:
    recipe: its file and arguments.
    model: variant, image size and batch, for tables.
    batch_size: global examples per step.
    dtype: compute dtype.
    machine: device kind, number of devices, processor cores that may be used, system.
    versions: of the libraries.
    date: ISO, UTC.
    step_s: seconds per step of each timed block.
    cpu_s: processor seconds per step of each block, all threads together.
    trace_s, compile_s: to trace and lower the step, and to compile it without a cache.
    train_flops_per_example: analytic, 3x forward.
    peak_flops_per_s: of the data sheet, all devices together; None for a device kind without an entry.
    matmul_flops_per_s: reached by one large matrix product in the compute dtype on one device, times the devices.
    memory: {what: bytes} by the compiler, per device, and the peak that the device or the process reports.
    components: {component: seconds per step} of a traced step.
    losses: of the first and the last step: what was timed did learn its one batch.
  """

  recipe: str
  model: str
  batch_size: int
  dtype: str
  machine: dict[str, Any]
  versions: dict[str, str]
  date: str
  step_s: list[float]
  cpu_s: list[float]
  trace_s: float
  compile_s: float
  train_flops_per_example: float
  peak_flops_per_s: float | None
  matmul_flops_per_s: float
  memory: dict[str, int]
  components: dict[str, float]
  losses: tuple[float, float]

  @property
  def median_s(self) -> float:
    """The median block's seconds per step."""
    return statistics.median(self.step_s)

  @property
  def images_per_s(self) -> float:
    """Images per second of the median block."""
    return self.batch_size / self.median_s

  @property
  def flops_per_s(self) -> float:
    """Analytic operations per second of the median block."""
    return self.images_per_s * self.train_flops_per_example

  def save(self, path: pathlib.Path) -> None:
    """Writes the measurement as JSON."""
    path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + '\n', encoding='utf-8')


def measure(run: Run, *, recipe: str, steps: int, folder: pathlib.Path) -> Measurement:
  """Compiles, warms up, times and traces the step of a run on one random batch. Host-side, one process.

  Args:
    run: from `build`; its input is not opened.
    recipe: how the user names it.
    steps: timed steps, in blocks of equal length.
    folder: gets the trace, in profile/.

  Raises:
    ConfigError: a step would take minutes here.
  """
  matmul = matmul_flops_per_s(run) * run.mesh.size
  data = run.recipe.data
  expected_s = run.train_flops_per_example * data.batch_size / matmul
  if expected_s > _LONGEST_STEP_S:
    found = f'{data.batch_size}, at least {expected_s:,.0f} s a step on this machine'
    fits = max(int(data.batch_size * _LONGEST_STEP_S / expected_s / 4), 1)
    raise ConfigError(
      'a step is too large to be timed here',
      [Problem('data.batch_size', found, f'such as {fits}', f'Add --config.data.batch_size={fits}')],
    )
  began_s = time.perf_counter()
  lowered = run.step_fn.lower(run.abstract_state, run.abstract_batch())
  lowered_s = time.perf_counter()
  compiled = lowered.compile()
  compiled_s = time.perf_counter()
  state, batch = run.fresh_state(), random_batch(run)
  first = math.nan
  for _ in range(_NUM_WARMUP):
    state, metrics = compiled(state, batch)
    first = float(metrics['loss']) if math.isnan(first) else first
  blocks = min(_NUM_BLOCKS, steps)
  step_s, cpu_s = [], []
  jax.block_until_ready(state)
  for _ in range(blocks):
    block_s, block_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(steps // blocks):
      state, metrics = compiled(state, batch)
    jax.block_until_ready((state, metrics))
    step_s.append((time.perf_counter() - block_s) / (steps // blocks))
    cpu_s.append((time.process_time() - block_cpu_s) / (steps // blocks))
  last = float(metrics['loss'])
  memory = _memory(compiled)
  traced = ProfiledStep(Programs([compiled], 0), step=0, window=(1, _NUM_TRACED), folder=folder / 'profile')
  for step in range(1, _NUM_TRACED + 1):
    state, _ = traced(step, state, batch)
  assert traced.profile is not None
  return Measurement(
    recipe=recipe,
    model=run.recipe.model.variant,
    batch_size=data.batch_size,
    dtype=run.recipe.model.dtype,
    machine=machine(run),
    versions={'vitjax': vitjax.__version__}
    | {name: importlib.metadata.version(name) for name in _VERSIONS_OF},
    date=datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
    step_s=step_s,
    cpu_s=cpu_s,
    trace_s=lowered_s - began_s,
    compile_s=compiled_s - lowered_s,
    train_flops_per_example=run.train_flops_per_example,
    peak_flops_per_s=run.peak_flops_per_s,
    matmul_flops_per_s=matmul,
    memory=memory,
    components=traced.profile.components(),
    losses=(first, last),
  )


def machine(run: Run) -> dict[str, Any]:
  """Returns the facts about this machine that a figure needs beside it."""
  return {
    'device': run.mesh.devices.flat[0].device_kind,
    'processor': _processor(),
    'num_devices': run.mesh.size,
    'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    'system': platform.platform(terse=True),
    'image_size': list(run.recipe.data.image_size),
  }


def _processor() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  names = info.read_text().split('model name\t: ') if info.exists() else []
  return names[1].partition('\n')[0] if len(names) > 1 else platform.processor()


def matmul_flops_per_s(run: Run) -> float:
  """Returns the rate of one large square matrix product on one device, in the compute dtype: the best of five."""
  device = run.mesh.devices.flat[0]
  size = _MATMUL_SIZE[device.platform] if device.platform in _MATMUL_SIZE else 8192
  x = jax.device_put(jnp.ones((size, size), run.recipe.model.dtype), device)
  product = jax.jit(lambda a, b: a @ b)
  product(x, x).block_until_ready()
  times = []
  for _ in range(5):
    began_s = time.perf_counter()
    product(x, x).block_until_ready()
    times.append(time.perf_counter() - began_s)
  return 2 * size**3 / min(times)


def _memory(compiled: Any) -> dict[str, int]:
  """Returns bytes per device by the compiler's own account, and the peak that was seen."""
  analysis = compiled.memory_analysis()
  sizes = {}
  if analysis is not None:
    sizes = {
      'state and batch': analysis.argument_size_in_bytes,
      'temporaries by the compiler': analysis.temp_size_in_bytes,
    }
  stats = jax.local_devices()[0].memory_stats()
  if stats and 'peak_bytes_in_use' in stats:
    return {**sizes, 'peak of the device': stats['peak_bytes_in_use']}
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    peak = status.read_text().partition('VmHWM:')[2].split()[0]
    sizes['process peak'] = int(peak) * 1024
  return sizes
