"""What lies at a path that someone calls their images: which reader opens it, and which parts train and judge."""

from __future__ import annotations

import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image

from vitjax.config.schema import SourceConfig
from vitjax.data import arrow_sets, folders, manifests, records, shards
from vitjax.data.decode import MAX_PIXELS, UnreadableError
from vitjax.data.readers import spread
from vitjax.data.sources import Source, counts_per_class, open_source
from vitjax.errors import DataError, Problem

VAL_SHARE = 20
# Images whose size is looked up; only the header of each is read.
_NUM_SIZED = 200


@dataclasses.dataclass(frozen=True)
class Layout:
  """How data at a path are read.

  Attributes:
    train: the source to learn from.
    val: the source to judge by.
    made: the split is ours: there was none.
  """

  train: SourceConfig
  val: SourceConfig
  made: bool


@dataclasses.dataclass(frozen=True)
class Facts:
  """What knobs are derived from.

  Attributes:
    num_train: examples to learn from.
    num_val: examples to judge by.
    class_names: one per class.
    train_counts: examples of each class to learn from.
    val_counts: examples of each class to judge by.
    height: median of the training images looked at, pixels.
    width: the same.
    notes: remarks of the readers, such as files that were skipped.
  """

  num_train: int
  num_val: int
  class_names: tuple[str, ...]
  train_counts: tuple[int, ...]
  val_counts: tuple[int, ...]
  height: float
  width: float
  notes: tuple[str, ...]


def find_layout(path: str, *, split_seed: int) -> Layout:
  """Returns how the data at a path are read: an image folder, a manifest, a Hugging Face folder or ArrayRecord files.

  Where they have parts named train and val (or test) those are taken; otherwise a part of each class is set aside.

  Args:
    path: a folder or a manifest that exists.
    split_seed: of a split that has to be made.

  Raises:
    DataError: parts without one to learn from, or files that cannot be read.
  """
  place = pathlib.Path(path).expanduser()
  multi_label, empty = False, 'refuse'
  if place.is_file():
    kind, facts = 'manifest', manifests.manifest_facts(path)
    splits, multi_label = facts.splits, facts.multi_label
  elif any(place.glob('*.array_record*')):
    kind, splits = 'array_record', shards.record_splits('array_record', place)
    multi_label = records.are_multi_label(place)
  elif arrow_sets.is_huggingface(path):
    kind, splits = 'huggingface', tuple(arrow_sets.huggingface_splits(path))
    multi_label = arrow_sets.huggingface_multi_label(path)
  else:
    kind, splits, empty = 'image_folder', folders.folder_splits(path), 'leave_out'
  base = SourceConfig(kind=kind, path=path, multi_label=multi_label, empty_classes=empty)
  judges = [name for name in ('val', 'validation', 'test') if name in splits]
  if judges and 'train' in splits:
    return Layout(
      dataclasses.replace(base, split='train'), dataclasses.replace(base, split=judges[0]), made=False
    )
  if splits and 'train' not in splits:
    problem = Problem(path, ', '.join(splits), 'a part train as well, or no such parts')
    raise DataError('there is nothing to learn from', [problem])
  name = 'train' if splits or kind == 'array_record' else 'all'
  cut, seeded = f'{100 - VAL_SHARE}%', dataclasses.replace(base, split_seed=split_seed)
  return Layout(
    dataclasses.replace(seeded, split=f'{name}[:{cut}]'),
    dataclasses.replace(seeded, split=f'{name}[{cut}:]'),
    made=True,
  )


def find_facts(layout: Layout) -> Facts:
  """Returns what the recipe depends on. Opens both sources; reads labels and some images' headers, decodes nothing.

  Raises:
    DataError: as of `open_source`.
  """
  train, val = open_source(layout.train), open_source(layout.val, where='evals.val.source')
  sizes = np.array([size for i in spread(len(train), _NUM_SIZED) if (size := _size(train, int(i)))])
  if not len(sizes):
    problem = Problem(str(layout.train.path), 'no image among those looked at can be read', 'images')
    raise DataError('the images cannot be read', [problem])
  height, width = np.median(sizes, axis=0)
  counts = [tuple(counts_per_class(source).values()) for source in (train, val)]
  return Facts(
    len(train), len(val), train.class_names, *counts, float(height), float(width),
    tuple(dict.fromkeys((*train.notes, *val.notes))),
  )  # fmt: skip


def _size(source: Source, example: int) -> tuple[int, int] | None:
  """Returns (height, width) as the header tells them, None for a file without one."""
  try:
    image = source[example]['image']
    if isinstance(image, np.ndarray):
      return image.shape[0], image.shape[1]
    with Image.open(io.BytesIO(image)) as opened:
      return (opened.height, opened.width) if opened.width * opened.height <= MAX_PIXELS else None
  except (UnreadableError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
    return None
