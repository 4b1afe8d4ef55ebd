"""After training: what the model says of the images set aside, as tables and pictures in WORKDIR/report."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from vitjax.checkpoint import Store
from vitjax.data.contact_sheet import caption
from vitjax.data.decode import UnreadableError
from vitjax.data.sources import Source, open_source
from vitjax.evaluators import FeatureExtractor, Features, average_precisions, split_batches
from vitjax.evaluators.confusion import confusion_matrix, probabilities, worst_mistakes
from vitjax.evaluators.multilabel import sigmoid_losses
from vitjax.own_images.pictures import Mistake, draw_confusion, draw_mistakes
from vitjax.own_images.survey import survey
from vitjax.parallel.agreement import require_same
from vitjax.parallel.distributed import is_main
from vitjax.training import Run
from vitjax.training.resume import restore_or_init

FOLDER = 'report'
_MOST_ROWS = 20
_NAME_WIDTH = 40
_LOOK_S = 3600.0


def look(run: Run, workdir: str | os.PathLike[str]) -> list[str]:
  """Looks at the images of a run that has not begun; returns the report's lines, which WORKDIR/report/data.txt holds
  in full. Other processes wait for the first, which looks.

  Raises:
    DataError: more unreadable images than a source tolerates.
  """
  lines: list[str] = []
  if is_main():
    sources, words = {'data.source': run.source}, {'data.source': 'training'}
    for name, config in run.recipe.evals.items():
      where = f'evals.{name}.source'
      sources[where], words[where] = open_source(config.source, where=where), name
    found = survey(sources, words)
    folder = pathlib.Path(workdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'data.txt').write_text('\n'.join(found.lines(1_000_000)) + '\n', encoding='utf-8')
    lines = [*found.lines(), f'all of it: {folder / "data.txt"}']
    found.check()
  require_same({}, what='the look at the images', timeout_s=_LOOK_S)
  return lines


def write_report(run: Run, workdir: str | os.PathLike[str]) -> list[str]:
  """Writes up the predictions of a finished run's newest checkpoint for each evaluator in report.evals.

  Host-side; called by all processes, the first writes. WORKDIR/report/NAME holds mistakes.png, classes.csv,
  predictions.csv and, for images of one class, confusion.png and confusion.csv.

  Args:
    run: as it was trained.
    workdir: of the run.

  Returns:
    The lines to show: the table per class, and the files.
  """
  workdir = pathlib.Path(workdir).absolute()
  with Store(workdir, run.recipe.checkpoint) as store:
    state, progress = restore_or_init(run, store)
  lines: list[str] = []
  scores = FeatureExtractor(run.objective.predict, run.mesh)
  for name in run.recipe.report.evals:
    where = f'evals.{name}.source'
    source = open_source(run.recipe.evals[name].source, where=where)
    batches = split_batches(run.recipe, name, run.mesh, source)
    found = scores.collect(state.evaluated_params(), batches(), where=where)
    if is_main():
      folder = workdir / FOLDER / name
      folder.mkdir(parents=True, exist_ok=True)
      split = '' if source.split == name else f', {source.split}'
      title = f'{name}{split}, step {progress.step}'
      write = _write_multi_label if source.multi_label else _write_one_label
      lines += write(run, source, found, folder, title)
  return lines


def _write_one_label(
  run: Run, source: Source, found: Features, folder: pathlib.Path, title: str
) -> list[str]:
  recipe, names = run.recipe, source.class_names
  probs = probabilities(found.values, recipe.objective.loss)[:, : len(names)]
  chosen, labels = probs.argmax(axis=1), found.labels
  matrix = confusion_matrix(labels, chosen, len(names))
  right = int(matrix.trace())
  draw_confusion(
    matrix,
    names,
    folder / 'confusion.png',
    title=f'{title}: {right} of {len(labels)} right ({right / len(labels):.1%})',
  )
  _write_csv(
    folder / 'confusion.csv',
    ['true class', *names],
    [[n, *r] for n, r in zip(names, matrix.tolist(), strict=True)],
  )
  sure = probs[np.arange(len(labels)), chosen]
  _write_csv(
    folder / 'predictions.csv',
    ['image', 'true class', 'prediction', 'probability', 'probability of the true class'],
    [
      [source.name_of(int(i)), names[t], names[c], f'{p:.6f}', f'{q:.6f}']
      for i, t, c, p, q in zip(
        found.index, labels, chosen, sure, probs[np.arange(len(labels)), labels], strict=True
      )
    ],
  )
  worst = worst_mistakes(probs, labels, recipe.report.num_mistakes)
  mistakes = [
    Mistake(
      pixels, _short(source, int(found.index[i])), f'is {caption(names, int(labels[i]))}',
      f'said {caption(names, int(chosen[i]))}, {sure[i]:.0%}',
    )
    for i in worst
    if (pixels := _pixels(source, int(found.index[i]))) is not None
  ]  # fmt: skip
  wrong = len(labels) - right
  subtitle = f'{len(mistakes)} of {wrong} mistakes, the most confident first' if wrong else 'no mistakes'
  draw_mistakes(mistakes, folder / 'mistakes.png', title=f'Worst mistakes: {title}', subtitle=subtitle)
  rows = _class_rows(matrix, names)
  _write_csv(folder / 'classes.csv', _CLASS_HEADER, rows)
  return [*_class_table(rows, len(source), len(labels)), *_files(folder)]


_CLASS_HEADER = ('class', 'images', 'right', 'accuracy', 'precision', 'most often taken for')


def _class_rows(matrix: np.ndarray, names: Sequence[str]) -> list[list[Any]]:
  """Returns a row per class: its images, how many are right, recall and precision, and its commonest mistake."""
  rows = []
  for i, name in enumerate(names):
    total, right, said = int(matrix[i].sum()), int(matrix[i, i]), int(matrix[:, i].sum())
    others = matrix[i].copy()
    others[i] = 0
    mistaken = f'{names[int(others.argmax())]} ({others.max()})' if others.any() else ''
    accuracy = f'{right / total:.3f}' if total else ''
    rows.append([name, total, right, accuracy, f'{right / said:.3f}' if said else '', mistaken])
  return rows


def _class_table(rows: Sequence[Sequence[Any]], num_images: int, num_judged: int) -> list[str]:
  """Returns the table per class, the worst first where there are too many classes to show."""
  shown, words = list(rows), 'accuracy per class'
  if len(rows) > _MOST_ROWS:
    shown = sorted((row for row in rows if row[1]), key=lambda row: float(row[3]))[:_MOST_ROWS]
    words = f'accuracy per class, the {len(shown)} worst of {len(rows)}'
  if num_judged < num_images:
    words += f' ({num_images - num_judged} of {num_images} images could not be read)'
  cells = [list(_CLASS_HEADER), *[[_cut(str(cell)) for cell in row] for row in shown]]
  widths = [max(cell_len(row[i]) for row in cells) for i in range(len(_CLASS_HEADER))]
  lines = [
    '  '.join(
      [
        set_cell_size(row[0], widths[0]),
        *(c.rjust(w) for c, w in zip(row[1:5], widths[1:5], strict=True)),
        row[5],
      ]
    ).rstrip()
    for row in cells
  ]
  return [f'{words}:', *(f'  {line}' for line in lines)]


def _cut(text: str) -> str:
  return text if cell_len(text) <= _NAME_WIDTH else set_cell_size(text, _NAME_WIDTH - 1) + '…'


def _write_multi_label(
  run: Run, source: Source, found: Features, folder: pathlib.Path, title: str
) -> list[str]:
  names, labels = source.class_names, found.labels
  probs = probabilities(found.values, 'sigmoid')[:, : len(names)]
  precisions = average_precisions(found.values, labels)
  losses = sigmoid_losses(found.values[:, : len(names)], labels)
  _write_csv(
    folder / 'predictions.csv',
    ['image', 'classes', *names],
    [
      [source.name_of(int(i)), caption(names, label.astype(np.uint8)), *(f'{p:.6f}' for p in row)]
      for i, label, row in zip(found.index, labels, probs, strict=True)
    ],
  )
  worst = np.argsort(-losses.max(axis=1), kind='stable')[: run.recipe.report.num_mistakes]
  mistakes = []
  for i in worst:
    j = int(losses[i].argmax())
    pixels = _pixels(source, int(found.index[i]))
    if pixels is not None and (probs[i, j] > 0.5) != labels[i, j]:
      truth = caption(names, labels[i].astype(np.uint8))
      mistakes.append(
        Mistake(pixels, _short(source, int(found.index[i])), f'has {truth}', f'{names[j]}: {probs[i, j]:.0%}')
      )
  subtitle = f'{len(mistakes)} images with the surest wrong answer about one of their classes'
  draw_mistakes(mistakes, folder / 'mistakes.png', title=f'Worst mistakes: {title}', subtitle=subtitle)
  rows = [
    [name, int(labels[:, j].sum()), '' if np.isnan(precisions[j]) else f'{precisions[j]:.3f}']
    for j, name in enumerate(names)
  ]
  _write_csv(folder / 'classes.csv', ['class', 'images', 'average precision'], rows)
  shown = sorted((row for row in rows if row[2]), key=lambda row: float(row[2]))[:_MOST_ROWS]
  width = max(cell_len(_cut(row[0])) for row in rows)
  table = [f'  {set_cell_size(_cut(name), width)}  {count:>6}  {value}' for name, count, value in shown]
  return ['average precision per class, the worst first:', *table, *_files(folder)]


def _pixels(source: Source, example: int) -> np.ndarray | None:
  try:
    return source.load(example)[0]
  except UnreadableError:
    return None


def _short(source: Source, example: int) -> str:
  """Returns the end of an example's name, its file."""
  return pathlib.PurePath(source.name_of(example)).name


def _write_csv(path: pathlib.Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
  with path.open('w', encoding='utf-8', newline='') as file:
    table = csv.writer(file)
    table.writerow(header)
    table.writerows(rows)


def _files(folder: pathlib.Path) -> list[str]:
  return ['report:', *(f'  {file}' for file in sorted(folder.iterdir()))]
