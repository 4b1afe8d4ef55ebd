"""A manifest: a table (CSV, TSV or JSON lines) of images, their class or classes, and perhaps their split."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vitjax.data.folders import SPLIT_FOLDERS, FileReader, canonical_split, limited
from vitjax.data.readers import MAX_STATS, Reader, spread, unknown_split
from vitjax.errors import DataError, Problem

CLASSES_FILE = 'classes.txt'
SUFFIXES = ('.csv', '.tsv', '.jsonl', '.ndjson')
# Between the classes of one image in a CSV or TSV file.
SEPARATOR = '|'
_LABEL_COLUMNS = ('label', 'labels')


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a manifest.

  Attributes:
    line: its number, from 1.
    image: the path as written.
    labels: class names or ids as texts; several where the manifest lists them.
    split: 'train', 'val', 'test', or '' without a column of that name.
    fault: what is wrong with the line, '' for nothing.
  """

  line: int
  image: str = ''
  labels: tuple[str, ...] = ()
  split: str = ''
  fault: str = ''


@dataclasses.dataclass(frozen=True)
class ManifestFacts:
  """What a manifest says about itself before its labels are looked at.

  Attributes:
    splits: names in its column `split`, () without one.
    multi_label: some line lists several classes, or none.
    images: every image path as written, in order.
    folder: what the paths are relative to.
  """

  splits: tuple[str, ...]
  multi_label: bool
  images: tuple[str, ...]
  folder: pathlib.Path


def manifest_facts(path: str) -> ManifestFacts:
  """Returns what kind of manifest a file is.

  Raises:
    DataError: it cannot be read, or lines of it cannot; all of them listed.
  """
  manifest = pathlib.Path(path).expanduser()
  rows = _read(manifest)
  _refuse(manifest, rows, [])
  splits = tuple(dict.fromkeys(row.split for row in rows if row.split))
  return ManifestFacts(
    tuple(sorted(splits, key=[*SPLIT_FOLDERS, *splits].index)),
    any(len(row.labels) != 1 for row in rows),
    tuple(row.image for row in rows),
    manifest.parent,
  )


def open_manifest(
  path: str, split: str, *, num_classes: int | None, where: str, multi_label: bool = False
) -> Reader:
  """Returns the images that a manifest lists, in its order.

  A manifest is a .csv or .tsv file with a header, or a .jsonl file with one object per line. Read are the columns
  `image`, `label` (or `labels`) and, where there is one, `split`; others are ignored. Relative image paths start
  at the manifest's folder. Labels are class ids when all of them are whole numbers, class names otherwise. Names are
  numbered in sorted order, or by a file classes.txt (one name per line) beside the manifest, which keeps the ids of
  several manifests equal. Several classes of one image are a list in JSON, and stand between '|' in CSV and TSV.

  Args:
    path: the file.
    split: 'train', 'val' or 'test' where there is a column `split`; else 'all', alias 'train'.
    num_classes: of ids without names; None: the largest id decides.
    where: the source's dotted path, for messages.
    multi_label: labels become uint8 [num_classes], 1 for each class of the image, instead of one id.

  Raises:
    DataError: listing every row that cannot be used.
  """
  manifest = pathlib.Path(path).expanduser()
  rows = _read(manifest)
  splits = tuple(dict.fromkeys(row.split for row in rows if row.split))
  name = canonical_split(split)
  if splits and name not in (*splits, 'all'):
    raise unknown_split(where, split, (*splits, 'all'), f'These stand in the column split of {manifest}')
  if not splits and split not in ('train', 'all'):
    hint = 'Without a column named split a manifest is one split; write one file per split, or slice "all"'
    raise unknown_split(where, split, ('all', 'train'), hint)
  faults = [] if multi_label else _several(manifest, rows, where)
  _refuse(manifest, rows, faults)
  names, ids, problems = _numbered(manifest, rows, num_classes)
  chosen = [row for row in rows if not splits or name == 'all' or row.split == name]
  problems += [
    Problem(
      f'{manifest}:{chosen[i].line}', chosen[i].image, 'an existing file', f'Paths start at {manifest.parent}'
    )
    for i in spread(len(chosen), MAX_STATS)
    if not (manifest.parent / chosen[i].image).is_file()
  ]
  if problems:
    raise DataError(f'{len(problems)} problems in the manifest', limited(problems))
  if multi_label:
    labels = np.zeros((len(chosen), len(names)), np.uint8)
    for i, row in enumerate(chosen):
      labels[i, [ids(label) for label in row.labels]] = 1
  else:
    labels = np.array([ids(row.labels[0]) for row in chosen], np.int64)
  return FileReader(manifest.parent, [row.image for row in chosen], labels, names)


def _read(manifest: pathlib.Path) -> list[Row]:
  """Returns all rows, faulty ones too; raises DataError where there is no table."""
  if not manifest.is_file():
    raise DataError(
      'the manifest cannot be opened', [Problem(str(manifest), 'no such file', 'a .csv, .tsv or .jsonl file')]
    )
  try:
    with manifest.open(encoding='utf-8-sig', newline='') as file:
      return [*_rows(manifest.suffix.lower(), file)]
  except (UnicodeDecodeError, csv.Error) as error:
    raise DataError(
      'the manifest cannot be read', [Problem(str(manifest), str(error), 'UTF-8 text')]
    ) from error


