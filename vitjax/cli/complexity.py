"""The table of layer complexity, computed and measured: convolution, recurrence, self-attention.

  vitjax complexity --out=runs/complexity
  vitjax complexity --out=runs/complexity --kernel=7

Parameters, operations, sequential steps and path length as formulas in T, d and k; beside them XLA's counts and times
at growing sizes, exponents fitted to both, and the T at which attention begins to cost more. Writes results.md,
complexity.png and CSV files.
"""

from __future__ import annotations

import argparse
import pathlib


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument('--out', default='runs/complexity', metavar='DIR', help='where plot and CSV go')
  parser.add_argument(
    '--kernel', type=int, default=3, metavar='K', help='width of the convolution (default 3)'
  )
  parser.add_argument(
    '--repeats', type=int, default=5, metavar='N', help='runs per size; the fastest counts (default 5)'
  )
  parser.add_argument('--smoke', action='store_true', help='tiny sizes: does it run?')


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Measures, prints three tables and writes the files."""
  from vitjax.cli.environment import prepare

  prepare()
  from vitjax.errors import ConfigError, Problem

  lowest = {'kernel': 2, 'repeats': 1}
  wrong = [
    Problem(f'--{name}', str(getattr(args, name)), f'at least {least}')
    for name, least in lowest.items()
    if getattr(args, name) < least
  ]
  if wrong:
    raise ConfigError('nothing can be measured like this', wrong)
  from vitjax.analysis import scaling
  from vitjax.analysis.report import complexity as report
  from vitjax.cli.analyze import progress

  sizes = scaling.SMOKE_SIZES if args.smoke else scaling.SIZES
  widths = scaling.CROSSOVER_WIDTHS[:1] if args.smoke else scaling.CROSSOVER_WIDTHS
  lengths = scaling.CROSSOVER_LENGTHS[:3] if args.smoke else scaling.CROSSOVER_LENGTHS
  tables = [report.formulas(args.kernel)]
  tables[0].show()
  num_cells = sum(len(size.lengths) + len(size.widths) for size in sizes.values())
  with progress(num_cells + len(widths)) as advance:
    options = {'kernel': args.kernel, 'repeats': args.repeats, 'advance': advance}
    measurements = scaling.measure_scaling(sizes, **options)
    crossovers, times = scaling.measure_crossovers(widths, lengths, **options)
  fits = scaling.exponents(measurements)
  tables += [report.exponents(fits), report.crossing_points(crossovers, lengths)]
  for table in tables[1:]:
    table.show()
  out = pathlib.Path(args.out)
  report.write(out, measurements, times, fits, crossovers)
  flags = (
    ''.join(f' --{name}={getattr(args, name)}' for name in ('kernel', 'repeats')) + ' --smoke' * args.smoke
  )
  text = report.page(tables, f'vitjax complexity --out={args.out}{flags}', fits)
  (out / 'results.md').write_text(text, encoding='utf-8')
  print(f'page: {out / "results.md"}   plot: {out / "complexity.png"}   figures: {out}/*.csv')
  return 0
