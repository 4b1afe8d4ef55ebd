"""Input: sources, splits, crops, and evaluators' input."""

from __future__ import annotations

import glob
import pathlib
import re

from vitjax.config.checks.base import KNOWN_CLASSES, Findings
from vitjax.config.eval_metrics import HEAD_KINDS
from vitjax.config.suggest import suggest_file
from vitjax.config.values import shown

# Kinds that need a path, with what must be there. TFDS may have one: its data_dir.
_PATHS = {
  'fashion_mnist': 'a folder',
  'image_folder': 'a folder',
  'numbered_folders': 'a folder',
  'manifest': 'a file',
  'huggingface': 'a folder',
  'array_record': 'files or a folder',
  'tfrecord': 'files or a folder',
}
_BOUND = r'(-?\d+(?:\.\d+(?=%))?%?)?'
_TERM = re.compile(rf'\s*[\w.\-]+?\s*(\[\s*{_BOUND}\s*:\s*{_BOUND}\s*\])?\s*')
_SPLIT_WORDS = "a split such as 'train', 'train[:90%]', 'train[4000:]' or 'train+validation'"
_TFDS_NAME = re.compile(r'[A-Za-z_][\w./-]*(:(\d+|\*)(\.(\d+|\*)){2})?')


def check_data(found: Findings) -> None:
  """Reports sources that cannot be opened, malformed splits, and impossible crops."""
  for path in found.sources():
    _check_source(found, path)
  check_labels(found)
  _check_crop(found)
  for name, config in found.recipe.evals.items():
    where, side = f'evals.{name}.resize_short', max(found.recipe.data.image_size)
    if config.resize_short is not None and config.resize_short < side and found.good('data.image_size'):
      hint = f'The smallest is {side}; {round(side * 8 / 7)} keeps 7/8 of the short side'
      found.add(where, f'at least {side} pixels, so that the crop of data.image_size fits inside', hint)
    if config.real_labels is not None:
      check_exists(found, f'evals.{name}.real_labels', config.real_labels, 'a file')


def check_labels(found: Findings) -> None:
  """Reports images with several classes where one is expected, and the other way round."""
  recipe, where = found.recipe, 'data.source.multi_label'
  several = recipe.data.source.multi_label
  if several and recipe.objective.name != 'classification' and found.good('objective.name', where):
    found.add('objective.name', f"'classification', since {where} is set")
  elif several and recipe.objective.loss != 'sigmoid' and found.good('objective.loss', where):
    found.add('objective.loss', f"'sigmoid', since {where} is set", 'Softmax knows one class per image')
  for name, config in recipe.evals.items():
    kind, source = f'evals.{name}.kind', f'evals.{name}.source.multi_label'
    if not found.good(kind, source):
      continue
    if config.source.multi_label and config.kind != 'multilabel':
      found.add(kind, f"'multilabel', since {source} is set", 'The other kinds judge one class per image')
    elif config.kind == 'multilabel' and not config.source.multi_label:
      found.add(source, f"True with {kind} = 'multilabel'", "Images of one class: kind = 'classification'")
    elif config.kind in HEAD_KINDS and config.source.multi_label != several:
      found.add(source, f'{several}, as {where}', 'The head learns one or the other')
  for path in found.sources():
    source = found.source(path)
    if source.multi_label and source.examples_per_class is not None:
      expected = f'None with {path}.multi_label: an image counts for several classes'
      found.add(f'{path}.examples_per_class', expected, "Slice the split instead, such as 'train[:100]'")


def is_remote(path: str) -> bool:
  """Returns whether a path is a URL such as 'gs://bucket/x', which is not looked up here."""
  return '://' in path


