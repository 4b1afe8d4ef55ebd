"""Where a run's first state comes from: the workdir, another checkpoint, or the seed; and what a checkpoint holds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import pathlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

import vitjax
from vitjax import golden
from vitjax.checkpoint import Store, explain_differences, initialize_from
from vitjax.config import recipe_to_json
from vitjax.errors import CheckpointError, Problem
from vitjax.loading import read_origin
from vitjax.parallel.distributed import is_main
from vitjax.training.build import Run
from vitjax.training.numerics import Health
from vitjax.training.probed_head import probed_params
from vitjax.training.state import TrainState
from vitjax.training.teacher import place
from vitjax.trees import flatten, map_with_path

log = logging.getLogger('vitjax')

_VERSIONS_OF = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


@dataclasses.dataclass
class Progress:
  """How far a run is, beside its arrays.

  Attributes:
    step: steps done.
    metrics: of the last evaluations.
    health: what the watch on numbers remembers.
    unfinished: the row of `step` that waits for evaluations, where the run had to leave in the middle of them.
  """

  step: int = 0
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)
  health: Health = dataclasses.field(default_factory=Health)
  unfinished: dict[str, float] | None = None

  @property
  def logged_step(self) -> int:
    """The last step whose row is final."""
    return self.step if self.unfinished is None else self.step - 1


def checkpoint_items(run: Run, state: TrainState, progress: Progress) -> dict[str, Any]:
  """Returns the keyword arguments of Store.save for a state: params, opt_state, aux and meta.

  meta is JSON: 'recipe', 'preprocess', 'class_names', 'data' (fingerprint and length of the training
  source; the input position is the step itself), 'teacher' (fingerprint or None), 'metrics' (of the last
  evaluations), 'health' and 'unfinished' (see Progress), 'golden' (logits of a seeded input) and 'versions'.
  """
  aux = {'step': state.step, 'rng': state.rng}
  if state.ema_params is not None:
    aux['ema_params'] = state.ema_params
  meta = {
    'recipe': recipe_to_json(run.recipe),
    'preprocess': run.preprocess().to_json(),
    'class_names': list(run.source.class_names) if run.recipe.model.num_classes else [],
    'data': {'fingerprint': run.source.fingerprint, 'num_examples': len(run.source)},
    'metrics': dict(progress.metrics),
    'health': dataclasses.asdict(progress.health),
    'unfinished': progress.unfinished,
    'teacher': None if run.teacher is None else run.teacher.fingerprint,
    'golden': golden.record(run.predict_fn, state.evaluated_params(), run.recipe.data.image_size),
    'versions': {'vitjax': vitjax.__version__, **{n: importlib.metadata.version(n) for n in _VERSIONS_OF}},
  }
  return {'params': state.params, 'opt_state': state.opt_state, 'aux': aux, 'meta': meta}


def restore_or_init(run: Run, store: Store) -> tuple[TrainState, Progress]:
  """Returns the state to start from, and how far the run is.

  The workdir's newest sound checkpoint wins; then init.checkpoint; then the seed.

  Raises:
    CheckpointError: the workdir holds checkpoints but none is sound, they belong to other data, or
      init.checkpoint does not fit.
  """
  abstract = run.abstract_state
  aux = {'step': abstract.step, 'rng': abstract.rng}
  if abstract.ema_params is not None:
    aux['ema_params'] = abstract.ema_params
  restored = store.restore(params=abstract.params, opt_state=abstract.opt_state, aux=aux)
  if restored is not None:
    _check_same_lessons(run, store, restored.step, restored.meta)
    ema_params = restored.aux['ema_params'] if abstract.ema_params is not None else None
    state = TrainState(
      restored.aux['step'], restored.params, restored.opt_state, ema_params, restored.aux['rng']
    )
    return run.with_frozen(state), _progress(restored.step, restored.meta)
  state = run.fresh_state()
  if run.recipe.init.checkpoint is not None:
    state = _transfer(run, state, run.recipe.init.checkpoint, store.workdir)
  return state, Progress()


def _progress(step: int, meta: dict[str, Any]) -> Progress:
  """Returns the progress that a checkpoint records; those of earlier versions knew no health, no unfinished steps."""
  progress = Progress(step, meta['metrics'])
  if 'health' in meta:
    progress.health = Health(**meta['health'])
    progress.unfinished = meta['unfinished']
  return progress


def _check_same_lessons(run: Run, store: Store, step: int, meta: dict[str, Any]) -> None:
  """Raises CheckpointError when training data or teacher are not those that the checkpoint learned from; names both."""
  hint = 'restore it, or start in a new workdir with init.checkpoint'
  changed = {}
  if meta['data']['fingerprint'] != run.source.fingerprint:
    changed['the training data'] = Problem(
      'data.source',
      f'{len(run.source)} examples, fingerprint {run.source.fingerprint}',
      f'{meta["data"]["num_examples"]} examples, fingerprint {meta["data"]["fingerprint"]}, as at step {step}',
      f'A resumed run must see the same data: {hint}',
    )
  before = meta['teacher'] if 'teacher' in meta else None  # earlier versions knew no teachers
  if run.teacher is not None and run.teacher.fingerprint != before:
    changed['the teacher'] = Problem(
      'distill.checkpoint',
      f'{run.recipe.distill.checkpoint}, fingerprint {run.teacher.fingerprint}',
      f'fingerprint {before}, as at step {step}',
      f'A resumed run must learn from the same teacher: {hint}',
    )
  if changed:
    headline = f'{store.workdir}: {" and ".join(changed)} changed since this run was started'
    raise CheckpointError(headline, list(changed.values()))


def _transfer(run: Run, state: TrainState, source: str, workdir: pathlib.Path) -> TrainState:
  """Returns `state` with the weights of another checkpoint, as init.* asks.

  The report of every key goes to WORKDIR/init_report.txt, what was not simply loaded to the screen too.
  """
  init = run.recipe.init
  old = read_origin(source)
  known = flatten(old.params)

  def on_host(path: str, leaf: jax.Array) -> Any:
    """Returns what initialize_from needs of a fresh parameter: its values only where no old one replaces them."""
    replaced = path in known and not path.startswith('head/')
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if replaced else _gathered(leaf)

  differences = explain_differences(
    old.config,
    run.recipe.model,
    old_size=old.image_size,
    new_size=run.recipe.data.image_size,
  )
  # The objective's own parameters start afresh, whatever the old run learned.
  differences['expected'] = (*differences['expected'], 'objective/.*')
  params, report = initialize_from(
    map_with_path(on_host, state.params),
    old.params,
    head='keep' if init.head == 'keep' else 'reset',
    position_resize=init.position_resize,
    **differences,
  )
  placed = jax.tree.map(place, params, run.abstract_state.params)
  notes = []
  if init.head == 'probe':
    placed, note = probed_params(run, placed)
    notes.append(f'\n  {note}')
  if is_main():
    text = f'weights from {source}: {report}{"".join(notes)}\n'
    (workdir / 'init_report.txt').write_text(text, encoding='utf-8')
    if run.recipe.log.progress:
      changed = [f'\n  {r.action} {r.path}  {r.note}' for r in report.rows if r.action != 'loaded']
      log.info('weights from %s: %s%s', source, report.summary(), ''.join([*changed, *notes]))
  ema_params = None if state.ema_params is None else jax.tree.map(lambda x: x.copy(), placed)
  return dataclasses.replace(state, params=placed, ema_params=ema_params)


def _gathered(leaf: jax.Array) -> np.ndarray:
  """Returns the whole value of an array on every host."""
  return np.asarray(
    leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True)
  )
