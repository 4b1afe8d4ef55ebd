"""Measures the input of a recipe, prints what it found, writes a page and a picture.

python -m vitjax.bench.input_command --config=configs/pretrain.py --photos --out=benchmarks
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import tempfile

import jax

from vitjax.bench.input import measure_input, shortage
from vitjax.bench.input_report import input_page, input_text, plot_input
from vitjax.bench.photos import write_photos
from vitjax.config import load_recipe
from vitjax.config.schema import DataConfig, Recipe, SourceConfig
from vitjax.data import open_source

_NUM_PHOTOS = 512
_DEFAULT_MFU = 0.45


def bench_input(
  recipe: Recipe,
  *,
  photos: bool,
  out: str | None = None,
  peers: str | None = None,
  mfu: float = _DEFAULT_MFU,
  seconds: float = 4,
) -> str:
  """Returns the text of the report for a recipe's input on this machine; writes files where `out` says so.

  Args:
    recipe: its data section is measured; its model decides whether this host feeds its devices.
    photos: read photographs of ImageNet's size, made for the purpose, rather than the recipe's source.
    out: folder to write INPUT.md and INPUT.png to.
    peers: Markdown file of benchmarks/input_peers.py to include.
    mfu: assumed model FLOPs utilisation of the accelerators.
    seconds: to run the pipeline for; the whole takes about twice as long.

  Raises:
    DataError: the source cannot be opened.
  """
  with tempfile.TemporaryDirectory() as folder:
    data = recipe.data
    if photos:
      write_photos(pathlib.Path(folder), _NUM_PHOTOS)
      data = _of_folder(data, folder)
    source = open_source(data.source)
    report = measure_input(data, source, seed=recipe.seed, seconds=seconds)
  if photos:
    where = f'{_NUM_PHOTOS} photographs of 500 x 375 pixels, 56 to 84 kB'
    report = dataclasses.replace(report, where=where)
  text = input_text(report, mfu=mfu)
  num_classes = source.num_classes if photos or recipe.model.num_classes is None else recipe.model.num_classes
  warning = shortage(recipe, report, num_classes=num_classes, devices=jax.local_devices(), mfu=mfu)
  if out is not None:
    pathlib.Path(out).mkdir(parents=True, exist_ok=True)
    page = pathlib.Path(out) / 'INPUT.md'
    picture = plot_input(report, page.with_suffix('.png'), mfu=mfu)
    comparison = pathlib.Path(peers).read_text(encoding='utf-8') if peers else ''
    page.write_text(input_page(report, mfu=mfu, picture=picture.name, peers=comparison), encoding='utf-8')
    text += f'\n\nwritten: {page}, {picture}'
  return f'{text}\n\nwarning: {warning}' if warning else text


def _of_folder(data: DataConfig, folder: str) -> DataConfig:
  return dataclasses.replace(data, source=SourceConfig(kind='image_folder', path=folder))


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags of the input report, beside --config and --out."""
  parser.add_argument(
    '--photos', action='store_true', help='read photographs made for the purpose, not the data'
  )
  parser.add_argument(
    '--peers', metavar='FILE', help='table of benchmarks/input_peers.py to put into the page'
  )
  parser.add_argument(
    '--mfu',
    type=float,
    default=_DEFAULT_MFU,
    help='assumed utilisation of the accelerators (default %(default)s)',
  )


def main() -> None:
  """Runs `python -m vitjax.bench.input_command --config=FILE [--photos] [--out=FOLDER]`."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', required=True, metavar='FILE[:arg=value,...]', help='a recipe file')
  parser.add_argument('--out', metavar='FOLDER', help='write INPUT.md and INPUT.png there')
  add_arguments(parser)
  args = parser.parse_args()
  _, recipe = load_recipe(args.config, [])
  print(bench_input(recipe, photos=args.photos, out=args.out, peers=args.peers, mfu=args.mfu))


if __name__ == '__main__':
  main()
