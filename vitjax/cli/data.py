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


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Writes the contact sheet and prints counts of the training source and of every evaluator's."""
  from vitjax.config import load_recipe
  from vitjax.data import contact_sheet, counts_per_class, open_source

  _, recipe = load_recipe(args.config, overrides)
  source = open_source(recipe.data.source)
  for name, config in {'train': recipe.data.source, **{n: e.source for n, e in recipe.evals.items()}}.items():
    opened = source if name == 'train' else open_source(config)
    print(f'{name}: {len(opened):,} examples of {opened.num_classes} classes ({config.kind}, {config.split})')
    counts = counts_per_class(opened)
    width = max(len(class_name) for class_name in counts)
    for class_name, count in counts.items():
      print(f'  {class_name.ljust(width)}  {count:>7,}')
  contact_sheet(recipe.data, source, args.out, seed=recipe.seed)
  print(f'augmented training samples: {args.out}')
  return 0
