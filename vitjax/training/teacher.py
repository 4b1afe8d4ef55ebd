"""The teacher of a distillation: opened and tried before the run has arrays, placed once, never trained nor saved."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vitjax.config.schema import ParallelConfig, Recipe
from vitjax.data.sources import Source
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded
from vitjax.loading import load
from vitjax.models.flops import forward_flops
from vitjax.objectives.distillation import Teacher
from vitjax.parallel.distributed import is_main
from vitjax.parallel.rules import param_shardings
from vitjax.trees import flatten

log = logging.getLogger('vitjax')

_MAX_LISTED = 5


@dataclasses.dataclass(frozen=True)
class OpenedTeacher:
  """A teacher that fits the run.

  Attributes:
    teacher: what the objective needs of it.
    params: numpy, whole on every host.
    fingerprint: SHA-256 (hex) of all its parameters, by name.
    forward_flops: of one image.
  """

  teacher: Teacher
  params: Any
  fingerprint: str
  forward_flops: float

  def abstract(self, mesh: Mesh, parallel: ParallelConfig) -> Any:
    """Returns its parameters as ShapeDtypeStructs, sharded by the rules that shard the student.

    Of parallel.rules those are taken that match one of its parameters.

    Raises:
      ShardingRuleError: a rule does not fit.
    """
    paths = flatten(self.params)
    rules = [rule for rule in parallel.rules if any(re.fullmatch(rule[0], path) for path in paths)]
    shardings = param_shardings(self.params, mesh, rules)
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self.params, shardings
    )


def open_teacher(recipe: Recipe, *, num_classes: int, source: Source) -> OpenedTeacher | None:
  """Returns the teacher that a recipe names, on the host; None without one.

  It is loaded for the student's resolution, so that both see the same pixels: a transformer's positions are resampled.
  What was assumed or changed on loading, and its golden self-test, are logged.

  Args:
    recipe: objective.name and distill.
    num_classes: outputs of the student's head.
    source: the training source, for the names of the classes.

  Raises:
    ConfigError: other classes than the student's.
    CheckpointError, DataError: what `vitjax.load` raises, such as for patches that do not divide data.image_size.
  """
  if recipe.distill.checkpoint is None:
    return None
  loaded = load(recipe.distill.checkpoint, image_size=recipe.data.image_size)
  _check_classes(loaded, num_classes, source)
  if is_main() and recipe.log.progress:
    log.info('teacher: %s', '\n'.join(line for line in loaded.report.splitlines() if line[:1] != ' '))
  params = jax.device_get(loaded.params)
  size = recipe.data.image_size
  return OpenedTeacher(
    teacher=Teacher(loaded.model, loaded.preprocess.mean, loaded.preprocess.std),
    params=params,
    fingerprint=fingerprint(params),
    forward_flops=forward_flops(loaded.config, image_size=size, num_classes=loaded.num_classes),
  )


def _check_classes(loaded: Loaded, num_classes: int, source: Source) -> None:
  """Raises ConfigError unless the teacher's outputs mean the student's classes; names count where it has some."""
  where, problems = 'distill.checkpoint', []
  if loaded.num_classes != num_classes:
    hint = 'A teacher without a head cannot teach' if loaded.num_classes == 0 else ''
    problems.append(
      Problem(where, f'a teacher of {loaded.num_classes} classes', f'{num_classes}, as the student has', hint)
    )
  elif loaded.format == 'vitjax' and loaded.class_names:
    pairs = enumerate(zip(loaded.class_names, source.class_names, strict=False))
    wrong = [(i, old, new) for i, (old, new) in pairs if old != new]
    problems += [
      Problem(f'{where}: class {i}', repr(old), f'{new!r}, as in data.source')
      for i, old, new in wrong[:_MAX_LISTED]
    ]
  if problems:
    raise ConfigError('the teacher has learned other classes', problems)


def fingerprint(params: Any) -> str:
  """Returns the SHA-256 (hex) of a tree of host arrays: names, dtypes, shapes and every byte."""
  digest = hashlib.sha256(b'vitjax-params-1')
  for path, leaf in sorted(flatten(params).items()):
    array = np.ascontiguousarray(leaf)
    digest.update(repr((path, str(array.dtype), array.shape)).encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def place(value: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns a host array as a global one with the sharding of `like`; every host holds the whole value."""
  return jax.make_array_from_callback(value.shape, like.sharding, value.__getitem__)
