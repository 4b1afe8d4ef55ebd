"""Data sets that TensorFlow Datasets has prepared (ArrayRecord or TFRecord), read without TensorFlow."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from vitjax.data.readers import ConcatReader, Reader, require, unknown_split
from vitjax.data.records import ExampleReader, make_shards
from vitjax.errors import DataError, Problem

_FORMATS = ('array_record', 'tfrecord')


def open_tfds(name: str, data_dir: str | None, split: str, *, where: str) -> Reader:
  """Returns a prepared TFDS data set by name ('cifar10', 'imagenet2012:5.1.0', 'caltech_birds2011').

  Only files are read: the data set has to be prepared before. Images come back encoded (no decoding by TFDS).

  Args:
    data_dir: where TFDS keeps its data; None: TFDS's own default (TFDS_DATA_DIR or ~/tensorflow_datasets).

  Raises:
    DataError: it is not prepared there, in a format without record files, or has no image and label.
  """
  tfds = require('tensorflow_datasets', 'tensorflow-datasets', where=where)
  try:
    builder = tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
  except Exception as error:  # DatasetNotFoundError, and what broken metadata raise
    place = data_dir or 'the TFDS data folder (TFDS_DATA_DIR or ~/tensorflow_datasets)'
    hint = (
      'Prepare it once, where TensorFlow is installed: python -c "import tensorflow_datasets as tfds; '
      f"tfds.builder({name!r}, data_dir={data_dir!r}, file_format='array_record').download_and_prepare()\""
    )
    raise DataError(
      'the TFDS data set is not prepared',
      [Problem(f'{where}.name', name, f'prepared files in {place}', hint)],
    ) from error
  return _open_builder(tfds, builder, split, where=where)


def open_tfds_folder(path: str, split: str, *, kind: str, where: str) -> Reader:
  """Returns a prepared TFDS data set by its version folder (the one with dataset_info.json).

  Args:
    kind: 'array_record' or 'tfrecord', the file format that the caller expects.

  Raises:
    DataError: the metadata cannot be read, the format is another one, or as in `open_tfds`.
  """
  tfds = require('tensorflow_datasets', 'tensorflow-datasets', where=where)
  try:
    builder = tfds.builder_from_directory(path)
  except Exception as error:  # TFDS lets JSON, proto and key errors through
    problem = Problem(path, f'{type(error).__name__}: {error}', 'a folder that TFDS >= 4.0 prepared')
    raise DataError('the TFDS metadata cannot be read', [problem]) from error
  file_format = builder.info.file_format.value if builder.info.file_format else 'none'
  if file_format in _FORMATS and file_format != kind:
    raise DataError(
      'the file format is another one', [Problem(f'{where}.kind', repr(kind), repr(file_format))]
    )
  return _open_builder(tfds, builder, split, where=where)


def _open_builder(tfds, builder, split: str, *, where: str) -> Reader:
  info = builder.info
  file_format = info.file_format.value if info.file_format else ''
  if file_format not in _FORMATS:
    hint = "Prepare it with file_format='array_record'"
    raise DataError(
      'the TFDS file format is not supported',
      [Problem(str(builder.data_path), file_format, ' or '.join(_FORMATS), hint)],
    )
  names = tuple(info.splits)
  if split != 'all' and split not in names:
    raise unknown_split(where, split, (*names, 'all'))
  image_key, label_key = _keys(tfds, info, where=where)
  class_names = tuple(info.features[label_key].names or ())
  readers: list[Reader] = []
  for each in names if split == 'all' else (split,):
    files = sorted(info.splits[each].file_instructions, key=lambda file: str(file.filename))
    paths = [str(pathlib.Path(file.filename)) for file in files]
    lengths = [file.examples_in_shard for file in files]
    if paths:
      shards = make_shards(file_format, paths, lengths)
      readers.append(ExampleReader(shards, image_key=image_key, label_key=label_key, class_names=class_names))
  if not readers:
    raise DataError('no records', [Problem(f'{where}.split', repr(split), 'a split with examples')])
  return readers[0] if len(readers) == 1 else ConcatReader(readers)


def _keys(tfds, info, *, where: str) -> tuple[str, str]:
  """Returns the names of the image feature and of the label feature."""
  features = dict(info.features)
  found = []
  for default, feature_type in (('image', tfds.features.Image), ('label', tfds.features.ClassLabel)):
    candidates: Sequence[str] = [
      name for name, feature in features.items() if isinstance(feature, feature_type)
    ]
    chosen = default if default in candidates else candidates[0] if len(candidates) == 1 else None
    if chosen is None:
      listed = ', '.join(f'{name}: {type(feature).__name__}' for name, feature in features.items())
      problem = Problem(
        f'{where}.name', info.full_name, f'one {feature_type.__name__} feature (it has {listed})'
      )
      raise DataError('the TFDS data set is not labelled images', [problem])
    found.append(chosen)
  return found[0], found[1]
