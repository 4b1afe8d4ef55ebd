"""Judge the frozen features of a checkpoint on labelled images, with raw pixels beside them as the baseline.

vitjax probe --checkpoint=runs/mnist --data=digits --kind=fewshot --shots=1,5,10
vitjax probe --checkpoint=vit_b16.npz --data=photos --kind=knn --image_size=128
vitjax probe --checkpoint=runs/pets --data=photos --kind=linear_probe --train_share=0.5 --split_seed=1

photos holds a folder per class, inside train/ and val/ (or test/) or directly; in the latter case a part of each
class is set aside as the test.
"""

from __future__ import annotations

import argparse
from typing import Any

from vitjax.config.eval_metrics import FEATURE_KINDS, KIND_KNOBS
from vitjax.config.knobs import Knob, find_knob

EMBEDDED = ('mnist5k', 'digits')
_TRAIN_SHARE = 0.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags; those of the schema's knobs keep their names, texts and defaults."""
  parser.add_argument(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='whatever vitjax.load reads: a workdir, a file, a folder',
  )
  parser.add_argument(
    '--data', required=True, metavar='FOLDER', help=f'an image folder, or one of {", ".join(EMBEDDED)}'
  )
  parser.add_argument('--kind', choices=FEATURE_KINDS, default='linear_probe', help='default linear_probe')
  for kind, names in ((kind, KIND_KNOBS[kind]) for kind in FEATURE_KINDS):
    for name in names:
      knob = _knob(name)
      default = ','.join(f'{v:g}' for v in knob.default) if knob.type.base is tuple else f'{knob.default:g}'
      text = f'{kind}: {knob.info.doc} (default {default})'
      parser.add_argument(f'--{name}', metavar='X,Y' if knob.type.base is tuple else 'X', help=text)
  parser.add_argument(
    '--train_share', type=float, metavar='X',
    help=f'without split folders: part of each class to learn from (default {_TRAIN_SHARE})',
  )  # fmt: skip
  parser.add_argument(
    '--split_seed', type=int, metavar='N', help='without split folders: seed of that choice (default 0)'
  )
  parser.add_argument(
    '--image_size', type=int, metavar='N', help='side of the images that the model gets (default: its own)'
  )
  parser.add_argument(
    '--pixels',
    type=int,
    default=32,
    metavar='N',
    help='side of the images whose pixels are the baseline (default 32)',
  )
  parser.add_argument(
    '--batch_size', type=int, default=64, metavar='N', help='images per forward pass (default 64)'
  )


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Prints the probe's metrics on features and on pixels, side by side."""
  from vitjax.cli.environment import prepare

  config = _eval_config(args)
  prepare()
  import jax.numpy as jnp
  import numpy as np

  import vitjax
  from vitjax.data import Preprocess
  from vitjax.evaluators import make_probe
  from vitjax.ops.normalize import normalize

  train, test = _open(args)
  probe = make_probe(config, train, prefix='--')
  loaded = vitjax.load(args.checkpoint, image_size=args.image_size)
  mean, std = loaded.preprocess.mean, loaded.preprocess.std
  small = Preprocess((args.pixels, args.pixels), mean, std, interpolation='bilinear_antialias')

  def features(images: list[Any]) -> np.ndarray:
    return loaded.features(images, batch_size=args.batch_size)

  def pixels(images: list[Any]) -> np.ndarray:
    raw = jnp.asarray(np.stack([small(image) for image in images]))
    return np.asarray(normalize(raw, mean, std)).reshape(len(images), -1)

  # Without the rows of single arrays: nothing is trained further here.
  print('\n'.join(line for line in loaded.report.splitlines() if not line.startswith('  ')))
  print(_summary(probe.support, test), flush=True)
  extractors = {'features': features, f'pixels {args.pixels}x{args.pixels}': pixels}
  learned_from = _collect(extractors, probe.support, args.batch_size)
  tested_on = _collect(extractors, test, args.batch_size)
  columns = {
    f'{name} [{learned_from[name].values.shape[1]}]': probe.score(learned_from[name], tested_on[name])
    for name in extractors
  }
  print('\n'.join(_table(columns)))
  return 0


def _knob(name: str) -> Knob:
  knob = find_knob(f'evals.probe.{name}')
  assert knob is not None, name
  return knob


def _eval_config(args: argparse.Namespace) -> Any:
  """Returns the EvalConfig of the flags; every flag that is wrong, or that nothing would read, is named."""
  from vitjax.config.schema import EvalConfig
  from vitjax.config.values import Mismatch, from_text, out_of_range
  from vitjax.errors import ConfigError, Problem

  values: dict[str, Any] = {}
  problems = [
    Problem(f'--{name}', str(getattr(args, name)), 'at least 1')
    for name in ('pixels', 'batch_size', 'image_size')
    if getattr(args, name) is not None and getattr(args, name) < 1
  ]
  if args.train_share is not None and not 0 < args.train_share < 1:
    problems.append(Problem('--train_share', f'{args.train_share:g}', 'a number between 0 and 1'))
  if args.split_seed is not None and not 0 <= args.split_seed < 2**32:
    problems.append(Problem('--split_seed', str(args.split_seed), 'from 0 to 2^32 - 1'))
  for kind, names in ((kind, KIND_KNOBS[kind]) for kind in FEATURE_KINDS):
    for name in names:
      knob, text = _knob(name), getattr(args, name)
      if text is None:
        continue
      if kind != args.kind:
        problems.append(Problem(f'--{name}', text, f'to be left out: it is read with --kind={kind}'))
        continue
      is_tuple = knob.type.base is tuple
      try:
        value = from_text(f'{text},' if is_tuple and ',' not in text else text, knob.type, knob.info)
      except Mismatch as error:
        problems.append(Problem(f'--{name}', text, knob.expected, error.hint))
        continue
      hint = out_of_range(value, knob.type, knob.info)
      if hint is not None:
        problems.append(Problem(f'--{name}', text, knob.expected, hint))
      values[name] = tuple(dict.fromkeys(value)) if is_tuple else value
  config = EvalConfig(kind=args.kind, **values)
  if 'held_out' in values and len(config.probe_l2) == 1:
    expected = 'to be left out: one value of --probe_l2 leaves nothing to choose'
    problems.append(Problem('--held_out', args.held_out, expected))
  if problems:
    raise ConfigError('these flags do not fit together', problems)
  return config


