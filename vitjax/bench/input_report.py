"""The input report for people: tables that fit on a screen, a picture, a page for benchmarks/."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import time

from vitjax.bench.input import MODELS, InputReport, feeding_table

_PACKAGES = ('grain', 'simplejpeg', 'opencv-python-headless', 'numpy')
_STAGES = {
  'read': 'read the stored record',
  'decode': 'decode (of a JPEG, the crop alone)',
  'resize': 'resize and mirror',
  'batch': 'shuffle, threads, stack',
}


def input_text(report: InputReport, *, mfu: float) -> str:
  """Returns the tables of a report.

  Args:
    report: from `measure_input`.
    mfu: assumed model FLOPs utilisation of the accelerators.
  """
  height, width = report.image_size
  how = (
    'crops decoded alone' if report.compiled else 'whole images decoded: the compiled part is not installed'
  )
  total = 1 / report.images_per_core_s
  lines = [f'Input: {report.where}; {height} x {width} px; JPEGs: {how}', '']
  lines.append(f'{"stage":<38}{"ms per image":>14}{"images/s per core":>20}{"share":>8}')
  for name, seconds in report.stages.items():
    rate = f'{1 / seconds:,.0f}' if seconds else ''
    lines.append(f'{_STAGES[name]:<38}{seconds * 1e3:>14.3f}{rate:>20}{seconds / total:>8.0%}')
  lines.append(f'{"the whole pipeline":<38}{total * 1e3:>14.3f}{report.images_per_core_s:>20,.0f}')
  lines.append(
    f'with all {report.num_cores} cores: {report.images_per_s:,.0f} images/s, {report.efficiency:.0%} of '
    f'{report.num_cores} x one core (other programs on the machine lower it)'
  )
  lines += ['', f'Cores of this kind that feed one accelerator, at {mfu:.0%} MFU, by model:', '']
  lines.append(f'{"":<26}' + ''.join(f'{model:>10}' for model in MODELS))
  for kind, cores in feeding_table(report, mfu=mfu):
    lines.append(f'{kind:<26}' + ''.join(f'{"-" if n is None else f"{n:.1f}":>10}' for n in cores))
  return '\n'.join(lines)


def input_page(report: InputReport, *, mfu: float, picture: str, peers: str = '') -> str:
  """Returns the Markdown page: the tables, the machine and the versions.

  Args:
    report: from `measure_input`.
    mfu: as in `input_text`.
    picture: file name of the plot, beside the page.
    peers: what benchmarks/input_peers.py wrote; '' leaves that section out.
  """
  versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in _PACKAGES)
  machine = f'{_processor()}, {report.num_cores} cores, Python {platform.python_version()}; {versions}'
  sections = [
    '# Input pipeline',
    '',
    'Written by `python -m vitjax.bench.input_command`; the comparison by `benchmarks/input_peers.py`. What was tried: '
    '[INPUT_LOG.md](INPUT_LOG.md).',
  ]
  if peers:
    sections += ['', '## Beside other pipelines, in one run', '', peers.strip()]
  sections += ['', '## Stages, and cores per accelerator', '', '```', input_text(report, mfu=mfu), '```', '']
  sections += [
    f'{time.strftime("%Y-%m-%d")}, {machine}.',
    '',
    f'![stages and cores per accelerator]({picture})',
    '',
  ]
  return '\n'.join(sections)


def plot_input(report: InputReport, path: str | os.PathLike[str], *, mfu: float) -> pathlib.Path:
  """Writes a PNG: CPU time per image by stage, and the cores that feed each accelerator; returns its path."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, (left, right) = pyplot.subplots(2, 1, figsize=(8, 7), height_ratios=(1, 3), layout='constrained')
  start = 0.0
  for name, seconds in report.stages.items():
    left.barh([0], [seconds * 1e3], left=start, label=f'{name} {seconds * 1e3:.2f}')
    start += seconds * 1e3
  left.set_yticks([])
  left.set_xlabel('CPU time per image, ms')
  left.set_title(f'{report.where}: {report.images_per_core_s:,.0f} images/s per core', fontsize=10)
  left.legend(ncols=4, loc='upper center', bbox_to_anchor=(0.5, -0.45), frameon=False)
  rows = feeding_table(report, mfu=mfu)
  for place, (kind, cores) in enumerate(rows[::-1]):
    known = [(n, model) for n, model in zip(cores, MODELS, strict=True) if n is not None]
    for n, model in known:
      right.plot(n, place, 'o', color=f'C{MODELS.index(model)}')
    right.text(1.01, place, kind, transform=right.get_yaxis_transform(), va='center', fontsize=8)
  for i, model in enumerate(MODELS):
    right.plot([], [], 'o', color=f'C{i}', label=model)
  right.set_yticks(range(len(rows)), [''] * len(rows))
  right.set_xscale('log')
  right.xaxis.set_major_formatter('{x:g}')
  right.grid(axis='x', which='both', alpha=0.3)
  right.axvline(report.num_cores, color='black', lw=1, ls='--', label=f'this host: {report.num_cores}')
  right.set_xlabel(f'cores that feed one accelerator at {mfu:.0%} MFU')
  right.legend(ncols=6, loc='upper center', bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8)
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(target, dpi=120)
  pyplot.close(figure)
  return target


def _processor() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  return next(
    (line.split(':')[1].strip() for line in lines if line.startswith('model name')), platform.machine()
  )