def _check_source(found: Findings, path: str) -> None:
  source = found.source(path)
  if not found.good(f'{path}.kind'):
    return
  if source.kind in _PATHS and source.path is None:
    expected = f'{_PATHS[source.kind]}: {path}.kind = {source.kind!r} needs it'
    found.add(f'{path}.path', expected, f'Set it in the recipe, or with --config.{path}.path=PATH')
  if source.kind == 'tfds':
    _check_tfds_name(found, f'{path}.name', source.name)
  if source.path is not None and (source.kind in _PATHS or source.kind == 'tfds'):
    check_exists(
      found, f'{path}.path', source.path, _PATHS[source.kind] if source.kind in _PATHS else 'a folder'
    )
  for term in source.split.split('+'):
    _check_split(found, f'{path}.split', term)
  classes = KNOWN_CLASSES[source.kind] if source.kind in KNOWN_CLASSES else None
  if classes is not None and source.num_classes not in (None, classes):
    found.add(f'{path}.num_classes', f'{classes}, the classes of {source.kind!r}, or None', 'Leave it out')


def check_exists(found: Findings, where: str, path: str, what: str) -> None:
  """Reports a local path that does not exist or is not `what`: 'a folder', 'a file', or either of them."""
  if is_remote(path):
    return
  try:
    place = pathlib.Path(path).expanduser()
    exists = place.exists()
    if not exists and what not in ('a folder', 'a file') and glob.has_magic(place.name):
      exists = any(place.parent.glob(place.name))
  except (OSError, RuntimeError, ValueError) as error:  # a name too long, '~nobody', a null character
    found.add(where, f'{what}; it cannot exist', f'{type(error).__name__}: {shown(str(error))}')
    return
  if not exists:
    found.add(where, f'{what}; it does not exist', suggest_file(str(place)))
  elif what == 'a folder' and not place.is_dir():
    found.add(where, f'{what}, not a file', f'Its folder is {place.parent}')
  elif what == 'a file' and place.is_dir():
    found.add(where, f'{what}, not a folder', 'Name the file inside')


def _check_tfds_name(found: Findings, where: str, name: str | None) -> None:
  if name is None:
    found.add(where, 'a TFDS data set such as "cifar10"', 'Set the name')
  elif not _TFDS_NAME.fullmatch(name):
    found.add(where, 'a TFDS data set such as "cifar10" or "imagenet2012:5.1.0"', 'A version has three parts')


def _check_split(found: Findings, where: str, term: str) -> None:
  match = _TERM.fullmatch(term)
  if match is None:
    near = re.match(r'\s*([\w.-]+)', term)
    hint = (
      f"Write '{near[1]}' or '{near[1]}[from:to]'" if near else 'Name the split, then an optional [from:to]'
    )
    found.add(where, _SPLIT_WORDS, hint)
    return
  bounds = [bound for bound in match.groups()[1:] if bound]
  if any(bound.endswith('%') and abs(float(bound[:-1])) > 100 for bound in bounds):
    found.add(where, _SPLIT_WORDS, 'Percentages go from 0% to 100%')
  elif len(bounds) == 2 and _is_empty(*bounds):
    found.add(where, f'{_SPLIT_WORDS}, with examples in it', 'The slice ends before it begins')


def _is_empty(start: str, stop: str) -> bool:
  if start.endswith('%') != stop.endswith('%') or start.startswith('-') != stop.startswith('-'):
    return False  # only the size of the split can tell
  return float(start.rstrip('%')) >= float(stop.rstrip('%'))


def _check_crop(found: Findings) -> None:
  data = found.recipe.data
  for name in ('crop_area', 'crop_ratio'):
    where, (low, high) = f'data.{name}', getattr(data, name)
    if low > high:
      found.add(where, 'a range, smaller end first', f'Did you mean ({high}, {low})?')
    elif low == 0:
      found.add(where, 'a range that begins above 0', "The ViT papers' range is (0.05, 1.0)")
  if (
    data.crop == 'shift' and found.good('data.crop', 'data.image_size') and data.shift >= min(data.image_size)
  ):
    expected = f'less than the image, {min(data.image_size)} pixels'
    found.add('data.shift', expected, f'The largest is {min(data.image_size) - 1}')
  if data.crop == 'random' and found.good('data.crop', 'data.image_size'):
    side = max(data.image_size)
    if data.precrop_size is None or data.precrop_size < side:
      expected = f"at least {side}, the larger side of data.image_size, for data.crop = 'random'"
      found.add('data.precrop_size', expected, f'16/15 of it as in BiT: {round(side * 16 / 15)}')
