"""ReaL: the reassessed labels of ImageNet's validation images, several or none for each."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np

from vitjax.data.folders import limited
from vitjax.data.sources import Source
from vitjax.errors import DataError, Problem

_NUMBER = re.compile(r'ILSVRC2012_val_(\d{8})\b')


def read_real_labels(path: str, source: Source, *, where: str) -> np.ndarray:
  """Returns the labels that count as right for each example of a source, int32 [n, k], -1 where there are no more.

  The file is a JSON list with one list of class ids per validation image, in the order of their files: entry i belongs
  to ILSVRC2012_val_{i + 1:08d}.JPEG. Sources hold them in another order, so each example is found by the name of its
  file: image folders and manifests have it, TFDS's imagenet2012 keeps it as the feature `file_name`.

  Args:
    path: real.json.
    source: validation images, or some of them.
    where: the evaluator's dotted path, for messages.

  Raises:
    DataError: no such list, examples whose name tells no number, or class ids that the source does not have.

  Source: "Are we done with ImageNet?" (arXiv 2006.07159), github.com/google-research/reassessed-imagenet.
  """
  knob = f'{where}.real_labels'
  try:
    lists = json.loads(pathlib.Path(path).expanduser().read_text(encoding='utf-8'))
    valid = isinstance(lists, list) and all(
      isinstance(row, list) and all(isinstance(label, int) and not isinstance(label, bool) for label in row)
      for row in lists
    )
    reason = 'other JSON'
  except (OSError, ValueError) as error:
    lists, valid, reason = [], False, str(error)
  if not valid:
    expected = 'a JSON list with a list of class ids for each validation image, as real.json'
    raise DataError('the ReaL labels cannot be read', [Problem(knob, f'{path}: {reason}', expected)])
  problems, rows = [], []
  for i in range(len(source)):
    name = source.file_name(i)
    match = _NUMBER.search(name)
    if match is None:
      hint = 'Image folders, manifests and TFDS imagenet2012 keep the names'
      problems.append(Problem(name, '', 'a name like ILSVRC2012_val_00000001.JPEG', hint))
    elif not 1 <= int(match[1]) <= len(lists):
      problems.append(Problem(name, f'image {int(match[1])}', f'1 to {len(lists)}, the entries of {path}'))
    else:
      rows.append(lists[int(match[1]) - 1])
  largest = max((label for row in rows for label in row), default=0)
  smallest = min((label for row in rows for label in row), default=0)
  if smallest < 0 or largest >= source.num_classes:
    found = smallest if smallest < 0 else largest
    problems.append(
      Problem(knob, f'class {found}', f'0 to {source.num_classes - 1}, the classes of {where}.source')
    )
  if problems:
    raise DataError('the ReaL labels do not fit the images', limited(problems))
  table = np.full((len(rows), max(map(len, rows), default=1) or 1), -1, np.int32)
  for i, row in enumerate(rows):
    table[i, : len(row)] = row
  return table