def _rows(suffix: str, file: Any) -> list[Row]:
  if suffix in ('.csv', '.tsv'):
    table = csv.DictReader(file, delimiter='\t' if suffix == '.tsv' else ',')
    columns = table.fieldnames or ()
    label = next((column for column in _LABEL_COLUMNS if column in columns), None)
    missing = [
      word for word, there in (('image', 'image' in columns), ('label', label is not None)) if not there
    ]
    if missing:
      return [Row(1, fault=f'a header with the columns image and label (missing: {", ".join(missing)})')]
    has_split = 'split' in columns
    return [
      _checked(table.line_num, row['image'], _cell(row[label]), row['split'] if has_split else '', has_split)
      for row in table
    ]
  if suffix in ('.jsonl', '.ndjson'):
    return [_json_row(line, text) for line, text in enumerate(file, start=1) if text.strip()]
  return [Row(1, fault=f'a file named .csv, .tsv or .jsonl, not {suffix!r}')]


def _cell(text: str | None) -> Any:
  """Returns the labels of a cell: one text, or a list where SEPARATOR stands in it."""
  return text.split(SEPARATOR) if text is not None and SEPARATOR in text else text


def _json_row(line: int, text: str) -> Row:
  try:
    row = json.loads(text)
  except ValueError as error:
    return Row(line, fault=f'a JSON object ({error})')
  label = next((key for key in _LABEL_COLUMNS if isinstance(row, dict) and key in row), None)
  if label is None or 'image' not in row:
    return Row(line, fault='a JSON object with the keys image and label')
  values = row[label] if isinstance(row[label], list) else [row[label]]
  if any(isinstance(value, bool) or not isinstance(value, int | str) for value in values):
    return Row(line, fault=f'a label that is a name or a whole number, or a list of them, not {row[label]!r}')
  texts = [str(value) for value in values]
  has_split = 'split' in row
  split = row['split'] if has_split else ''
  return _checked(line, row['image'], texts if isinstance(row[label], list) else texts[0], split, has_split)


def _checked(line: int, image: object, label: object, split: object, has_split: bool) -> Row:
  """Returns the row of raw cells; `label` is a text or a list of texts."""
  if not isinstance(image, str) or not image.strip():
    return Row(line, fault='an image path')
  if isinstance(label, list):
    labels = tuple(dict.fromkeys(text.strip() for text in label if text.strip()))
  elif isinstance(label, str) and label.strip():
    labels = (label.strip(),)
  else:
    return Row(line, image, fault='a label')
  if has_split and (not isinstance(split, str) or not split.strip()):
    return Row(line, image, fault='a split such as train or val, as in the other rows')
  return Row(line, image, labels, canonical_split(str(split).strip()))


def _several(manifest: pathlib.Path, rows: Sequence[Row], where: str) -> list[Problem]:
  """Returns a problem per row with more than one class, or none, where each image must have one."""
  expected, hint = 'one class', f'Images with several classes: {where}.multi_label = True'
  return [
    Problem(f'{manifest}:{row.line}', f'{len(row.labels)} classes', expected, hint)
    for row in rows
    if not row.fault and len(row.labels) != 1
  ]


def _refuse(manifest: pathlib.Path, rows: Sequence[Row], faults: list[Problem]) -> None:
  """Raises DataError for rows that cannot be used, and for a manifest without rows."""
  problems = [Problem(f'{manifest}:{row.line}', '', row.fault) for row in rows if row.fault] + faults
  marked = [bool(row.split) for row in rows if not row.fault]
  if any(marked) and not all(marked):
    problems.append(Problem(str(manifest), 'rows with and without a split', 'one in each row'))
  if not rows:
    problems.append(Problem(str(manifest), '0 rows', 'one row per image'))
  if problems:
    raise DataError(f'{len(problems)} problems in the manifest', limited(problems))


def _numbered(
  manifest: pathlib.Path, rows: Sequence[Row], num_classes: int | None
) -> tuple[tuple[str, ...], Callable[[str], int], list[Problem]]:
  """Returns the class names, what turns a label's text into its id, and the labels that have none."""
  names = _read_classes(manifest.parent / CLASSES_FILE)
  texts = {label: row.line for row in reversed(rows) for label in row.labels}
  try:
    highest = max((int(text) for text in texts), default=-1)
  except ValueError:
    names = names or tuple(sorted(texts))
    ids = {name: number for number, name in enumerate(names)}
    known = f'one of the {len(names)} names in {CLASSES_FILE}'
    problems = [
      Problem(f'{manifest}:{line}', repr(text), known) for text, line in texts.items() if text not in ids
    ]
    return names, ids.__getitem__, problems
  limit = len(names) or num_classes or highest + 1
  problems = [
    Problem(f'{manifest}:{line}', text, f'a label from 0 to {limit - 1}')
    for text, line in texts.items()
    if not 0 <= int(text) < limit
  ]
  return names or tuple(str(label) for label in range(limit)), int, problems


def _read_classes(path: pathlib.Path) -> tuple[str, ...]:
  """Returns the names in classes.txt, () when there is none."""
  if not path.is_file():
    return ()
  return tuple(line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines() if line.strip())
