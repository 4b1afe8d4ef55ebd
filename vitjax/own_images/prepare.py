"""Any labelled images to ArrayRecord shards, which have random access on any file system: bytes unchanged, checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from vitjax.config.schema import SourceConfig
from vitjax.config.suggest import suggest_file
from vitjax.data.readers import require
from vitjax.data.records import PREPARED_FILE, encode_example, write_class_names
from vitjax.data.sources import Source, counts_per_class, open_source
from vitjax.errors import DataError, Problem
from vitjax.own_images.layout import find_splits

EXAMPLES_PER_SHARD = 4096
_PLAN = 'preparing.json'


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What `prepare` has written.

  Attributes:
    counts: {split: {class name: images}}.
    num_shards: {split: files}.
    written: shards of this call; the others were whole already.
  """

  counts: dict[str, dict[str, int]]
  num_shards: dict[str, int]
  written: int


def find_parts(path: str) -> dict[str, SourceConfig]:
  """Returns {split: source} of everything at a path, of any kind that `layout.find_splits` knows.

  Raises:
    DataError: there is nothing of that kind.
  """
  place = pathlib.Path(path).expanduser()
  if not place.exists():
    expected = 'a folder of images, or a manifest'
    problem = Problem(path, 'no such file or folder', expected, suggest_file(str(place)))
    raise DataError('nothing to prepare', [problem])
  source, names = find_splits(path)
  if not names:
    return {'train': dataclasses.replace(source, split='all')}
  return {name: dataclasses.replace(source, split=name) for name in names}


def prepare(
  path: str,
  out: str | os.PathLike[str],
  *,
  num_shards: int | None = None,
  progress: Callable[[str], None] = lambda text: None,
) -> Prepared:
  """Writes every split of labelled images as shards that kind='array_record' reads, in the same order.

  A shard appears under its name when it is whole and has been read back; a call that was interrupted goes on with
  the next one. class_names.json and prepared.json come last. Images are copied as they are, damaged ones too.

  Args:
    path: as of `find_parts`.
    out: a new folder, or one that an interrupted call has left.
    num_shards: of each split; None: one for each 4,096 images.
    progress: called with a line per shard.

  Raises:
    DataError: unreadable sources, a folder that holds something else, or files that do not read back.
  """
  target = pathlib.Path(out).expanduser()
  sources = {name: open_source(config, where=name) for name, config in find_parts(path).items()}
  shards = {
    name: num_shards or max(math.ceil(len(source) / EXAMPLES_PER_SHARD), 1)
    for name, source in sources.items()
  }
  first = next(iter(sources.values()))
  plan = {
    'source': str(path),
    'fingerprints': {name: source.fingerprint for name, source in sources.items()},
    'num_shards': shards,
    'multi_label': first.multi_label,
  }
  _begin(target, plan)
  written = 0
  for name, source in sources.items():
    bounds = np.linspace(0, len(source), shards[name] + 1).round().astype(int)
    for i in range(shards[name]):
      file = target / f'{name}-{i:05d}-of-{shards[name]:05d}.array_record'
      if not file.is_file():
        _write_shard(source, range(bounds[i], bounds[i + 1]), file)
        written += 1
      progress(f'{file.name}: {bounds[i + 1] - bounds[i]:,} images')
  write_class_names(target, first.class_names)
  counts = {name: _verified(source, target, name) for name, source in sources.items()}
  (target / PREPARED_FILE).write_text(
    json.dumps({**plan, 'counts': counts}, indent=2, ensure_ascii=False) + '\n', encoding='utf-8'
  )
  (target / _PLAN).unlink()
  return Prepared(counts, shards, written)


def _begin(target: pathlib.Path, plan: dict[str, Any]) -> None:
  """Makes the folder, or checks that what it holds was begun for the same images."""
  target.mkdir(parents=True, exist_ok=True)
  for name in (_PLAN, PREPARED_FILE):
    if (target / name).is_file():
      found = json.loads((target / name).read_text(encoding='utf-8'))
      different = [key for key in ('fingerprints', 'num_shards', 'multi_label') if found[key] != plan[key]]
      if different:
        expected = f'the images of {plan["source"]}, in as many shards'
        problem = Problem(str(target), f'made of {found["source"]}', expected, 'Take a new folder')
        raise DataError('the folder holds other data', [problem])
      break
  else:
    if any(target.iterdir()):
      problem = Problem(str(target), 'other files', 'a new or an empty folder', 'Give another --out')
      raise DataError('the folder is in use', [problem])
  for partial in target.glob('*.partial'):
    partial.unlink()
  (target / _PLAN).write_text(json.dumps(plan, ensure_ascii=False), encoding='utf-8')


def _write_shard(source: Source, examples: range, file: pathlib.Path) -> None:
  """Writes some examples, reads them back, and gives the file its name when nothing differs."""
  module = require('array_record.python.array_record_module', 'array-record', where=str(file))
  partial = file.with_name(f'{file.name}.partial')
  writer, digest = module.ArrayRecordWriter(str(partial), 'group_size:1'), hashlib.sha256()
  for i in examples:
    record = source[i]
    data = encode_example(record['image'], record['label'])
    writer.write(data)
    digest.update(_framed(data))
  writer.close()
  reader, found = module.ArrayRecordReader(str(partial)), hashlib.sha256()
  count = reader.num_records()
  for i in range(count):
    found.update(_framed(reader.read([i])[0]))
  reader.close()
  if count != len(examples) or found.digest() != digest.digest():
    problem = Problem(
      str(partial), f'{count} records', f'the {len(examples)} that were written', 'Is the disk full?'
    )
    raise DataError('a shard does not read back', [problem])
  partial.replace(file)


def _framed(record: bytes) -> bytes:
  return len(record).to_bytes(8, 'little') + record


def _verified(source: Source, target: pathlib.Path, name: str) -> dict[str, int]:
  """Returns the images per class of a written split; raises DataError when it is not the source's."""
  config = SourceConfig(kind='array_record', path=str(target), split=name, multi_label=source.multi_label)
  prepared = open_source(config, where=name)
  same = (
    len(prepared) == len(source)
    and prepared.class_names == source.class_names
    and np.array_equal(prepared.labels(), source.labels())
  )
  if not same:
    found = f'{len(prepared)} images of {prepared.num_classes} classes'
    expected = f'{len(source)} images of {source.num_classes} classes, labelled alike'
    raise DataError('the shards are not what was to be written', [Problem(str(target), found, expected)])
  return counts_per_class(prepared)
