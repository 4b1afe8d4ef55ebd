"""The studies in reading order, and the folder they are written to."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np

import vitjax
from vitjax.analysis.report import attending, bias, seeing
from vitjax.analysis.report.page import page
from vitjax.analysis.report.section import LeftOut, Section, Subject
from vitjax.config.suggest import did_you_mean
from vitjax.errors import ConfigError, DataError, Problem
from vitjax.loaded import Loaded
from vitjax.trees import flatten

STUDIES: dict[str, Callable[[Subject], Section | LeftOut]] = {
  'features': seeing.features,
  'attention': attending.attention,
  'distance': attending.distance,
  'positions': attending.positions,
  'filters': seeing.filters,
  'field': bias.field,
  'norms': seeing.norms,
  'similarity': seeing.similarity,
  'shift': bias.shift,
  'shuffle': bias.shuffle,
}
_SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff', '.gif'}


def find_images(folder: pathlib.Path, *, limit: int) -> tuple[pathlib.Path, ...]:
  """Returns the image files below a folder, sorted; more than `limit` are thinned out evenly.

  Raises:
    DataError: no folder, or no image in it.
  """
  found = sorted(p for p in folder.rglob('*') if p.suffix.lower() in _SUFFIXES and p.is_file())
  if not found:
    what = 'no such folder' if not folder.is_dir() else 'no image files'
    raise DataError('there is nothing to look at', [Problem(str(folder), what, 'a folder of images')])
  chosen = np.linspace(0, len(found) - 1, min(limit, len(found))).round().astype(int)
  return tuple(found[i] for i in chosen)


def make_subject(
  loaded: Loaded,
  paths: Sequence[pathlib.Path],
  *,
  name: str,
  other: Loaded | None = None,
  other_name: str = '',
  num_shown: int = 6,
) -> Subject:
  """Returns the subject of a report; labels come from the folders' names where all of them are class names.

  A model of images at their own aspect ratio is looked at on images of its stored size, which have a common grid.

  Raises:
    DataError: images that cannot be read, all of them.
  """
  loaded, other = loaded.at_one_size(), None if other is None else other.at_one_size()
  pixels, problems = [], []
  for path in paths:
    try:
      pixels.append(loaded.preprocess(path))
    except DataError as error:
      problems += error.problems or [Problem(str(path), '', error.headline)]
  if problems:
    raise DataError(f'{len(problems)} of {len(paths)} images cannot be read', problems)
  folders = [path.parent.name for path in paths]
  known = {name: i for i, name in enumerate(loaded.class_names)}
  labels = np.array([known[f] for f in folders]) if all(f in known for f in folders) else None
  stacked = np.stack(pixels)
  if other is not None and other_name == name:
    other_name = f'{name} (2)'
  inputs = np.concatenate(list(loaded.inputs(stacked, 64)))
  return Subject(loaded, name, tuple(paths), stacked, inputs, labels, other, other_name, num_shown)


def choose(only: str | None) -> tuple[str, ...]:
  """Returns the studies named in 'a,b', in reading order; None: all.

  Raises:
    ConfigError: unknown names, all of them.
  """
  if only is None:
    return tuple(STUDIES)
  wanted = [name.strip() for name in only.split(',') if name.strip()]
  unknown = [name for name in wanted if name not in STUDIES]
  if unknown or not wanted:
    problems = [
      Problem('--only', repr(name), ', '.join(STUDIES), did_you_mean(name, list(STUDIES)) or '')
      for name in unknown or ['']
    ]
    raise ConfigError('no such analysis', problems)
  return tuple(name for name in STUDIES if name in wanted)


def write_report(
  subject: Subject,
  out: pathlib.Path,
  *,
  studies: Sequence[str],
  facts: Sequence[tuple[str, str]] = (),
  advance: Callable[[str], None] = lambda study: None,
) -> tuple[list[Section], list[LeftOut]]:
  """Runs studies and writes report.html, report.json, figures/*.png and numbers/*.csv into `out`.

  Args:
    subject: from `make_subject`.
    out: the folder; made if need be.
    studies: keys of STUDIES.
    facts: rows for the end of the page, besides those about the model.
    advance: called with each study's name before it runs.

  Returns:
    The sections, and what was left out.
  """
  for folder in (out / 'figures', out / 'numbers'):
    folder.mkdir(parents=True, exist_ok=True)
  sections: list[Section] = []
  left_out: list[LeftOut] = []
  for name in studies:
    advance(name)
    found = STUDIES[name](subject)
    if isinstance(found, LeftOut):
      left_out.append(found)
      continue
    sections.append(found)
    for picture in found.pictures:
      (out / 'figures' / f'{picture.name}.png').write_bytes(picture.png)
    with (out / 'numbers' / f'{found.key}.csv').open('w', newline='', encoding='utf-8') as file:
      csv.writer(file).writerows([found.columns, *found.rows])
  facts = [*_facts(subject), *facts]
  record = {
    'facts': dict(facts),
    'images': [str(path) for path in subject.paths],
    'sections': {s.key: {'headline': s.headline, 'caveat': s.caveat, 'numbers': s.numbers} for s in sections},
    'left_out': {x.key: x.reason for x in left_out},
  }
  (out / 'report.json').write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
  (out / 'report.html').write_text(page(subject, sections, left_out, facts), encoding='utf-8')
  return sections, left_out


def _facts(subject: Subject) -> list[tuple[str, str]]:
  """Returns rows about the model."""
  rows = []
  for name, loaded in ((subject.name, subject.loaded), (subject.other_name, subject.other)):
    if loaded is None:
      continue
    size = ' x '.join(str(side) for side in loaded.preprocess.image_size)
    count = sum(int(np.size(leaf)) for leaf in flatten(loaded.params).values())
    rows.append((name, f'{loaded.format}, {loaded.config.variant}, {count:,} parameters, {size} pixels'))
    rows.append((f'{name}: source', loaded.report.splitlines()[0] if loaded.report else 'made in memory'))
  rows.append(('software', f'vitjax {vitjax.__version__}, jax {jax.__version__}, {jax.default_backend()}'))
  return rows
