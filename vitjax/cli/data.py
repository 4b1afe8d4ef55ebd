"""Show what the model will see: a contact sheet of augmented samples (PNG) and the number of images per class.

vitjax data --config=configs/quickstart.py --out=samples.png
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--config',
    required=True,
    metavar='FILE[:arg=value,...]',
    help='a recipe file; --config.a.b=VALUE changes one knob',
  )
  parser.add_argument(
    '--out',
    default='contact_sheet.png',
    metavar='PNG',
    help='the picture to write (default contact_sheet.png)',
  )
  parser.add_argument(
    '--augmentations',
    action='store_true',
    help='instead of samples, show each augmentation at several strengths and how crops are drawn',
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Writes the contact sheet and prints counts of every source that the recipe reads."""
  from rich.cells import cell_len, set_cell_size

  from vitjax.config import load_recipe
  from vitjax.data import augmentation_page, contact_sheet, counts_per_class, open_source
  from vitjax.evaluators import eval_sources

  _, recipe = load_recipe(args.config, overrides)
  configs = {'data.source': recipe.data.source, **eval_sources(recipe)}
  sources = {where: open_source(config, where=where) for where, config in configs.items()}
  for where, source in sources.items():
    print(
      f'{where}: {len(source):,} examples of {source.num_classes} classes ({source.kind}, {source.split})'
    )
    counts = counts_per_class(source)
    width = max(cell_len(class_name) for class_name in counts)
    for class_name, count in counts.items():
      print(f'  {set_cell_size(class_name, width)}  {count:>7,}')
  if args.augmentations:
    augmentation_page(recipe.data, sources['data.source'], args.out, seed=recipe.seed)
    print(f'augmentations, one by one: {args.out}')
    return 0
  contact_sheet(recipe.data, sources['data.source'], args.out, seed=recipe.seed)
  print(f'augmented training samples: {args.out}')
  return 0
