"""Writes Fashion-MNIST with the margins cut off: real images of unequal shape, for configs/experiments/naflex.py.

  python benchmarks/boxed_fashion.py --source=/usr/share/datasets/fashion-mnist --out=runs/boxed_fashion

The Debian package dataset-fashion-mnist holds the source. A box is the smallest that holds every pixel above 8 of 255;
the pixels in it are unchanged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from vitjax.config.schema import SourceConfig
from vitjax.data import Source, open_source, write_array_record

_LEAST = 8


def boxed(image: np.ndarray) -> np.ndarray:
  """Returns the part of a uint8 image [h, w, 3] that is not empty; an empty one whole."""
  filled = image.max(axis=-1) > _LEAST
  rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
  if not len(rows):
    return image
  return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def examples(source: Source, shapes: list[tuple[int, ...]]) -> Iterator[tuple[np.ndarray, int]]:
  """Yields the boxed images and labels of a source; their shapes go to `shapes`."""
  for i in range(len(source)):
    image, label = source.load(i)
    image = boxed(image)
    shapes.append(image.shape)
    yield image, label


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--source', default='/usr/share/datasets/fashion-mnist', metavar='DIR')
  parser.add_argument('--out', default='runs/boxed_fashion', metavar='DIR')
  parser.add_argument('--num_train', type=int, default=10_000)
  parser.add_argument('--num_test', type=int, default=4_000)
  args = parser.parse_args()
  for split, count in (('train', args.num_train), ('test', args.num_test)):
    config = SourceConfig(kind='fashion_mnist', path=args.source, split=f'{split}[:{count}]')
    source = open_source(config)
    shapes: list[tuple[int, ...]] = []
    write_array_record(args.out, examples(source, shapes), split=split, class_names=source.class_names)
    ratios = np.array([width / height for height, width, _ in shapes])
    tenths = ', '.join(f'{value:.2f}' for value in np.quantile(ratios, [0.1, 0.25, 0.5, 0.75, 0.9]))
    print(f'{split}: {len(ratios):,} images; width / height at 10, 25, 50, 75 and 90 %: {tenths}')


if __name__ == '__main__':
  main()
