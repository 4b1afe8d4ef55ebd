"""Write a model for another framework: official .npz, timm, or Hugging Face transformers; with a model card.

vitjax export --checkpoint=runs/pets --format=timm --out=pets-timm
vitjax export --checkpoint=ViT-B_16.npz --format=huggingface --out=vit-b16
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='anything that vitjax.load reads: a workdir, .npz, .safetensors ...',
  )
  parser.add_argument('--format', default='npz', help='npz, timm or huggingface (default npz)')
  parser.add_argument('--out', required=True, metavar='PATH', help='a new .npz file, or a new folder')


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Writes the files and prints what the format has no place for."""
  from vitjax.cli.environment import prepare

  prepare()
  import vitjax

  loaded = vitjax.load(args.checkpoint)
  lost = vitjax.export(loaded, args.out, args.format)
  print(f'{args.out}: {loaded.config.variant}, {loaded.num_classes} classes, as {args.format}')
  for sentence in lost:
    print(f'not in this format: {sentence}')
  return 0
