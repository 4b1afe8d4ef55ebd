"""Tables, plot and CSV files of `vitjax complexity`."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

import jax
import matplotlib.ticker
from rich.console import Console
from rich.table import Table

from vitjax.analysis.complexity import LAYERS
from vitjax.analysis.report import draw
from vitjax.analysis.scaling import Crossover, Exponents, Measurement

# How far an exponent of time may be from the formula's to count as the same.
TOLERANCE = 0.15
_COLOURS = {
  'convolution': draw.ORANGE,
  'recurrence': draw.GREY,
  'attention products': draw.BLUE,
  'attention projections': '#7aa6d6',
}


@dataclasses.dataclass(frozen=True)
class Rows:
  """A table, for the terminal and for the page.

  Attributes:
    title: what it shows.
    header: names of the columns.
    rows: cells; a cell may have two lines.
  """

  title: str
  header: tuple[str, ...]
  rows: tuple[tuple[str, ...], ...]

  def show(self) -> None:
    """Prints it."""
    table = Table(title=self.title)
    for name in self.header:
      table.add_column(name)
    for row in self.rows:
      table.add_row(*row, end_section='\n' in row[1])
    Console().print(table)

  def markdown(self) -> list[str]:
    """Returns its lines in Markdown."""
    lines = [f'{self.title}:', '', f'| {" | ".join(self.header)} |', '| --- ' * len(self.header) + '|']
    lines += [f'| {" | ".join(cell.strip().replace(chr(10), "<br>") for cell in row)} |' for row in self.rows]
    return [*lines, '']


def formulas(kernel: int) -> Rows:
  """Returns the table of formulas, with the paper's leading terms and one worked example."""
  t, d = 197, 768
  rows = []
  for name, layer in LAYERS.items():
    params, operations, steps, path = layer.formulas
    rows.append(
      (
        f'  {name}' if name.startswith('attention') else name,
        f'{params}\n= {layer.num_params(d, kernel):,}',
        f'{operations}\n= {layer.num_operations(t, d, kernel) / 1e6:,.0f} M',
        layer.leading,
        f'{steps}\n= {layer.num_steps(t)}',
        path if path == '-' else f'{path}\n= {layer.path(t, kernel)}',
      )
    )
  header = ('layer', 'parameters', 'multiply-adds', "paper's term", 'sequential', 'longest path')
  title = f'Per layer, by formula; numbers for T = {t}, d = {d} (ViT-B/16 at 224 pixels), k = {kernel}'
  return Rows(title, header, tuple(rows))


def exponents(fits: Sequence[Exponents]) -> Rows:
  """Returns the fitted exponents beside those of the formulas."""
  rows = tuple(
    (
      fit.layer,
      fit.vary,
      f'{fit.low} to {fit.high}',
      str(fit.formula),
      f'{fit.xla:.2f}',
      f'{fit.seconds:.2f}',
      f'{fit.seconds - fit.formula:+.2f}',
    )
    for fit in fits
  )
  title = f'Exponents: formula, XLA operation counts, times on {jax.devices()[0].device_kind}'
  return Rows(title, ('layer', 'in', 'range', 'formula', 'XLA', 'time', 'time - formula'), rows)


def crossing_points(crossovers: Sequence[Crossover], lengths: Sequence[int]) -> Rows:
  """Returns where self-attention begins to cost more than the other layers."""
  rows = []
  for c in crossovers:
    counted = f'{c.counted:.0f}' if c.counted else 'always'
    measured = f'{c.measured:.0f}' if c.measured is not None else c.measured_note
    rows.append((str(c.d), c.other, str(c.table), counted, measured))
  header = ('d', 'than', "paper's terms", 'multiply-adds', 'time')
  title = (
    f'Self-attention costs more than ... from T = (whole layers, batch 1, T {lengths[0]} to {lengths[-1]})'
  )
  return Rows(title, header, tuple(rows))


def page(tables: Sequence[Rows], command: str, fits: Sequence[Exponents]) -> str:
  """Returns the results as Markdown.

  Args:
    tables: in their order.
    command: that was run.
    fits: of the second table, for the summary.
  """
  inside = sum(abs(fit.seconds - fit.formula) <= TOLERANCE for fit in fits)
  lines = ['# What a layer costs', '', '```', command, '```', '']
  lines += [line for table in tables for line in table.markdown()]
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  lines += [
    f'{inside} of {len(fits)} exponents of time lie within {TOLERANCE} of the formula.',
    '',
    '![times against T and d](complexity.png)',
    '',
    f'The fastest of several runs of one compiled layer, float32, on {cores} of the cores of a {platform.machine()} '
    f'machine; jax {jax.__version__}, {datetime.date.today().isoformat()}. The ranges are the far ends, where the '
    'leading term rules; every measurement is a row of scaling.csv. What it does not show: accelerators, where a '
    'recurrence waits for its steps rather than for operations, and attention that never stores T x T scores.',
  ]
  return '\n'.join(lines) + '\n'


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
      batch = f',\nbatch {rows[0].batch_size}' if rows[0].batch_size > 1 else ''
      name = fit.layer.replace(' ', '\n') + batch
      label = f'{name}: {fit.seconds:.2f} (formula {fit.formula})'
      axis.plot(sizes, [m.seconds for m in rows], 'o-', color=_COLOURS[fit.layer], markersize=4, label=label)
    axis.set_xscale('log', base=2)
    axis.set_yscale('log')
    axis.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5) if vary == 'd' else (1,)))
    axis.yaxis.set_major_formatter('{x:g}')
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
