"""Data sets that TensorFlow Datasets has prepared (ArrayRecord or TFRecord), read without TensorFlow."""

from __future__ import annotations

import pathlib

from vitjax.config.suggest import did_you_mean
from vitjax.data.derived_labels import DERIVED_LABELS
from vitjax.data.readers import ConcatReader, Reader, require, unknown_split
from vitjax.data.records import ExampleReader, LabelFeature, LabelFn
from vitjax.data.shards import make_shards
from vitjax.errors import DataError, Problem

_FORMATS = ('array_record', 'tfrecord')
_BINARY_IMAGES = ('dsprites',)  # their pixels are 0 and 1


def open_tfds(name: str, data_dir: str | None, split: str, *, label: str | None = None, where: str) -> Reader:
  """Returns a prepared TFDS data set by name ('cifar10', 'imagenet2012:5.1.0', 'caltech_birds2011').

  Only files are read: the data set has to be prepared before. Images come back encoded (no decoding by TFDS).

  Args:
    data_dir: where TFDS keeps its data; None: TFDS's own default (TFDS_DATA_DIR or ~/tensorflow_datasets).
    label: the class feature, or a name of DERIVED_LABELS; None: `label`, or the only class feature.

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
  return _open_builder(tfds, builder, split, label=label, where=where)


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


def _open_builder(tfds, builder, split: str, *, label: str | None = None, where: str) -> Reader:
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
  image_key = _image_key(tfds, info, where=where)
  label_of, class_names = _label(tfds, info, label, where=where)
  readers: list[Reader] = []
  for each in names if split == 'all' else (split,):
    files = sorted(info.splits[each].file_instructions, key=lambda file: str(file.filename))
    paths = [str(pathlib.Path(file.filename)) for file in files]
    lengths = [file.examples_in_shard for file in files]
    if paths:
      shards = make_shards(file_format, paths, lengths)
      is_binary = info.name in _BINARY_IMAGES
      readers.append(
        ExampleReader(
          shards,
          image_key=image_key,
          label_of=label_of,
          class_names=class_names,
          is_binary=is_binary,
          file_key='file_name' if 'file_name' in info.features else None,
        )
      )
  if not readers:
    raise DataError('no records', [Problem(f'{where}.split', repr(split), 'a split with examples')])
  return readers[0] if len(readers) == 1 else ConcatReader(readers)


def _image_key(tfds, info, *, where: str) -> str:
  """Returns the name of the image feature."""
  found = _only(info, tfds.features.Image, 'image')
  if found is None:
    expected = f'one Image feature (it has {_listed(info)})'
    problem = Problem(f'{where}.name', info.full_name, expected)
    raise DataError('the TFDS data set is not labelled images', [problem])
  return found


def _label(tfds, info, label: str | None, *, where: str) -> tuple[LabelFn, tuple[str, ...]]:
  """Returns the function from a record's features to its class id, and the class names."""
  if label in DERIVED_LABELS:
    derived = DERIVED_LABELS[label]
    wanted = derived.feature.partition('/')[0]
    if wanted in info.features:
      return derived, derived.class_names
    problem = Problem(f'{where}.label', repr(label), f'a data set with {wanted!r}; it has {_listed(info)}')
    raise DataError('the class cannot be derived', [problem])
  features = dict(info.features)
  classes = [name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
  found = _only(info, tfds.features.ClassLabel, 'label') if label is None else label
  if found is None or found not in classes:
    expected = f'one of {", ".join(classes) or "no class features"}, or of {", ".join(DERIVED_LABELS)}'
    problem = Problem(f'{where}.label', repr(label), expected, did_you_mean(label, classes) if label else '')
    raise DataError('the TFDS data set is not labelled images', [problem])
  return LabelFeature(found), tuple(features[found].names or ())


def _only(info, feature_type: type, default: str) -> str | None:
  """Returns the feature of a type: the one called `default`, or the only one; None where that is open."""
  names = [name for name, feature in info.features.items() if isinstance(feature, feature_type)]
  return default if default in names else names[0] if len(names) == 1 else None


def _listed(info) -> str:
  return ', '.join(f'{name}: {type(feature).__name__}' for name, feature in info.features.items())
