"""benchmarks/BENCHMARKS.md from the figures in benchmarks/results."""

from __future__ import annotations

import json
import pathlib
import statistics
from typing import Any

from vitjax.errors import DataError, Problem

# Laps of a start, see training/timeline.py.
_LAPS = ('imports', 'build', 'ready', 'first step')
_HEADER = """# Benchmarks

Written by `vitjax bench --report=benchmarks` from the files in `results/`; do not edit. [README.md](README.md) says how
to repeat the measurements. Medians of interleaved blocks, best and worst in brackets. A ratio above 1 means that vitjax
is faster. The step is forward, backward and AdamW on images that are in memory already.
"""


def write_report(folder: pathlib.Path) -> pathlib.Path:
  """Writes FOLDER/BENCHMARKS.md anew and returns its path.

  Raises:
    DataError: FOLDER/results holds no figures.
  """
  files = sorted((folder / 'results').glob('*.json'))
  found = [json.loads(path.read_text()) for path in files]
  found = [data for data in found if {'summary', 'components', 'starts'} & set(data)]
  if not found:
    problem = Problem(
      str(folder / 'results'), '', 'files *.json',
      'Run benchmarks/compare.py, or vitjax bench with --out=FOLDER and copy its step.json there',
    )  # fmt: skip
    raise DataError('there is nothing to report', [problem])
  parts = [_HEADER]
  parts += [_comparison(data) for data in found if 'summary' in data]
  parts += [_step(data) for data in found if 'components' in data]
  parts += [_starts(data) for data in found if 'starts' in data]
  path = folder / 'BENCHMARKS.md'
  path.write_text('\n'.join(parts), encoding='utf-8')
  return path


def _comparison(data: dict[str, Any]) -> str:
  """Returns the section of one file of compare.py."""
  rows = data['summary']
  own = rows['vitjax'] if 'vitjax' in rows else None
  machine = data['machine']
  threads = f'{data["threads"]} thread' + ('s' if data['threads'] > 1 else '')
  lines = [
    f'## {data["model"]}, batch {data["batch"]}, float32, {threads}',
    '',
    f'{machine["processor"]}, {machine["cores"]} cores, {machine["system"]}; {data["date"]}.',
    '',
    '| | images/s | ms a step | CPU seconds a step | vitjax, by time | by CPU seconds | versions |',
    '| --- | ---: | ---: | ---: | ---: | ---: | --- |',
  ]
  for name, row in sorted(rows.items(), key=lambda item: item[1]['median_s']):
    ratios = ('', '')
    if own is not None and name != 'vitjax':
      ratios = (f'{row["median_s"] / own["median_s"]:.2f}x', f'{row["cpu_s"] / own["cpu_s"]:.2f}x')
    times = f'{1e3 * row["median_s"]:,.0f} ({1e3 * row["best_s"]:,.0f} to {1e3 * row["worst_s"]:,.0f})'
    versions = ', '.join(f'{lib} {v}' for lib, v in data['rows'][name]['versions'].items())
    lines.append(
      f'| {name} | {row["images_per_s"]:,.2f} | {times} | {row["cpu_s"]:.3f} | {ratios[0]} | {ratios[1]} '
      f'| {versions} |'
    )
  calm = ', '.join(
    f'{name} {row["calm"]} of {len(data["rows"][name]["step_s"])}' for name, row in rows.items()
  )
  return '\n'.join([*lines, '', f'Blocks without disturbance by other processes: {calm}.', ''])


def _step(data: dict[str, Any]) -> str:
  """Returns the section of one file of `vitjax bench`."""
  machine = data['machine']
  device = machine['device'] if machine['device'] != 'cpu' else machine['processor']
  height, width = machine['image_size']
  times = sorted(data['step_s'])
  median = times[len(times) // 2]
  rate = data['batch_size'] / median * data['train_flops_per_example']
  total = sum(data['components'].values())
  shares = ', '.join(
    f'{name} {seconds / total:.0%}'
    for name, seconds in sorted(data['components'].items(), key=lambda item: -item[1])
  )
  peak = data['peak_flops_per_s']
  mfu = f'MFU {rate / peak:.1%}; ' if peak else ''
  return '\n'.join(
    [
      f'## {data["model"]}, {height} x {width}, batch {data["batch_size"]}, {data["dtype"]}: the step of a recipe',
      '',
      f'`{data["recipe"]}` on {machine["num_devices"]} x {device}; {data["date"]}; '
      + ', '.join(f'{name} {version}' for name, version in data['versions'].items())
      + '.',
      '',
      f'- {1e3 * median:,.1f} ms a step ({1e3 * times[0]:,.1f} to {1e3 * times[-1]:,.1f}), '
      f'{data["batch_size"] / median:,.1f} images/s',
      f'- {rate / 1e12:,.3f} TFLOP/s; {mfu}{rate / data["matmul_flops_per_s"]:.1%} of one large matrix product',
      f'- compiled in {data["compile_s"]:.1f} s after {data["trace_s"]:.1f} s of tracing',
      f'- of a traced step: {shares}',
      '',
    ]
  )


def _starts(data: dict[str, Any]) -> str:
  """Returns the section of the file of start.py."""
  machine = data['machine']
  lines = [
    '## From the command to the first step',
    '',
    f'{machine["processor"]}, {machine["cores"]} cores, {machine["system"]}; {data["date"]}; '
    + ', '.join(f'{name} {version}' for name, version in data['versions'].items())
    + '.',
    '',
    'Seconds of `vitjax train` from the start of the process, median (least to most): *cold* with an empty compilation',
    'cache, *warm* the same command again. Compiling, making the state and the first batch run side by side.',
    '',
    '| recipe | starts of each | cold | warm | warm / cold | warm: imports | build | ready | first step |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
  ]
  for recipe, row in data['starts'].items():
    cold, warm = ([start['total'] for start in row[kind]] for kind in ('cold', 'warm'))
    parts = [statistics.median(start[name] for start in row['warm']) for name in _LAPS]
    lines.append(
      f'| `{recipe}`: {row["what"]} | {len(cold)} | {_spread(cold)} | {_spread(warm)} '
      f'| {statistics.median(warm) / statistics.median(cold):.2f} | '
      + ' | '.join(f'{seconds:.1f}' for seconds in parts)
      + ' |'
    )
  return '\n'.join([*lines, ''])


def _spread(seconds: list[float]) -> str:
  return f'{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})'
