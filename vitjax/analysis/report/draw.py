"""Figures in one style: narrow with large text, so that a phone shows them legibly."""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import matplotlib

matplotlib.use('Agg')
import matplotlib.cm
import matplotlib.colors
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

WIDTH = 5.4  # inches; with text of 8 to 10 points
_SMALLEST_PHOTO = 160  # pixels; smaller images are enlarged before a heat map is laid over them
BLUE, ORANGE, GREY, RED = '#2563a8', '#c2671b', '#6b7280', '#b3261e'
HEAT = 'inferno'
_STYLE = {
  'font.size': 9,
  'axes.titlesize': 10,
  'axes.labelsize': 9,
  'xtick.labelsize': 8,
  'ytick.labelsize': 8,
  'legend.fontsize': 8,
  'axes.spines.top': False,
  'axes.spines.right': False,
}


def canvas(
  rows: int = 1, columns: int = 1, *, height: float, width: float = WIDTH, **options: object
) -> tuple[Figure, np.ndarray]:
  """Returns a figure of `height` and `width` inches and its axes [rows, columns]."""
  with matplotlib.rc_context(_STYLE):
    figure, axes = plt.subplots(
      rows, columns, figsize=(width, height), layout='constrained', squeeze=False, **options
    )
  return figure, axes


def encoded(figure: Figure) -> bytes:
  """Returns the figure as PNG, and closes it."""
  buffer = io.BytesIO()
  with matplotlib.rc_context(_STYLE):
    figure.savefig(buffer, format='png', dpi=200, facecolor='white')
  plt.close(figure)
  return buffer.getvalue()


def show(axes: Axes, image: np.ndarray, title: str = '', **options: object) -> object:
  """Draws an image without ticks; returns what a colour bar needs."""
  drawn = axes.imshow(image, **options)
  axes.set_xticks([])
  axes.set_yticks([])
  axes.spines[:].set_visible(False)
  if title:
    axes.set_title(title)
  return drawn


def enlarged(values: np.ndarray, size: Sequence[int], *, smooth: bool = True) -> np.ndarray:
  """Returns a map [h, w] or [h, w, c] at another size (rows, columns)."""
  method = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
  return cv2.resize(
    np.ascontiguousarray(values, np.float32), (int(size[1]), int(size[0])), interpolation=method
  )


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
  """Returns a photograph under a heat map, uint8 [H, W, 3]: grey where the map is 0, its colour at its maximum.

  The map is scaled to its own range between 0 and the 99.5th percentile, so that one hot patch does not turn
  all others dark.

  Args:
    pixels: uint8 [h, w, 3].
    heat: not negative [h', w'].
  """
  factor = max(-(-_SMALLEST_PHOTO // max(pixels.shape[:2])), 1)
  pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
  top = np.percentile(heat, 99.5)
  scaled = np.clip(enlarged(heat / max(top, 1e-30), pixels.shape[:2]), 0, 1)
  colour = plt.get_cmap(HEAT)(scaled)[..., :3]
  grey = np.repeat(pixels.mean(axis=-1, keepdims=True) / 255, 3, axis=-1)
  weight = 0.25 + 0.6 * scaled[..., None]
  return (255 * ((1 - weight) * (0.25 + 0.75 * grey) + weight * colour)).round().clip(0, 255).astype(np.uint8)


def tiled(tiles: np.ndarray, *, gap: int, fill: float = np.nan) -> np.ndarray:
  """Returns tiles [rows, columns, h, w, ...] as one image with gaps between them."""
  rows, columns, h, w = tiles.shape[:4]
  canvas_shape = (rows * (h + gap) - gap, columns * (w + gap) - gap, *tiles.shape[4:])
  whole = np.full(canvas_shape, fill, np.float64)
  for r in range(rows):
    for c in range(columns):
      top, left = r * (h + gap), c * (w + gap)
      whole[top : top + h, left : left + w] = tiles[r, c]
  return whole


def readable_log(axis: Axis) -> None:
  """Labels a logarithmic axis with plain numbers at 1, 2, 5 of every decade."""
  axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
  axis.set_major_formatter('{x:g}')
  axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def heat_bar(figure: Figure, axes: object) -> None:
  """Adds the colour bar of `overlay`."""
  mappable = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), HEAT)
  scale_bar(
    figure, mappable, axes, 'share of the largest value of the map', orientation='horizontal', shrink=0.5
  )


def scale_bar(figure: Figure, drawn: object, axes: object, label: str, **options: object) -> None:
  """Adds a thin colour bar with its label."""
  with matplotlib.rc_context(_STYLE):
    bar = figure.colorbar(drawn, ax=axes, **{'shrink': 0.8, 'aspect': 40, 'pad': 0.02, **options})
  bar.set_label(label, fontsize=8)
  bar.ax.tick_params(labelsize=7)
  bar.outline.set_visible(False)
