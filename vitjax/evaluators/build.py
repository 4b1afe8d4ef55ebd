"""EvalConfig -> evaluator."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jax.sharding import Mesh

from vitjax.config.eval_metrics import FEATURE_KINDS, HEAD_KINDS, size_suffixes
from vitjax.config.schema import EvalConfig, Recipe, SourceConfig
from vitjax.data import Batches, Preprocess, check_same_classes, eval_batches
from vitjax.data.real_labels import read_real_labels
from vitjax.data.sources import Source
from vitjax.evaluators.attention import AttentionEvaluator
from vitjax.evaluators.classification import ClassificationEvaluator
from vitjax.evaluators.features import FeatureExtractor
from vitjax.evaluators.multilabel import MultiLabelEvaluator
from vitjax.evaluators.sizes import SizesEvaluator
from vitjax.evaluators.transfer import TransferEvaluator, make_probe
from vitjax.models import native_patches
from vitjax.objectives import Objective, resized_objective
from vitjax.parallel.mesh import local_share


class Evaluator(Protocol):
  """What the loop needs of an evaluator."""

  def run(self, params: Any) -> dict[str, float]:
    """Returns metrics by name; called by every process with the same parameters."""
    ...


def reads_head(config: EvalConfig) -> bool:
  """Returns whether an evaluator judges the head, so that its classes must be those of the training source."""
  return config.kind in HEAD_KINDS


def eval_sources(recipe: Recipe) -> dict[str, SourceConfig]:
  """Returns {dotted path: config} of every source that the recipe's evaluators read."""
  found: dict[str, SourceConfig] = {}
  for name, config in recipe.evals.items():
    found[f'evals.{name}.source'] = config.source
    if config.kind in FEATURE_KINDS:
      found[f'evals.{name}.train_source'] = config.train_source
  return found


def build_evaluator(
  name: str, recipe: Recipe, *, objective: Objective, sources: Mapping[str, Source], mesh: Mesh
) -> Evaluator:
  """Returns the evaluator that `recipe.evals[name]` asks for.

  Args:
    name: a key of recipe.evals.
    recipe: gives image size and normalisation (data) and the loss to report (objective).
    objective: gives scores and features.
    sources: the opened ones of `eval_sources`, by the same paths.
    mesh: where batches are placed.

  Raises:
    DataError: train_source and source number their classes differently, or classes are too small for a
      support set.
  """
  config, where = recipe.evals[name], f'evals.{name}'
  source = sources[f'{where}.source']
  batches = functools.partial(split_batches, recipe, name, mesh)
  if config.kind == 'multilabel':
    return MultiLabelEvaluator(where, FeatureExtractor(objective.predict, mesh), batches(source))
  if reads_head(config):
    return _of_head(name, recipe, objective, mesh, source)
  if config.kind == 'attention':
    return AttentionEvaluator(objective, recipe.model, recipe.data, mesh, batches(source))
  train_source = sources[f'{where}.train_source']
  check_same_classes(train_source, source)
  probe = make_probe(config, train_source, prefix=f'{where}.')
  extractor = FeatureExtractor(objective.features, mesh)
  return TransferEvaluator(where, probe, extractor, batches(probe.support), batches(source))


def _of_head(name: str, recipe: Recipe, objective: Objective, mesh: Mesh, source: Source) -> Evaluator:
  """Returns the evaluator of the head; of the head at several sizes, where there are some."""
  config, loss = recipe.evals[name], recipe.objective.loss
  real = None
  if config.real_labels is not None:
    real = read_real_labels(config.real_labels, source, where=f'evals.{name}')
  if not (config.image_sizes or config.patch_sizes):
    return ClassificationEvaluator(objective, loss, mesh, split_batches(recipe, name, mesh, source), real)
  parts = {}
  for (image_size, patch_size), suffix in size_suffixes(config).items():
    size = recipe.data.image_size if image_size is None else (image_size, image_size)
    resized = resized_objective(objective, patch_size=patch_size, image_size=size)
    batches = split_batches(_with_image_size(recipe, name, size), name, mesh, source)
    parts[suffix] = ClassificationEvaluator(resized, loss, mesh, batches, real)
  return SizesEvaluator(parts)


def _with_image_size(recipe: Recipe, name: str, size: tuple[int, int]) -> Recipe:
  """Returns the recipe with evaluator `name` at another image size, resize_short in proportion."""
  config = recipe.evals[name]
  preprocess = Preprocess.from_config(recipe.data, resize_short=config.resize_short).resized(size)
  config = dataclasses.replace(config, resize_short=preprocess.resize_short)
  data = dataclasses.replace(recipe.data, image_size=size)
  return dataclasses.replace(recipe, data=data, evals={**recipe.evals, name: config})


def split_batches(recipe: Recipe, name: str, mesh: Mesh, source: Source) -> Callable[[], Batches]:
  """Returns what starts one pass over a source of an evaluator."""
  config = recipe.evals[name]
  index, count = local_share(mesh, config.batch_size, where=f'evals.{name}.batch_size')
  native = native_patches(recipe.model, recipe.data)
  return functools.partial(
    eval_batches, config, recipe.data, source, process_index=index, process_count=count, native=native
  )
