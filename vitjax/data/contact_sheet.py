"""A picture of what the model is about to see: augmented training samples with their labels."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitjax.config.schema import DataConfig
from vitjax.data.naflex import check_native
from vitjax.data.pipeline import train_batches
from vitjax.data.readers import Label, as_label, require
from vitjax.data.sources import Source
from vitjax.data.transforms import BOXES
from vitjax.errors import ConfigError, Problem

_CELL = 128
_GAP = 10
_LABEL_HEIGHT = 22
_TITLE_HEIGHT = 58
# DejaVu Sans ends about where the East Asian scripts begin.
_FIRST_WITHOUT_GLYPH = 0x2E80
_INK, _MUTED, _PAPER, _FRAME = (30, 30, 34), (110, 110, 118), (255, 255, 255), (205, 205, 212)


def contact_sheet(
  config: DataConfig,
  source: Source,
  path: str | os.PathLike[str],
  *,
  seed: int = 0,
  rows: int = 6,
  columns: int = 8,
) -> pathlib.Path:
  """Writes a PNG of the first training samples, cropped and flipped as the model gets them; returns its path.

  Pixels are shown before normalisation, small images enlarged by whole pixels. A damaged record is replaced by the next
  one, as in training.

  Args:
    config: image size and augmentation.
    source: from open_source.
    path: a .png file; folders are made.
    seed: the run's seed; with it the sheet shows the very first samples of the run.

  Raises:
    ConfigError: `path` does not end in .png.
    DataError: more of these samples are damaged than the source tolerates.
  """
  target = pathlib.Path(path)
  if target.suffix.lower() != '.png':
    raise ConfigError(
      'the contact sheet is a PNG', [Problem('path', str(target), 'a file name ending in .png')]
    )
  check_native(config, None)
  width = columns * (_CELL + _GAP) + _GAP
  sheet = Image.new('RGB', (width, _TITLE_HEIGHT + rows * (_CELL + _LABEL_HEIGHT + _GAP)), _PAPER)
  draw = ImageDraw.Draw(sheet)
  title = f'{source.kind}  {source.split}'
  draw.text((_GAP, 10), fitted(title, font(18), width - 2 * _GAP), fill=_INK, font=font(18))
  draw.text(
    (_GAP, 34),
    fitted(_subtitle(config, source, seed), font(12), width - 2 * _GAP),
    fill=_MUTED,
    font=font(12),
  )
  # What stands at a position does not depend on the batch size, nor on who makes it.
  one_batch = dataclasses.replace(config, batch_size=rows * columns, num_workers=0, prefetch=1)
  with train_batches(one_batch, source, seed=seed) as batches:
    batch = next(batches)
  images = _on_device(config, batch['image'], seed)
  labels = [as_label(label) for label in batch['label']]
  for position, (image, label) in enumerate(zip(images, labels, strict=True)):
    drawn = tile(image, _CELL)
    row, column = divmod(position, columns)
    left, top = _GAP + column * (_CELL + _GAP), _TITLE_HEIGHT + row * (_CELL + _LABEL_HEIGHT + _GAP)
    x, y = left + (_CELL - drawn.width) // 2, top + (_CELL - drawn.height) // 2
    draw.rectangle((x - 1, y - 1, x + drawn.width, y + drawn.height), outline=_FRAME)
    sheet.paste(drawn, (x, y))
    text = fitted(caption(source.class_names, label), font(13), _CELL)
    draw.text((left + _CELL / 2, top + _CELL + 4), text, fill=_INK, font=font(13), anchor='ma')
  target.parent.mkdir(parents=True, exist_ok=True)
  sheet.save(target)
  return target


def _on_device(config: DataConfig, images: np.ndarray, seed: int) -> np.ndarray:
  """Returns images uint8 [n, h, w, 3] after what the device would do to them, with other draws than the run's."""
  if config.augment_on != 'device':
    return images
  import jax

  from vitjax.ops.augment import augmented

  return np.asarray(jax.jit(augmented, static_argnums=2)(jax.random.key(seed), images, config))


def _subtitle(config: DataConfig, source: Source, seed: int) -> str:
  crop = f'crop {config.crop}'
  if config.crop in BOXES:
    crop += f', area {config.crop_area[0]:g} to {config.crop_area[1]:g}'
  elif config.crop == 'random':
    crop += f' out of {config.precrop_size} x {config.precrop_size} pixels'
  elif config.crop == 'shift':
    crop += f' up to {config.shift} px'
  flip = ', '.join(['flip' if config.flip else 'no flip', *_augmentations(config)])
  height, width = config.image_size
  return (
    f'{len(source):,} examples, {source.num_classes} classes  |  {crop}, {flip}, {config.interpolation}  |  '
    f'{height} x {width} px  |  seed {seed}'
  )


def _augmentations(config: DataConfig) -> list[str]:
  names = {
    '3-Augment': config.three_augment,
    f'RandAugment({config.randaugment_layers}, {config.randaugment_magnitude:g})': config.randaugment_layers,
    f'jitter {config.color_jitter:g}': config.color_jitter,
    f'erasing {config.erasing_rate:g}': config.erasing_rate,
  }
  return [name for name, on in names.items() if on]


def caption(class_names: Sequence[str], label: Label) -> str:
  """Returns the name of an image's class, or of each of its classes."""
  if isinstance(label, int):
    return printable(class_names[label], label)
  return ', '.join(printable(class_names[i], int(i)) for i in np.flatnonzero(label)) or 'no class'


def printable(name: str, label: int) -> str:
  """Returns the class name, with its id in front where the font has no glyphs (Chinese, emoji, ...)."""
  return f'{label}: {name}' if any(ord(letter) >= _FIRST_WITHOUT_GLYPH for letter in name) else name


def font(size: int) -> ImageFont.FreeTypeFont:
  """Returns DejaVu Sans, which comes with matplotlib and covers most alphabets."""
  matplotlib = require('matplotlib', 'matplotlib', where='contact sheet')
  return ImageFont.truetype(pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'), size)


def fitted(text: str, face: ImageFont.FreeTypeFont, width: int) -> str:
  """Returns `text`, cut with an ellipsis where it is wider than `width` pixels."""
  if face.getlength(text) <= width:
    return text
  kept = next(n for n in range(len(text) - 1, -1, -1) if face.getlength(text[:n] + '…') <= width)
  return text[:kept] + '…'


def tile(image: np.ndarray, cell: int) -> Image.Image:
  """Returns an image uint8 [h, w, 3] scaled into `cell` pixels: by a whole factor, or smoothly when it is larger."""
  picture = Image.fromarray(image)
  larger = max(picture.size)
  if larger <= cell:
    factor = cell // larger
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
  size = tuple(max(round(side * cell / larger), 1) for side in picture.size)
  return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
