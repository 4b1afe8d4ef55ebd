"""What a study takes and gives: a model with photographs in, a section with pictures and numbers out."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from vitjax.loaded import Loaded


@dataclasses.dataclass(frozen=True)
class Subject:
  """What is analysed.

  Attributes:
    loaded: the model.
    name: of the model, for titles.
    paths: image files.
    pixels: uint8 [n, h, w, 3]: the same images as the model sees them, before normalisation.
    inputs: float32 [n, h, w, 3]: after it.
    labels: int64 [n] where folder names say the classes, or None.
    other: a second model to compare with, or None.
    other_name: its name, '' without one.
    num_shown: images that figures show.
  """

  loaded: Loaded
  name: str
  paths: tuple[pathlib.Path, ...]
  pixels: np.ndarray
  inputs: np.ndarray
  labels: np.ndarray | None
  other: Loaded | None
  other_name: str
  num_shown: int

  @property
  def other_labels(self) -> np.ndarray | None:
    """Labels for the second model: the same, if it has the same classes."""
    same = self.other is not None and self.other.class_names == self.loaded.class_names
    return self.labels if same else None

  @property
  def shown(self) -> np.ndarray:
    """Pixels of the images that figures show, uint8 [s, h, w, 3]: spread evenly over the folder."""
    return self.pixels[self.shown_index]

  @property
  def shown_index(self) -> np.ndarray:
    """Which images figures show, int64 [s]."""
    count = min(self.num_shown, len(self.pixels))
    return np.linspace(0, len(self.pixels) - 1, count).round().astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Picture:
  """One figure of a section.

  Attributes:
    name: file stem, unique in the report.
    png: the encoded file.
    caption: what it shows.
    alt: a text for those who cannot see it.
  """

  name: str
  png: bytes
  caption: str
  alt: str


@dataclasses.dataclass(frozen=True)
class Section:
  """What one study found.

  Attributes:
    key: its name on the command line.
    title: a short question or name.
    headline: one sentence with this model's own numbers.
    how: how it is computed, with the source.
    caveat: what it does not show.
    pictures: in reading order.
    columns: of the CSV.
    rows: of the CSV.
    numbers: for the JSON.
  """

  key: str
  title: str
  headline: str
  how: str
  caveat: str
  pictures: tuple[Picture, ...]
  columns: tuple[str, ...]
  rows: list[tuple[Any, ...]]
  numbers: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LeftOut:
  """A study that does not apply, and why."""

  key: str
  title: str
  reason: str
