"""Write labelled images as ArrayRecord shards, for file systems that are slow with many small files.

  vitjax data prepare photos --out=photos-shards
  vitjax data prepare ~/tensorflow_datasets/cifar10/3.0.2 --out=cifar10-shards
  vitjax train --config=configs/transfer.py:data=photos-shards --workdir=runs/photos

SOURCE is an image folder (with train/ and val/ inside or not), a manifest (.csv, .tsv, .jsonl), a Hugging Face folder,
or a version folder that TFDS prepared, tfrecord too: TensorFlow is not needed. Images are copied byte by byte. A call
that was interrupted goes on where it stood.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument('source', metavar='SOURCE', help='where the images are')
  parser.add_argument('--out', required=True, metavar='DIR', help='a new folder for the shards')
  parser.add_argument(
    '--num_shards', type=int, metavar='N', help='files per split (default: one for each 4,096 images)'
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Writes the shards; prints counts per split."""
  from vitjax.errors import ConfigError, Problem
  from vitjax.own_images.prepare import prepare

  if args.num_shards is not None and args.num_shards < 1:
    raise ConfigError('no shards', [Problem('--num_shards', str(args.num_shards), 'at least 1')])
  done = prepare(args.source, args.out, num_shards=args.num_shards, progress=print)
  for split, counts in done.counts.items():
    shards = done.num_shards[split]
    files = f'{shards} shard{"s" if shards > 1 else ""}'
    print(f'{split}: {sum(counts.values()):,} labels of {len(counts)} classes in {files}')
  print(f'read back and compared: {args.out}')
  print(f'next: vitjax train --config=configs/transfer.py:data={args.out} --workdir=DIR')
  return 0
