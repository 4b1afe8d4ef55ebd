"""Pictures of a report: the confusion matrix, and the worst mistakes with their true class and the answer."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vitjax.data.contact_sheet import fitted, font, printable, tile

_INK, _MUTED, _PAPER, _FRAME = (30, 30, 34), (110, 110, 118), (255, 255, 255), (205, 205, 212)
_RIGHT, _WRONG = np.array((37, 99, 168)), np.array((194, 60, 27))
_MOST_CLASSES = 24
_CELL, _NAME_WIDTH, _MARGIN, _TITLE = 40, 190, 16, 84


@dataclasses.dataclass(frozen=True)
class Mistake:
  """One wrong answer: the image uint8 [h, w, 3], its file, the truth, the answer, and how sure it was."""

  pixels: np.ndarray
  file: str
  truth: str
  answer: str


def draw_confusion(matrix: np.ndarray, names: Sequence[str], path: pathlib.Path, *, title: str) -> None:
  """Writes a PNG of a confusion matrix: rows are true classes, columns answers, cells counts and their row's share.

  Of more than 24 classes those with most mistakes are drawn, and the picture says so.

  Args:
    matrix: int [v, v].
    names: v of them.
    path: a .png file.
    title: of the picture.
  """
  chosen = np.arange(len(names))
  wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
  subtitle = (
    'rows: the true class    columns: what the model says    blue: right, red: wrong, in shares of the row'
  )
  if len(names) > _MOST_CLASSES:
    chosen = np.sort(np.argsort(-wrong, kind='stable')[:_MOST_CLASSES])
    subtitle += f'    the {_MOST_CLASSES} of {len(names)} classes with most mistakes'
  labels = [printable(names[i], int(i)) for i in chosen]
  side = _CELL * len(chosen)
  text_width = max(font(13).getlength(label) for label in labels)
  left = _MARGIN + int(min(text_width, _NAME_WIDTH)) + 10
  head = int(min(text_width, _NAME_WIDTH)) + 10
  width = max(left + side + 90, int(font(12).getlength(subtitle)) + 2 * _MARGIN)
  sheet = Image.new('RGB', (width, _TITLE + head + side + _MARGIN), _PAPER)
  draw = ImageDraw.Draw(sheet)
  draw.text((_MARGIN, 12), fitted(title, font(18), width - 2 * _MARGIN), fill=_INK, font=font(18))
  draw.text((_MARGIN, 44), subtitle, fill=_MUTED, font=font(12))
  top = _TITLE + head
  for column, label in enumerate(labels):
    _vertical(sheet, fitted(label, font(13), _NAME_WIDTH), left + column * _CELL, top - 6, head)
  totals = matrix.sum(axis=1)
  for row, i in enumerate(chosen):
    y = top + row * _CELL
    name = fitted(labels[row], font(13), _NAME_WIDTH)
    draw.text((left - 8, y + _CELL / 2), name, fill=_INK, font=font(13), anchor='rm')
    for column, j in enumerate(chosen):
      share = matrix[i, j] / max(totals[i], 1)
      hue = _RIGHT if i == j else _WRONG
      fill = tuple(int(c) for c in (255 - (255 - hue) * (0.06 + 0.94 * share if share else 0)).round())
      x = left + column * _CELL
      draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=fill if share else (246, 246, 248))
      if matrix[i, j]:
        ink = _PAPER if share > 0.5 else _INK
        size = 13 if matrix[i, j] < 10_000 else 10
        draw.text(
          (x + _CELL / 2 - 1, y + _CELL / 2 - 1), str(matrix[i, j]), fill=ink, font=font(size), anchor='mm'
        )
    right = f'{matrix[i, i] / totals[i]:.0%} of {totals[i]}' if totals[i] else 'none judged'
    draw.text((left + side + 8, y + _CELL / 2), right, fill=_MUTED, font=font(11), anchor='lm')
  sheet.save(path)


def _vertical(sheet: Image.Image, text: str, x: int, bottom: int, height: int) -> None:
  """Writes a text upwards, ending above a column."""
  strip = Image.new('RGB', (height, _CELL - 2), _PAPER)
  ImageDraw.Draw(strip).text((0, (_CELL - 2) / 2), text, fill=_INK, font=font(13), anchor='lm')
  turned = strip.rotate(90, expand=True)
  sheet.paste(turned, (x, bottom - turned.height))


def draw_mistakes(
  mistakes: Sequence[Mistake], path: pathlib.Path, *, title: str, subtitle: str, columns: int = 6
) -> None:
  """Writes a PNG of labelled images; without any, a line that says so.

  Args:
    mistakes: the worst first.
    path: a .png file.
    title: of the picture.
    subtitle: in small print below it.
    columns: images in a row.
  """
  cell, gap, text = 172, 12, 56
  columns = max(min(columns, len(mistakes)), 4)
  rows = -(-len(mistakes) // columns)
  width = columns * (cell + gap) + gap
  sheet = Image.new('RGB', (width, 70 + max(rows * (cell + text + gap), 40)), _PAPER)
  draw = ImageDraw.Draw(sheet)
  draw.text((gap, 10), fitted(title, font(18), width - 2 * gap), fill=_INK, font=font(18))
  draw.text((gap, 40), fitted(subtitle, font(12), width - 2 * gap), fill=_MUTED, font=font(12))
  for number, mistake in enumerate(mistakes):
    row, column = divmod(number, columns)
    left, top = gap + column * (cell + gap), 70 + row * (cell + text + gap)
    picture = tile(mistake.pixels, cell)
    x, y = left + (cell - picture.width) // 2, top + (cell - picture.height) // 2
    draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=_FRAME)
    sheet.paste(picture, (x, y))
    captions = ((mistake.truth, _INK), (mistake.answer, tuple(_WRONG.tolist())), (mistake.file, _MUTED))
    for line, (caption, ink) in enumerate(captions):
      size = 12 if line < 2 else 10
      draw.text(
        (left, top + cell + 4 + 17 * line), fitted(caption, font(size), cell), fill=ink, font=font(size)
      )
  sheet.save(path)
