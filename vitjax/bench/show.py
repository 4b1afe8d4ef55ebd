"""A measurement as text and as a picture."""

from __future__ import annotations

import pathlib

import matplotlib
from matplotlib.figure import Figure

from vitjax.bench.measure import Measurement


def table(found: Measurement) -> str:
  """Returns the measurement as lines of at most 100 columns."""
  best, worst = min(found.step_s), max(found.step_s)
  lines = {
    'step': f'{1e3 * found.median_s:,.1f} ms median of {len(found.step_s)} blocks ({1e3 * best:,.1f} to '
    f'{1e3 * worst:,.1f})',
    'images/s': f'{found.images_per_s:,.1f}',
    'CPU seconds': f'{sorted(found.cpu_s)[len(found.cpu_s) // 2]:,.3f} a step, all threads',
    'FLOPs': f'{found.train_flops_per_example * found.batch_size / 1e9:,.1f} GFLOP a step, '
    f'{found.flops_per_s / 1e12:,.3f} TFLOP/s',
    'MFU': _utilisation(found),
    'memory': ', '.join(f'{name} {size / 2**20:,.0f} MiB' for name, size in found.memory.items()),
    'compile': f'{found.compile_s:.1f} s, after {found.trace_s:.1f} s of tracing; without a cache',
    'loss': f'{found.losses[0]:.4f} -> {found.losses[1]:.4f} on one batch',
  }
  heading = f'{describe(found)}\n{describe_machine(found)}'
  return heading + '\n' + '\n'.join(f'{name:<12} {text}' for name, text in lines.items())


def describe(found: Measurement) -> str:
  """Returns 'S/16, 224 x 224, batch 8, float32'."""
  height, width = found.machine['image_size']
  return f'{found.model}, {height} x {width}, batch {found.batch_size}, {found.dtype}'


def describe_machine(found: Measurement) -> str:
  """Returns devices and versions in one line."""
  machine = found.machine
  device = machine['device'] if machine['device'] != 'cpu' else machine['processor']
  versions = ', '.join(f'{name} {version}' for name, version in found.versions.items())
  return f'{machine["num_devices"]} x {device}, {machine["cores"]} cores; {versions}'


def _utilisation(found: Measurement) -> str:
  of_matmul = (
    f'{found.flops_per_s / found.matmul_flops_per_s:.1%} of {found.matmul_flops_per_s / 1e12:,.3f} TFLOP/s'
  )
  measured = f'{of_matmul} measured with one matrix product'
  if found.peak_flops_per_s is None:
    return f'unknown peak; {measured}'
  peak = found.peak_flops_per_s
  return f'{found.flops_per_s / peak:.1%} of {peak / 1e12:,.0f} TFLOP/s; {measured}'


def plot(found: Measurement, path: pathlib.Path) -> None:
  """Writes a PNG: the blocks' step times, and where a step's time goes."""
  with matplotlib.rc_context({'font.size': 10}):
    figure = Figure(figsize=(10, 4), layout='constrained')
    times, parts = figure.subplots(1, 2, width_ratios=(2, 3))
    times.plot(range(1, len(found.step_s) + 1), [1e3 * s for s in found.step_s], 'o')
    times.axhline(1e3 * found.median_s, linewidth=1, label=f'median {1e3 * found.median_s:,.1f} ms')
    times.set(xlabel='block', ylabel='ms per step', title='step time', ylim=(0, None))
    times.legend(loc='lower right')
    ordered = sorted(found.components.items(), key=lambda item: item[1])
    names, seconds = zip(*ordered, strict=True)
    total = sum(seconds)
    bars = parts.barh(names, [1e3 * s for s in seconds], color='tab:gray')
    parts.bar_label(bars, [f'{s / total:.0%}' for s in seconds], padding=3)
    parts.set(xlabel=f'ms of a traced step ({1e3 * total:,.1f} ms)', title='where the time goes')
    parts.margins(x=0.12)
    figure.suptitle(f'{describe(found)}: {found.images_per_s:,.1f} images/s')
    figure.savefig(path, dpi=120)
