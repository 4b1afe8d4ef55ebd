"""What lies at a path that someone calls their images: which reader opens it, and which parts train and judge."""

from __future__ import annotations

import dataclasses
import io
import json
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
_TFDS_INFO = 'dataset_info.json'


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


def find_splits(path: str) -> tuple[SourceConfig, tuple[str, ...]]:
  """Returns how images at a path are read, and the names of the parts they are in, () where there are none.

  Told apart are a manifest, a version folder that TFDS prepared, a Hugging Face folder, ArrayRecord files, and, for
  anything else, an image folder.

  Args:
    path: a folder or a manifest that exists.

  Raises:
    DataError: files that say what is there cannot be read.
  """
  place, source = pathlib.Path(path).expanduser(), SourceConfig(kind='image_folder', path=path)
  if place.is_file():
    facts = manifests.manifest_facts(path)
    return dataclasses.replace(source, kind='manifest', multi_label=facts.multi_label), facts.splits
  if (place / _TFDS_INFO).is_file() and not arrow_sets.is_huggingface(path):
    file_format, splits = _tfds_facts(place / _TFDS_INFO)
    return dataclasses.replace(source, kind=file_format), splits
  if arrow_sets.is_huggingface(path):
    multi_label = arrow_sets.huggingface_multi_label(path)
    splits = tuple(arrow_sets.huggingface_splits(path))
    return dataclasses.replace(source, kind='huggingface', multi_label=multi_label), splits
  if any(place.glob('*.array_record*')):
    multi_label = records.are_multi_label(place)
    splits = shards.record_splits('array_record', place)
    return dataclasses.replace(source, kind='array_record', multi_label=multi_label), splits
  return dataclasses.replace(source, empty_classes='leave_out'), folders.folder_splits(path)


def _tfds_facts(path: pathlib.Path) -> tuple[str, tuple[str, ...]]:
  """Returns the file format and the splits of a data set that TFDS prepared."""
  try:
    info = json.loads(path.read_text(encoding='utf-8'))
    splits = tuple(split['name'] for split in info['splits'])
    return info['fileFormat'] if 'fileFormat' in info else 'tfrecord', splits
  except (ValueError, KeyError, TypeError) as error:
    problem = Problem(str(path), f'{type(error).__name__}: {error}', 'what TFDS >= 4.0 writes')
    raise DataError('the TFDS metadata cannot be read', [problem]) from error


def find_layout(path: str, *, split_seed: int) -> Layout:
  """Returns how the images at a path are read (see `find_splits`), and which of them train and judge.

  Where they have parts named train and val (or test) those are taken; otherwise a part of each class is set aside.

  Args:
    path: a folder or a manifest that exists.
    split_seed: of a split that has to be made.

  Raises:
    DataError: parts without one to learn from, or files that cannot be read.
  """
  base, splits = find_splits(path)
  judges = [name for name in ('val', 'validation', 'test') if name in splits]
  if judges and 'train' in splits:
    return Layout(
      dataclasses.replace(base, split='train'), dataclasses.replace(base, split=judges[0]), made=False
    )
  if splits and 'train' not in splits:
    problem = Problem(path, ', '.join(splits), 'a part train as well, or no such parts')
    raise DataError('there is nothing to learn from', [problem])
  name = 'train' if splits else 'all'
  cut, seeded = f'{100 - VAL_SHARE}%', dataclasses.replace(base, split_seed=split_seed)
  return Layout(
    dataclasses.replace(seeded, split=f'{name}[:{cut}]'),
    dataclasses.replace(seeded, split=f'{name}[{cut}:]'),
    made=True,
  )


def find_facts(layout: Layout) -> Facts:
  """Returns what the recipe depends on. Opens both sources; reads labels and some images' headers, decodes nothing.

  Raises:
    DataError: as of `open_source`; or there is but one class.
  """
  train, val = open_source(layout.train), open_source(layout.val, where='evals.val.source')
  if train.num_classes < 2 and not train.multi_label:
    hint = 'Give the images of each class a folder, or a label, of their own'
    problem = Problem(str(layout.train.path), f'one class, {train.class_names[0]}', 'at least 2', hint)
    raise DataError('there is nothing to tell apart', [problem])
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
