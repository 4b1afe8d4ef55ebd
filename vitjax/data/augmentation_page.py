"""A picture of what a recipe's augmentations do: each operation at several strengths, and how boxes are drawn."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vitjax.config.augmentation import RANDAUGMENT_OPERATIONS
from vitjax.config.schema import DataConfig
from vitjax.data.naflex import check_native
from vitjax.data.preprocess import Preprocess
from vitjax.data.randaugment import OPERATIONS, color_jitter, random_erasing, three_augment
from vitjax.data.readers import require
from vitjax.data.sources import Source
from vitjax.data.transforms import BOXES, Augment, example_rng
from vitjax.errors import ConfigError, Problem

_LEVELS = (0.0, 5.0, 10.0, 15.0, 20.0)
_NUM_BOXES = 5000
_BOX_IMAGE = (375, 500)  # pixels: ImageNet's usual size
_WIDTH_IN, _TITLE_IN, _ROW_IN, _BOXES_IN = 9.6, 0.7, 1.2, 2.9  # inches
_BAR, _LINE = '#7aa6c2', '#b5473c'


def augmentation_page(
  config: DataConfig, source: Source, path: str | os.PathLike[str], *, seed: int = 0
) -> pathlib.Path:
  """Writes a PNG of the recipe's augmentations on its first image; returns its path.

  One row per operation of RandAugment, from its weakest to its strongest level and the recipe's own, then draws of the
  others that are on; at the end, areas and ratios of 5,000 random boxes on an image of 500 x 375 pixels.

  Args:
    config: the data section.
    source: from open_source; its first image is shown.
    path: a .png file; folders are made.
    seed: of the draws.

  Raises:
    ConfigError: `path` does not end in .png, or the recipe augments nothing.
    UnreadableError: the image is damaged.
  """
  target = pathlib.Path(path)
  if target.suffix.lower() != '.png':
    raise ConfigError('the page is a PNG', [Problem('path', str(target), 'a file name ending in .png')])
  rows = _rows(config, seed)
  if not rows and config.crop not in BOXES:
    expected = f'one of {", ".join(map(repr, BOXES))}, or an augmentation that is on'
    problem = Problem('data.crop', repr(config.crop), expected, 'As with --config.data.randaugment_layers=2')
    raise ConfigError('the recipe has nothing to show', [problem])
  figure = require('matplotlib.figure', 'matplotlib', where='augmentation page')
  check_native(config, None)
  image = Preprocess.from_config(config)(source.load(0)[0])
  boxes_in = _BOXES_IN if config.crop in BOXES else 0.0
  height_in = _TITLE_IN + _ROW_IN * len(rows) + boxes_in
  page = figure.Figure(figsize=(_WIDTH_IN, height_in), dpi=80)
  page.text(
    0.02,
    1 - 0.3 / height_in,
    f'Augmentations of {source.kind} {source.split}, {image.shape[1]} x {image.shape[0]} pixels',
    fontsize=13,
  )
  if rows:
    place = {'left': 0.02, 'right': 0.98, 'top': 1 - _TITLE_IN / height_in, 'bottom': boxes_in / height_in}
    grid = page.add_gridspec(len(rows), 1, hspace=0.2, **place)
    for i, (name, cells) in enumerate(rows):
      _draw_row(page, grid[i], name, cells, image)
  if boxes_in:
    _draw_boxes(page, config, seed, top=(boxes_in - 0.5) / height_in, bottom=0.5 / height_in)
  target.parent.mkdir(parents=True, exist_ok=True)
  page.savefig(target)
  return target


def _rows(
  config: DataConfig, seed: int
) -> list[tuple[str, list[tuple[str, Callable[[np.ndarray], np.ndarray]]]]]:
  """Returns (name, cells) per row; a cell is a caption and a function of the image."""
  rows: list[tuple[str, list[tuple[str, Callable[[np.ndarray], np.ndarray]]]]] = []
  if config.randaugment_layers:
    levels = [*_LEVELS, config.randaugment_magnitude]
    for name in RANDAUGMENT_OPERATIONS:
      captions = [f'{level:g}' for level in levels]
      captions[-1] += ' (recipe)'
      cells = [_at_level(name, level, seed) for level in levels]
      rows.append((name.replace('_', ' '), list(zip(captions, cells, strict=True))))
  draws = [
    ('3-Augment', config.three_augment, lambda x, rng: three_augment(x, rng)),
    (f'colour jitter\n{config.color_jitter:g}', config.color_jitter,
     lambda x, rng: color_jitter(x, rng, strength=config.color_jitter)),
    (f'erasing\n(in {config.erasing_rate:.0%} of images)', config.erasing_rate,
     lambda x, rng: random_erasing(x, rng, rate=1.0)),
  ]  # fmt: skip
  for name, on, function in draws:
    if on:
      cells = [lambda x, i=i, function=function: function(x, example_rng(seed, i)) for i in range(6)]
      rows.append((name, [(f'draw {i + 1}', cell) for i, cell in enumerate(cells)]))
  return rows


def _at_level(name: str, level: float, seed: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda x: np.asarray(OPERATIONS[name](Image.fromarray(x), level, example_rng(seed, 3)))


def _draw_row(page: Any, place: Any, name: str, cells: list[tuple[str, Any]], image: np.ndarray) -> None:
  columns = place.subgridspec(1, len(cells) + 1, wspace=0.06)
  label = page.add_subplot(columns[0])
  label.axis('off')
  label.text(0.02, 0.5, name, fontsize=10, va='center')
  for i, (caption, function) in enumerate(cells):
    axes = page.add_subplot(columns[i + 1])
    axes.imshow(function(image))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(caption, fontsize=7, pad=2)


def _draw_boxes(page: Any, config: DataConfig, seed: int, *, top: float, bottom: float) -> None:
  """Draws the areas and ratios of random boxes."""
  augment = Augment.from_config(config)
  height, width = _BOX_IMAGE
  blank = np.zeros((height, width, 3), np.uint8)
  shapes = np.array([augment.crop_of(blank, example_rng(seed, i)).shape[:2] for i in range(_NUM_BOXES)])
  columns = page.add_gridspec(1, 2, wspace=0.18, left=0.06, right=0.98, top=top, bottom=bottom)
  area, ratio = shapes.prod(1) / (height * width), shapes[:, 1] / shapes[:, 0]
  kind = 'Inception crop (TensorFlow)' if config.crop == 'inception' else 'RandomResizedCrop (torchvision)'
  for i, (values, bounds, words) in enumerate(
    ((area, config.crop_area, 'share of the area'), (ratio, config.crop_ratio, 'width / height'))
  ):
    axes = page.add_subplot(columns[i])
    axes.hist(values, bins=40, density=True, color=_BAR)
    for bound in bounds:
      axes.axvline(bound, color=_LINE, linewidth=1)
    axes.set_xlabel(f'{words}; red: the range of the recipe', fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title(
      f'{kind}: {_NUM_BOXES:,} boxes on {width} x {height}' if i == 0 else '', fontsize=9, loc='left'
    )
