"""Classes that a TFDS record does not hold as such: counted, binned, or read off a list of objects.

`data.source.label` names one of them, or a feature that is a class already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

Features = Mapping[str, Any]  # name -> Feature of a tf.train.Example; lists of objects are flat


@dataclasses.dataclass(frozen=True)
class Bins:
  """A class feature whose neighbouring ids are put together: floor(id * num_classes / num_ids)."""

  feature: str
  num_ids: int
  num_classes: int

  @property
  def class_names(self) -> tuple[str, ...]:
    """One name per class: the ids in it."""
    ids = range(self.num_ids)
    members = [[i for i in ids if i * self.num_classes // self.num_ids == k] for k in range(self.num_classes)]
    return tuple(f'{group[0]}..{group[-1]}' if len(group) > 1 else str(group[0]) for group in members)

  def __call__(self, features: Features) -> int:
    return _ints(features, self.feature)[0] * self.num_classes // self.num_ids


@dataclasses.dataclass(frozen=True)
class Count:
  """How many objects there are, `smallest` of them being class 0."""

  feature: str
  smallest: int
  largest: int

  @property
  def class_names(self) -> tuple[str, ...]:
    """One name per class: the number of objects."""
    return tuple(f'{n} objects' for n in range(self.smallest, self.largest + 1))

  def __call__(self, features: Features) -> int:
    return len(_ints(features, self.feature)) - self.smallest


@dataclasses.dataclass(frozen=True)
class Nearest:
  """The distance to the nearest object, in intervals: class k is borders[k] < distance <= borders[k + 1].

  Attributes:
    feature: x, y and distance of each object, flat.
    borders: lower ends of the classes.
    kinds: feature with the kind of each object; '' counts all of them.
    num_kinds: kinds below this count.
    without: the distance of an image without such objects.
  """

  feature: str
  borders: tuple[float, ...]
  kinds: str = ''
  num_kinds: int = 0
  without: float = float('inf')

  @property
  def class_names(self) -> tuple[str, ...]:
    """One name per class: its interval."""
    return tuple(f'beyond {border:g}' for border in self.borders)

  def __call__(self, features: Features) -> int:
    distances = list(features[self.feature].float_list.value)[2::3] if self.feature in features else []
    if self.kinds:
      kinds = _ints(features, self.kinds)
      distances = [d for d, kind in zip(distances, kinds, strict=True) if kind < self.num_kinds]
    nearest = min(distances, default=self.without)
    return max(k for k, border in enumerate(self.borders) if border < nearest)


def _ints(features: Features, name: str) -> list[int]:
  return list(features[name].int64_list.value) if name in features else []


# The structured tasks of VTAB (arXiv 1910.04867), as its code defines them. In CLEVR the borders make six classes of
# about equal size; in KITTI vehicles are cars, vans and trucks, and the last class is an image without any.
DERIVED_LABELS: dict[str, Bins | Count | Nearest] = {
  'clevr_count': Count('objects/size', 3, 10),
  'clevr_distance': Nearest('objects/pixel_coords', (0.0, 8.0, 8.5, 9.0, 9.5, 10.0)),
  'kitti_distance': Nearest(
    'objects/location', (-100.0, 8.0, 20.0, 999.0), kinds='objects/type', num_kinds=3, without=1000.0
  ),
  'dsprites_location': Bins('label_x_position', 32, 16),
  'dsprites_orientation': Bins('label_orientation', 40, 16),
}
