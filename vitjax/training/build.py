"""Recipe -> Run: everything that training needs, checked and wired, before anything is computed or written."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vitjax.config.durations import Duration
from vitjax.config.memory import keep_freed_memory
from vitjax.config.schema import Recipe
from vitjax.data import Preprocess, train_batches
from vitjax.data.sources import Source, check_same_classes, open_source
from vitjax.errors import ConfigError, DataError, Problem, VitjaxError
from vitjax.evaluators import Evaluator, build_evaluator, eval_sources, reads_head
from vitjax.models import computed_size, image_shape, native_patches, train_flops
from vitjax.objectives import Objective, build_objective, resized_objective
from vitjax.optim import make_optimizer, make_schedule
from vitjax.optim.sharpness import gradient_evaluations
from vitjax.parallel.constrain import on_mesh
from vitjax.parallel.hardware import peak_flops_per_s
from vitjax.parallel.mesh import batch_sharding, local_share, make_mesh, replicated, to_global
from vitjax.parallel.prefetch import Prefetch
from vitjax.parallel.tuning import compiler_options, device_class, tuning_for
from vitjax.training.state import TrainState, init_state, state_shardings
from vitjax.training.step import make_train_step
from vitjax.training.teacher import OpenedTeacher, open_teacher, place


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run, ready to start; holds no open files and no arrays.

  Attributes:
    recipe: with model.num_classes resolved.
    mesh: device mesh with axes data, fsdp, model.
    source: the opened training source.
    fingerprints: {dotted path: fingerprint} of the training source and those of the evaluators.
    objective: what is learned.
    schedule: step -> learning rate.
    abstract_state: TrainState of ShapeDtypeStructs that carry their shardings.
    init_fn: () -> TrainState without frozen weights, jitted with those shardings.
    step_fns: the jitted train step, which donates the state; with model.patch_sizes one per size, in ascending order.
    teacher: of a distillation, on the host; None without one.
    predict_fn: jitted (params, uint8 images) -> float32 logits [n, v], whole on every device.
    evaluators: by their names in recipe.evals.
    total_steps: length of the schedule.
    stop_step: the step after which this run ends, <= total_steps.
    log_every, save_every: steps.
    replica_check_every: steps; 0: never.
    eval_every: steps, by evaluator name.
    train_flops_per_example: analytic, 3x forward, 6x with SAM; the mean over model.patch_sizes; and a teacher's
      forward pass.
    peak_flops_per_s: of all devices together; None where the device kind is unknown.
  """

  recipe: Recipe
  mesh: Mesh
  source: Source
  fingerprints: dict[str, str]
  objective: Objective
  schedule: optax.Schedule
  abstract_state: TrainState
  init_fn: Callable[[], TrainState]
  step_fns: tuple[Any, ...]
  teacher: OpenedTeacher | None
  predict_fn: Any
  evaluators: dict[str, Evaluator]
  total_steps: int
  stop_step: int
  log_every: int
  save_every: int
  replica_check_every: int
  eval_every: dict[str, int]
  train_flops_per_example: float
  peak_flops_per_s: float | None

  @property
  def step_fn(self) -> Any:
    """The train step; with model.patch_sizes that of the smallest patches, which takes the most memory and time."""
    return self.step_fns[0]

  def fresh_state(self) -> TrainState:
    """Returns the state before the first step, complete."""
    return self.with_frozen(self.init_fn())

  def with_frozen(self, state: TrainState) -> TrainState:
    """Returns the state with the weights that never train, placed on the devices."""
    if self.teacher is None:
      return state
    frozen = jax.tree.map(place, self.teacher.params, self.abstract_state.frozen)
    return dataclasses.replace(state, frozen=frozen)

  def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, dtypes and shardings of one global batch as `batches` yields it."""
    data, sharding = self.recipe.data, batch_sharding(self.mesh)
    shapes = {
      'image': ((data.batch_size, *image_shape(self.recipe.model, data)), np.uint8),
      'label': ((data.batch_size, *np.shape(self.source.no_label)), np.int32),
    }
    return {
      name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in shapes.items()
    }

  def batches(self, start_step: int) -> Generator[dict[str, jax.Array], None, None]:
    """Yields global batches from the one that follows `start_step` on; the next ones are on their way meanwhile."""
    data = self.recipe.data
    index, count = local_share(self.mesh, data.batch_size)
    local = train_batches(
      data,
      self.source,
      seed=self.recipe.seed,
      start_step=start_step,
      process_index=index,
      process_count=count,
      native=native_patches(self.recipe.model, data),
    )

    def to_devices(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
      return to_global(self.mesh, {'image': batch['image'], 'label': batch['label']})

    with local, contextlib.closing(Prefetch(local, to_devices)) as batches:
      yield from batches

  def preprocess(self) -> Preprocess:
    """Returns how an image becomes an input: as the first evaluator does it, those of the head before others;
    a plain resize without any."""
    evals = sorted(self.recipe.evals.values(), key=lambda config: not reads_head(config))
    data, native = self.recipe.data, native_patches(self.recipe.model, self.recipe.data)
    return Preprocess.from_config(data, resize_short=evals[0].resize_short if evals else None, native=native)


def build(recipe: Recipe, *, devices: Sequence[Any] | None = None) -> Run:
  """Opens the data, lays out the mesh, and makes the jitted step of a recipe. Trains and writes nothing.

  Args:
    recipe: a parsed recipe.
    devices: the devices to use; None: all of them.

  Raises:
    ConfigError, DataError, ShardingRuleError: all that is wrong with the recipe against the data and devices.
  """
  source, of_evals = _open_sources(recipe)
  num_classes = source.num_classes if recipe.model.num_classes is None else recipe.model.num_classes
  _check_classes(
    num_classes, source, [of_evals[f'evals.{n}.source'] for n, c in recipe.evals.items() if reads_head(c)]
  )
  recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_classes=num_classes))
  steps = _StepCounter(recipe.data.batch_size, len(source))
  total_steps = steps(recipe.total)

  mesh = make_mesh(recipe.parallel, devices)
  kind = device_class(mesh.devices.flat[0])
  _check_attention(recipe, kind)
  if tuning_for(kind).keep_freed_memory:
    keep_freed_memory()
  jit = functools.partial(jax.jit, compiler_options=compiler_options(kind))
  teacher = open_teacher(recipe, num_classes=num_classes, source=source)
  objective = build_objective(
    recipe,
    num_classes=num_classes,
    device_class=kind,
    teacher=None if teacher is None else teacher.teacher,
  )
  schedule = make_schedule(
    recipe.optim, total_steps=total_steps, batch_size=recipe.data.batch_size, num_examples=len(source)
  )
  abstract_params = jax.eval_shape(objective.init, jax.random.key(0))
  optimizer = make_optimizer(recipe.optim, abstract_params, schedule)

  def init_fn() -> TrainState:
    return init_state(objective, optimizer, seed=recipe.seed, use_ema=recipe.optim.ema_decay is not None)

  shapes = jax.eval_shape(init_fn)
  shardings = state_shardings(shapes, optimizer, mesh, recipe.parallel)
  abstract_state = jax.tree.map(_with_sharding, shapes, shardings)
  if teacher is not None:
    abstract_state = dataclasses.replace(abstract_state, frozen=teacher.abstract(mesh, recipe.parallel))
  complete = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)

  def jitted_step(patch_size: int | None) -> Any:
    sized = objective if patch_size is None else resized_objective(objective, patch_size=patch_size)
    train_step = make_train_step(sized, optimizer, schedule, recipe.optim)
    return jit(on_mesh(mesh, train_step), donate_argnums=0, out_shardings=(complete, None))

  peak = peak_flops_per_s(mesh.devices.flat[0])
  return Run(
    recipe=recipe,
    mesh=mesh,
    source=source,
    fingerprints={'data.source': source.fingerprint, **{w: s.fingerprint for w, s in of_evals.items()}},
    objective=objective,
    schedule=schedule,
    abstract_state=abstract_state,
    init_fn=jax.jit(on_mesh(mesh, init_fn), out_shardings=shardings),
    step_fns=tuple(jitted_step(size) for size in sorted(recipe.model.patch_sizes) or (None,)),
    teacher=teacher,
    predict_fn=jit(on_mesh(mesh, objective.predict), out_shardings=replicated(mesh)),
    evaluators={
      name: build_evaluator(name, recipe, objective=objective, sources=of_evals, mesh=mesh)
      for name in recipe.evals
    },
    total_steps=total_steps,
    stop_step=total_steps if recipe.stop_after is None else min(steps(recipe.stop_after), total_steps),
    log_every=steps(recipe.log.every),
    save_every=steps(recipe.checkpoint.every),
    replica_check_every=steps(check_every) if (check_every := recipe.resilience.replica_check_every) else 0,
    eval_every={name: steps(config.every) for name, config in recipe.evals.items()},
    train_flops_per_example=gradient_evaluations(recipe.optim)
    * train_flops(recipe.model, image_size=computed_size(recipe.model, recipe.data), num_classes=num_classes)
    + (0.0 if teacher is None else teacher.forward_flops),
    peak_flops_per_s=None if peak is None else peak * mesh.size,
  )


@dataclasses.dataclass(frozen=True)
class _StepCounter:
  """Durations -> steps for one batch size and training split."""

  batch_size: int
  num_examples: int

  def __call__(self, duration: Duration) -> int:
    return duration.to_steps(batch_size=self.batch_size, num_examples=self.num_examples)


def _with_sharding(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _open_sources(recipe: Recipe) -> tuple[Source, dict[str, Source]]:
  """Opens the training source and those of all evaluators; reports the faults of all of them together."""
  wanted = {'data.source': recipe.data.source, **eval_sources(recipe)}
  opened, problems = {}, []
  for where, config in wanted.items():
    try:
      opened[where] = open_source(config, where=where)
    except VitjaxError as error:
      problems += error.problems or [Problem(where, config.kind, '', error.headline)]
  if problems:
    raise DataError('the data of this recipe cannot be used:', problems)
  return opened.pop('data.source'), opened


def _check_attention(recipe: Recipe, kind: str) -> None:
  """Raises ConfigError for a kernel that these devices lack; 'auto' fits everywhere."""
  if recipe.model.attention == 'cudnn' and tuning_for(kind).attention != 'cudnn':
    expected = f"'auto' or 'plain' on devices of class {kind!r}"
    hint = 'cuDNN attention needs NVIDIA GPUs of compute capability 8.0 or more'
    raise ConfigError('the devices lack a kernel', [Problem('model.attention', "'cudnn'", expected, hint)])


def _check_classes(num_classes: int, source: Source, judging_head: Sequence[Source]) -> None:
  """Raises ConfigError when the head cannot hold the labels, DataError when an evaluator of it has other classes."""
  if num_classes and source.num_classes > num_classes:
    expected = f'at least the {source.num_classes} classes of data.source'
    problem = Problem(
      'model.num_classes', str(num_classes), expected, 'Leave it None to take them from the data'
    )
    raise ConfigError('the head is too small', [problem])
  for evaluated in judging_head:
    check_same_classes(source, evaluated)
