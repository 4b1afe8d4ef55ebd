"""Images as files: one folder per class, below a folder per split or not."""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from vitjax.data.decode import UnreadableError
from vitjax.data.readers import MAX_STATS, Label, Reader, as_label, spread, unknown_split
from vitjax.data.splits import stratified_order
from vitjax.errors import DataError, Problem

IMAGE_SUFFIXES = frozenset(
  (
    '.jpg',
    '.jpeg',
    '.jpe',
    '.jfif',
    '.png',
    '.webp',
    '.bmp',
    '.gif',
    '.tif',
    '.tiff',
    '.ppm',
    '.pgm',
    '.pnm',
    '.jp2',
  )
)
SPLIT_FOLDERS = {
  'train': ('train', 'training'),
  'val': ('val', 'valid', 'validation'),
  'test': ('test', 'testing'),
}
_ORDER_SEED = 20_201_022
_MAX_LISTED = 20


def _read_file(path: str) -> bytes:
  """Returns a file's bytes with four calls of the system; after each, a thread may wait for Python's lock."""
  file = os.open(path, os.O_RDONLY)
  try:
    size = os.fstat(file).st_size
    data = os.read(file, size)
    while len(data) < size and (more := os.read(file, size - len(data))):
      data += more
    return data
  finally:
    os.close(file)


class FileReader(Reader):
  """Records that are image files.

  Args:
    root: the folder that `files` are relative to.
    files: relative paths (absolute ones stay as they are).
    labels: one class id per file; or uint8 [n, v], a row of zeros and ones per file.
    class_names: one per class id, or ().
    notes: remarks, such as files that were skipped.
  """

  def __init__(
    self,
    root: pathlib.Path,
    files: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    class_names: Sequence[str],
    notes: Sequence[str] = (),
  ):
    self._root = str(root)
    self._files = tuple(files)
    labels = np.asarray(labels)
    self._labels = labels if labels.ndim == 2 else labels.astype(np.int64)
    self.class_names = tuple(class_names)
    self.notes = tuple(notes)

  def __len__(self) -> int:
    return len(self._files)

  def read(self, i: int) -> tuple[bytes, Label]:
    try:
      return _read_file(self.name_of(i)), as_label(self._labels[i])
    except OSError as error:
      raise UnreadableError(self.name_of(i), error.strerror or str(error)) from error

  def labels(self) -> np.ndarray:
    return self._labels

  def name_of(self, i: int) -> str:
    return os.path.join(self._root, self._files[i])  # noqa: PTH118 - called for every example, and pathlib takes time

  def digest_parts(self) -> Iterator[bytes]:
    yield self._labels.tobytes()
    for file in self._files:
      yield file.encode('utf-8', 'surrogateescape') + b'\0'
    for i in spread(len(self), MAX_STATS):
      try:
        size = pathlib.Path(self.name_of(i)).stat().st_size
      except OSError:
        size = -1
      yield size.to_bytes(8, 'little', signed=True)


def open_image_folder(path: str, split: str, *, where: str, empty_classes: str = 'refuse') -> Reader:
  """Returns the images below `path`: one sub-folder per class, or one per split that holds one per class.

  With split folders (train, val or validation, test, and nothing beside them) `split` picks one and 'all'
  takes all; class ids come from the union of their class folders, so that they agree between splits. Without
  split folders everything is both 'train' and 'all'. Class ids follow the sorted folder names. Files are put
  into a fixed stratified order, so 'train[:90%]' holds 90 % of each class. Hidden files are skipped; files
  that are not images by their suffix are skipped and counted in `notes`.

  Args:
    path: the folder.
    split: which images.
    where: the source's dotted path, for messages.
    empty_classes: a class folder that holds no image in any split: 'refuse' it, or 'leave_out' the class, with a note.

  Raises:
    DataError: there is no such folder, no class folder, a class without training images, or no such split.
  """
  root = existing_folder(path, hint=f'Set {where}.path')
  groups = _split_folders(root)
  name = canonical_split(split)
  if name != 'all' and name not in groups:
    hint = 'Slice it: "train[:90%]" and "train[90%:]"' if groups == {'train': root} else ''
    raise unknown_split(where, split, (*groups, 'all'), f'These are the splits of {root}. {hint}'.rstrip())
  class_names = sorted({folder.name for group in groups.values() for folder in subfolders(group)})
  left_out: list[str] = []
  if empty_classes == 'leave_out':
    left_out = [each for each in class_names if not any(_has_images(g / each) for g in groups.values())]
    class_names = [each for each in class_names if each not in left_out]
  if not class_names:
    hint = 'Put each image into a folder named after its class, or write a manifest (kind "manifest")'
    raise DataError('no class folders', [Problem(str(root), 'no sub-folders', 'one folder per class', hint)])
  files, labels, skipped = [], [], []
  for group in groups.values() if name == 'all' else (groups[name],):
    skipped += [
      entry.name for entry in sorted(group.iterdir()) if entry.is_file() and not entry.name.startswith('.')
    ]
    for label, class_name in enumerate(class_names):
      images, others = images_below(group / class_name)
      files += [os.path.relpath(image, root) for image in images]
      labels += [label] * len(images)
      skipped += others
  notes = _skipped_note(skipped) + (
    (f'class folders without an image, left out: {_shortened(left_out)}',) if left_out else ()
  )
  empty = [class_names[label] for label in sorted(set(range(len(class_names))) - set(labels))]
  if empty and (name in ('train', 'all') or not files):
    folder = root if name == 'all' else groups[name]
    hint = f'Add images ({", ".join(sorted(IMAGE_SUFFIXES))}) or remove the class folder'
    raise DataError(
      'classes without images',
      [Problem(str(folder / each), '0 images', 'at least 1', hint) for each in empty],
    )
  if empty:
    notes += (f'{len(empty)} classes have no image in split {name!r}: {_shortened(empty)}',)
  return stratified_reader(root, files, labels, class_names, notes)


