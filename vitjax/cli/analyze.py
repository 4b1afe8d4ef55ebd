"""Show what a model does: attention, positions, filters, features, receptive fields, shifts and shuffles.

  vitjax analyze --checkpoint=runs/pets --images=photos/val --out=runs/pets/analysis
  vitjax analyze --checkpoint=B_16.npz --compare=runs/resnet --images=photos --out=report --only=features,similarity

Writes one HTML page that needs nothing else (report.html), the pictures, and the numbers as CSV and JSON. Folders named
after the model's classes serve as labels. What does not apply to a model is left out, and the page says why.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--checkpoint', required=True, metavar='PATH', help='anything that vitjax.load reads: a workdir, .npz ...'
  )
  parser.add_argument(
    '--images', required=True, metavar='DIR', help='a folder of images; subfolders are searched'
  )
  parser.add_argument('--out', required=True, metavar='DIR', help='where the report goes')
  parser.add_argument(
    '--compare', metavar='PATH', help='a second model, for likeness, receptive fields and probes'
  )
  parser.add_argument('--only', metavar='A,B', help='these analyses alone; a wrong name lists all')
  parser.add_argument(
    '--image_size', type=int, metavar='N', help='pixels; positions are resampled (default: as stored)'
  )
  parser.add_argument(
    '--max_images', type=int, default=128, metavar='N', help='at most so many (default 128, as the paper)'
  )
  parser.add_argument('--num_shown', type=int, default=6, metavar='N', help='images in figures (default 6)')


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Writes the report and prints what was found."""
  from vitjax.cli.environment import prepare

  prepare()
  import vitjax
  from vitjax.errors import ConfigError, Problem

  wrong = [
    Problem(f'--{name}', str(getattr(args, name)), 'at least 1')
    for name in ('image_size', 'max_images', 'num_shown')
    if getattr(args, name) is not None and getattr(args, name) < 1
  ]
  if wrong:
    raise ConfigError('the report cannot be made', wrong)
  from vitjax.analysis import report

  studies = report.choose(args.only)
  paths = report.find_images(pathlib.Path(args.images), limit=args.max_images)
  began_s = time.perf_counter()
  loaded = vitjax.load(args.checkpoint, image_size=args.image_size)
  other = None if args.compare is None else vitjax.load(args.compare, image_size=args.image_size)
  subject = report.make_subject(
    loaded,
    paths,
    name=_name(args.checkpoint),
    other=other,
    other_name='' if other is None else _name(args.compare),
    num_shown=args.num_shown,
  )
  out = pathlib.Path(args.out)
  with progress(len(studies)) as advance:
    sections, left_out = report.write_report(subject, out, studies=studies, advance=advance)
  for section in sections:
    print(f'\n{section.title}\n  {section.headline}')
  for missing in left_out:
    print(f'\n{missing.title}\n  left out: {missing.reason}')
  print(f'\n{time.perf_counter() - began_s:.0f} s; open {out / "report.html"}')
  return 0


def _name(path: str) -> str:
  """Returns a short name for titles: the last folder or file that says something."""
  parts = [part for part in pathlib.Path(path).parts if part != 'checkpoints' and not part.isdigit()]
  return parts[-1] if parts else path


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
  """Shows a bar over studies on a terminal, a line per study elsewhere; yields the function that starts one."""
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

  console = Console(soft_wrap=True, highlight=False)
  started = iter(range(total))
  if not console.is_terminal:
    yield lambda name: console.print(f'[{next(started) + 1}/{total}] {name}', markup=False)
    return
  columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn('{task.description}'))
  with Progress(*columns, console=console) as bar:
    task = bar.add_task('', total=total)
    yield lambda name: bar.update(task, description=name, completed=next(started))
    bar.update(task, completed=total, description='')
