"""Table, plot and summary.json of the quickstart."""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vitjax.cli.quickstart import MODELS, SEEDS, SHOTS, STARTS
from vitjax.config.schema import SourceConfig
from vitjax.data import open_source

Summary = dict[str, Any]


@contextlib.contextmanager
def cell_progress(total: int) -> Iterator[Callable[[str], None]]:
  """Shows a bar over cells on a terminal, a line per cell elsewhere; yields the function that starts a cell."""
  console = Console(soft_wrap=True, highlight=False)
  if not console.is_terminal:
    counter = iter(range(1, total + 1))
    yield lambda text: console.print(f'[{next(counter)}/{total}] {text}', markup=False)
    return
  columns = (
    TextColumn('transfer'),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn('{task.description}'),
  )
  with Progress(*columns, console=console) as bar:
    task = bar.add_task('', total=total)
    started = iter(range(total))
    yield lambda text: bar.update(task, description=text, completed=next(started))
    bar.update(task, completed=total, description='')


def summarize(
  cells: list[dict[str, Any]], pretrained: dict[str, dict[str, float]], *, seconds: float
) -> Summary:
  """Returns the contents of summary.json.

  Args:
    cells: one dict per transfer run: shots, model, start, seed, accuracy.
    pretrained: final metrics of the pretraining runs, by model.
    seconds: wall time of the whole quickstart.
  """
  rows = []
  for shots in SHOTS:
    for model in MODELS:
      for start in STARTS:
        values = [
          c['accuracy'] for c in cells if (c['shots'], c['model'], c['start']) == (shots, model, start)
        ]
        rows.append(
          {
            'shots': shots,
            'model': model,
            'start': start,
            'accuracy_mean': statistics.mean(values),
            'accuracy_std': statistics.stdev(values),
            'accuracies': values,
          }
        )
  return {
    'target': 'scikit-learn digits, test split',
    'seeds': list(SEEDS),
    'rows': rows,
    'pretraining_accuracy': {model: metrics['val/accuracy_top1'] for model, metrics in pretrained.items()},
    'wall_time_s': round(seconds, 1),
  }


def print_table(summary: Summary) -> None:
  """Prints accuracies as mean and standard deviation over seeds."""
  table = Table(title=f'Accuracy on {summary["target"]}, mean ± std of {len(summary["seeds"])} seeds')
  table.add_column('model')
  table.add_column('start')
  for shots in SHOTS:
    table.add_column(f'{shots} per class', justify='right')
  for model, title in MODELS.items():
    for start in STARTS:
      found = {row['shots']: row for row in summary['rows'] if (row['model'], row['start']) == (model, start)}
      texts = [f'{found[s]["accuracy_mean"]:.3f} ± {found[s]["accuracy_std"]:.3f}' for s in SHOTS]
      table.add_row(title, start, *texts, end_section=start == STARTS[-1])
  console = Console()
  console.print(table)
  for model, accuracy in summary['pretraining_accuracy'].items():
    console.print(f'{MODELS[model]} on MNIST after pretraining: {accuracy:.3f}', highlight=False)
  console.print(f'total {summary["wall_time_s"]:.0f} s', highlight=False)


def plot(summary: Summary, path: str | os.PathLike[str]) -> None:
  """Writes the bar plot: one group per number of shots, bars with the standard deviation, dots for the seeds."""
  colors = {'vit': ('#1f5fa8', '#a9c8e8'), 'resnet': ('#b5651d', '#eccba6')}
  figure, axes = plt.subplots(figsize=(7.5, 4.5), layout='constrained')
  bars = [(model, start) for model in MODELS for start in STARTS]
  for i, (model, start) in enumerate(bars):
    rows = [r for r in summary['rows'] if (r['model'], r['start']) == (model, start)]
    x = [group + (i - 1.5) * 0.2 for group in range(len(rows))]
    means, stds = [r['accuracy_mean'] for r in rows], [r['accuracy_std'] for r in rows]
    color = colors[model][STARTS.index(start)]
    drawn = axes.bar(x, means, 0.18, yerr=stds, capsize=3, color=color, label=f'{MODELS[model]} {start}')
    axes.bar_label(drawn, [f'{m:.2f}' for m in means], padding=4, fontsize=9)
    for position, row in zip(x, rows, strict=True):
      axes.plot(
        [position] * len(row['accuracies']), row['accuracies'], '.', color='black', markersize=4, alpha=0.6
      )
  axes.set_xticks(range(len(SHOTS)), [f'{shots} examples per class' for shots in SHOTS])
  axes.set_ylabel('accuracy on the digits test split')
  axes.set_ylim(0, 1.25)
  axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
  axes.axhline(0.1, color='grey', linewidth=0.8, linestyle=':')
  axes.text(0.5, 0.115, 'chance', fontsize=8, color='grey', ha='center')
  axes.set_title(
    f'MNIST pretraining, transferred to digits ({len(summary["seeds"])} seeds, bars: mean and std)'
  )
  axes.legend(ncols=2, loc='upper center', fontsize=9)
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=140)
  plt.close(figure)


def write_example_digit(path: str | os.PathLike[str]) -> str:
  """Writes one test digit as a PNG, for the reader's first prediction; returns the path."""
  digit = open_source(SourceConfig(kind='digits', split='test'))[0]['image']
  cv2.imwrite(str(path), cv2.resize(digit, (64, 64), interpolation=cv2.INTER_CUBIC))
  return str(path)