def existing_folder(path: str | os.PathLike[str], *, hint: str = '') -> pathlib.Path:
  """Returns the folder at a path; raises DataError with this hint where there is none."""
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    found = 'a file' if root.exists() else 'no such folder'
    raise DataError('the image folder cannot be opened', [Problem(str(root), found, 'a folder', hint)])
  return root


def stratified_reader(
  root: pathlib.Path,
  files: Sequence[str],
  labels: Sequence[int],
  class_names: Sequence[str],
  notes: Sequence[str] = (),
) -> FileReader:
  """Returns image files in a fixed stratified order, so that 'train[:90%]' holds 90 % of each class."""
  order = stratified_order(np.array(labels), seed=_ORDER_SEED)
  return FileReader(root, [files[i] for i in order], np.array(labels)[order], class_names, notes)


def folder_splits(path: str | os.PathLike[str]) -> tuple[str, ...]:
  """Returns the splits that have a folder of their own below `path`, of 'train', 'val' and 'test'; () for none.

  Raises:
    DataError: there is no such folder.
  """
  root = existing_folder(path)
  groups = _split_folders(root)
  return () if groups == {'train': root} else tuple(name for name in SPLIT_FOLDERS if name in groups)


def canonical_split(name: str) -> str:
  """Returns 'train', 'val' or 'test' for what a split folder may be called, any other name as it is."""
  return next((split for split, aliases in SPLIT_FOLDERS.items() if name.lower() in aliases), name)


def _split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns {split: its folder}; {'train': root} when a sub-folder is no split's (it is a class)."""
  folders = subfolders(root)
  splits = {canonical_split(folder.name): folder for folder in folders}
  is_layout = bool(folders) and set(splits) <= set(SPLIT_FOLDERS) and len(splits) == len(folders)
  return splits if is_layout else {'train': root}


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders in a folder, sorted, without the hidden ones."""
  return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith('.'))


def images_below(folder: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns the image files below a class folder, sorted, and the names of files that are no images."""
  images, others = [], []
  for parent, folders, names in os.walk(folder):
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    for name in sorted(name for name in names if not name.startswith('.')):
      if pathlib.Path(name).suffix.lower() in IMAGE_SUFFIXES:
        images.append(str(pathlib.Path(parent, name)))
      else:
        others.append(name)
  return images, others


def _has_images(folder: pathlib.Path) -> bool:
  return bool(images_below(folder)[0])


def _skipped_note(names: Sequence[str]) -> tuple[str, ...]:
  if not names:
    return ()
  suffixes = Counter(pathlib.Path(name).suffix or '(no suffix)' for name in names)
  kinds = ', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common(5))
  return (
    f'{len(names)} files are not images in class folders and were skipped ({kinds}): {_shortened(names)}',
  )


def _shortened(names: Sequence[str]) -> str:
  return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def limited(problems: Sequence[Problem], most: int = _MAX_LISTED) -> list[Problem]:
  """Returns the first `most` problems and one line that counts the rest."""
  rest = len(problems) - most
  return [*problems[:most], *([Problem(f'... and {rest} more')] if rest > 0 else [])]
