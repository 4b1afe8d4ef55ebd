"""Image folders whose names are class ids: 0, 1, ... 999, as ImageNet-v2 is published."""

from __future__ import annotations

import os

from vitjax.data.folders import existing_folder, images_below, limited, stratified_reader, subfolders
from vitjax.data.readers import Reader, unknown_split
from vitjax.errors import DataError, Problem


def open_numbered_folders(path: str, split: str, *, num_classes: int | None, where: str) -> Reader:
  """Returns the images below `path`, whose sub-folders are named by the number of their class.

  The number is the class id; sorted as texts, 10 would come before 2 and most labels would be wrong. Numbers may be
  missing. There are no splits: 'train' and 'all' mean everything, in the stratified order of image folders.

  Args:
    path: the folder, such as imagenetv2-matched-frequency-format-val.
    split: 'train' or 'all'.
    num_classes: None: the largest number plus 1.
    where: the source's dotted path, for messages.

  Raises:
    DataError: no such folder, names that are no numbers, or numbers beyond num_classes.

  Source: "Do ImageNet classifiers generalize to ImageNet?" (arXiv 1902.10811), the layout of its archives.
  """
  if split not in ('train', 'all'):
    raise unknown_split(where, split, ('all', 'train'), 'Numbered folders are one split; slice "all"')
  root = existing_folder(path, hint=f'Set {where}.path')
  folders = subfolders(root)
  # '007' would be a second name of 7.
  odd = [
    entry.name for entry in folders if not (entry.name.isdecimal() and str(int(entry.name)) == entry.name)
  ]
  if odd or not folders:
    hint = "Folders with names are kind 'image_folder'"
    problems = [Problem(str(root / name), '', 'a folder named by a number', hint) for name in sorted(odd)]
    raise DataError('folders without a class number', limited(problems) or [Problem(str(root), 'no folders')])
  by_number = sorted(folders, key=lambda entry: int(entry.name))
  limit = int(by_number[-1].name) + 1 if num_classes is None else num_classes
  beyond = [entry for entry in by_number if int(entry.name) >= limit]
  if beyond:
    problems = [
      Problem(str(entry), entry.name, f'a number below {where}.num_classes, {limit}') for entry in beyond
    ]
    raise DataError('class numbers out of range', limited(problems))
  files, labels = [], []
  for folder in by_number:
    images, _ = images_below(folder)
    files += [os.path.relpath(image, root) for image in images]
    labels += [int(folder.name)] * len(images)
  if not files:
    raise DataError('no images', [Problem(str(root), '0 images', 'images in the numbered folders')])
  return stratified_reader(root, files, labels, [str(number) for number in range(limit)])