def _open(args: argparse.Namespace) -> tuple[Any, Any]:
  """Returns the sources to learn from and to test on.

  Raises:
    DataError: no such folder, folders that are no split to learn from and one to test on, or classes with one
      image.
    ConfigError: flags about a split that the data make themselves.
  """
  from vitjax.config.schema import SourceConfig
  from vitjax.data import check_same_classes, open_source
  from vitjax.data.folders import folder_splits
  from vitjax.errors import ConfigError, DataError, Problem

  if args.data in EMBEDDED:
    kind, path, splits = args.data, None, ('train', 'test')
  else:
    kind, path, splits = 'image_folder', args.data, folder_splits(args.data)
  names = {name: SourceConfig(kind=kind, path=path, split=name) for name in ('train', 'val', 'test', 'all')}
  if splits in ((), ('train',)):
    return _divide(open_source(names['train' if splits else 'all'], where='--data'), args)
  given = [f'--{name}' for name in ('train_share', 'split_seed') if getattr(args, name) is not None]
  if given:
    expected = f'to be left out: {args.data} has a split of its own ({", ".join(splits)})'
    raise ConfigError('nothing is to be split', [Problem(flag, '', expected) for flag in given])
  if 'train' not in splits:
    problem = Problem(args.data, ', '.join(splits), 'a folder train as well, or none of them')
    raise DataError('there is nothing to learn from', [problem])
  train, test = (open_source(names[name], where='--data') for name in ('train', splits[1]))
  check_same_classes(train, test)
  return train, test


def _divide(source: Any, args: argparse.Namespace) -> tuple[Any, Any]:
  """Returns one source in two parts: --train_share of each class, and the rest of it (at least one image)."""
  import numpy as np

  from vitjax.data import counts_per_class
  from vitjax.data.folders import limited
  from vitjax.errors import DataError, Problem
  from vitjax.evaluators.linear_probe import hold_out

  lonely = [name for name, count in counts_per_class(source).items() if count < 2]
  if lonely:
    problems = [Problem(name, '1 image', 'at least 2: one to learn from, one to test on') for name in lonely]
    raise DataError('classes are too small to be split', limited(problems))
  share = _TRAIN_SHARE if args.train_share is None else args.train_share
  labels = source.labels()
  held = hold_out(labels, 1 - share, seed=args.split_seed or 0, at_least=1)
  return source.subset(np.flatnonzero(~held)), source.subset(np.flatnonzero(held))


def _summary(train: Any, test: Any) -> str:
  """Returns the sizes, and what always naming the largest class would reach."""
  import numpy as np

  largest = np.bincount(test.labels()).max() / len(test)
  return (
    f'{len(train):,} images to learn from, {len(test):,} to test on, {test.num_classes} classes; '
    f'always naming the largest class: {largest:.4f}'
  )


def _collect(extractors: dict[str, Any], source: Any, batch_size: int) -> dict[str, Any]:
  """Returns {name: Features} of all images of a source, each decoded once."""
  import numpy as np
  import rich.console
  import rich.progress

  from vitjax.evaluators import make_features

  parts: dict[str, list[np.ndarray]] = {name: [] for name in extractors}
  starts = range(0, len(source), batch_size)
  console = rich.console.Console(stderr=True)
  for start in rich.progress.track(starts, 'features', console=console, transient=True):
    examples = range(start, min(start + batch_size, len(source)))
    images = [source.load(i)[0] for i in examples]
    for name, extract in extractors.items():
      parts[name].append(extract(images))
  labels, index = source.labels(), np.arange(len(source))
  return {
    name: make_features(np.concatenate(rows), labels, index, where=name) for name, rows in parts.items()
  }


def _table(columns: dict[str, dict[str, float]]) -> list[str]:
  """Returns the lines of a table: a row per metric, a column per kind of features, deviations beside means."""
  rows = [['', *columns]]
  for name in next(iter(columns.values())):
    if name.endswith('_std'):
      continue
    cells = []
    for metrics in columns.values():
      text = f'{metrics[name]:g}' if name == 'l2' else f'{metrics[name]:.4f}'
      cells.append(text + (f' +- {metrics[f"{name}_std"]:.4f}' if f'{name}_std' in metrics else ''))
    rows.append([name, *cells])
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return [
    '  '.join(
      [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
    ).rstrip()
    for row in rows
  ]
