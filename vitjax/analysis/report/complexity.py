"""Tables, plot and CSV files of `vitjax complexity`."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from vitjax.analysis.complexity import LAYERS
from vitjax.analysis.report import draw
from vitjax.analysis.scaling import Crossover, Exponents, Measurement

_COLOURS = {
  'convolution': draw.ORANGE,
  'recurrence': draw.GREY,
  'attention products': draw.BLUE,
  'attention projections': '#7aa6d6',
}


def print_formulas(kernel: int) -> None:
  """Prints the table of formulas, with the paper's leading terms and one worked example."""
  t, d = 197, 768
  table = Table(
    title=f'Per layer, by formula; numbers for T = {t}, d = {d} (ViT-B/16 at 224 pixels), k = {kernel}'
  )
  for name in ('layer', 'parameters', 'multiply-adds', "paper's term", 'sequential', 'longest path'):
    table.add_column(name)
  for name, layer in LAYERS.items():
    params, operations, steps, path = layer.formulas
    numbers = (
      f'  {name}' if name.startswith('attention') else name,
      f'{params}\n= {layer.num_params(d, kernel):,}',
      f'{operations}\n= {layer.num_operations(t, d, kernel) / 1e6:,.0f} M',
      layer.leading,
      f'{steps}\n= {layer.num_steps(t)}',
      path if path == '-' else f'{path}\n= {layer.path(t, kernel)}',
    )
    table.add_row(*numbers, end_section=True)
  Console().print(table)


def print_exponents(fits: Sequence[Exponents]) -> None:
  """Prints the fitted exponents beside those of the formulas."""
  device = jax.devices()[0].device_kind
  table = Table(title=f'Exponents: formula, XLA operation counts, times on {device}')
  for name in ('layer', 'in', 'range', 'formula', 'XLA', 'time'):
    table.add_column(name, justify='left' if name in ('layer', 'in') else 'right')
  for fit in fits:
    table.add_row(
      fit.layer,
      fit.vary,
      f'{fit.low} to {fit.high}',
      str(fit.formula),
      f'{fit.xla:.2f}',
      f'{fit.seconds:.2f}',
    )
  Console().print(table)


def print_crossovers(crossovers: Sequence[Crossover], lengths: Sequence[int]) -> None:
  """Prints where self-attention begins to cost more than the other layers."""
  table = Table(
    title=f'Self-attention costs more than ... from T = (whole layers, batch 1, T {lengths[0]} to {lengths[-1]})'
  )
  for name in ('d', 'than', "paper's terms", 'multiply-adds', 'time'):
    table.add_column(name, justify='left' if name == 'than' else 'right')
  for c in crossovers:
    counted = f'{c.counted:.0f}' if c.counted else 'always'
    measured = f'{c.measured:.0f}' if c.measured is not None else c.measured_note
    table.add_row(str(c.d), c.other, str(c.table), counted, measured)
  Console().print(table)


def write(
  out: pathlib.Path,
  measurements: Sequence[Measurement],
  times: Sequence[Measurement],
  fits: Sequence[Exponents],
  crossovers: Sequence[Crossover],
) -> None:
  """Writes complexity.png, scaling.csv, exponents.csv and crossovers.csv into a folder."""
  out.mkdir(parents=True, exist_ok=True)
  for name, rows in (
    ('scaling', [*measurements, *times]),
    ('exponents', fits),
    ('crossovers', crossovers),
  ):
    _write_csv(out / f'{name}.csv', rows)
  (out / 'complexity.png').write_bytes(plot(measurements, fits))


def _write_csv(path: pathlib.Path, rows: Sequence[Any]) -> None:
  with path.open('w', newline='', encoding='utf-8') as file:
    writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(rows[0])])
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)


def plot(measurements: Sequence[Measurement], fits: Sequence[Exponents]) -> bytes:
  """Returns a PNG: times against T and against d, both axes logarithmic, with fitted exponents."""
  figure, axes = draw.canvas(2, 1, height=5.6)
  for axis, vary in zip(axes[:, 0], ('T', 'd'), strict=True):
    for fit in (fit for fit in fits if fit.vary == vary):
      rows = [m for m in measurements if (m.layer, m.vary) == (fit.layer, vary)]
      sizes = [m.t if vary == 'T' else m.d for m in rows]
      name = fit.layer.replace(' ', '\n')
      label = f'{name}: {fit.seconds:.2f} (formula {fit.formula})'
      axis.plot(sizes, [m.seconds for m in rows], 'o-', color=_COLOURS[fit.layer], markersize=4, label=label)
    axis.set_xscale('log', base=2)
    axis.set_yscale('log')
    sizes = {m.t if vary == 'T' else m.d for m in measurements if m.vary == vary}
    ticks = sorted(size for size in sizes if size & (size - 1) == 0)
    axis.set_xticks(ticks, [str(tick) for tick in ticks], rotation=60)
    axis.minorticks_off()
    axis.set_xlabel('T, positions' if vary == 'T' else 'd, width')
    axis.set_ylabel('seconds for one layer')
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.legend(
      frameon=False, loc='center left', bbox_to_anchor=(1.0, 0.5), title=f'exponent of {vary}, by time', fontsize=8,
      title_fontsize=8,
    )  # fmt: skip
  return draw.encoded(figure)
