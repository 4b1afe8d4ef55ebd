"""A recipe without its data: the training source becomes a synthetic one of the same length and classes."""

from __future__ import annotations

import dataclasses
from typing import Any

from vitjax.config import Recipe, evaluators, parse_recipe, source_config
from vitjax.config.schema import SourceConfig
from vitjax.data.sources import open_source
from vitjax.data.splits import parse_split
from vitjax.errors import ConfigError, Problem, VitjaxError

# {data set: ({split: examples}, classes)}, as their authors published them. The TFDS name without version.
_PUBLISHED = {
  'imagenet2012': ({'train': 1_281_167, 'validation': 50_000}, 1000),
  'imagenet21k': ({'full': 14_197_122}, 21_843),
  'cifar10': ({'train': 50_000, 'test': 10_000}, 10),
  'cifar100': ({'train': 50_000, 'test': 10_000}, 100),
  'mnist5k': ({'train': 4_000, 'test': 1_000}, 10),
}


@dataclasses.dataclass(frozen=True)
class StandIn:
  """A recipe to plan with.

  Attributes:
    recipe: parsed for the devices of the topology; its source is synthetic and it has no evaluators.
    note: what replaced the data, for the report.
  """

  recipe: Recipe
  note: str


def stand_in(
  config: Any,
  *,
  num_devices: int,
  num_examples: int | None = None,
  num_classes: int | None = None,
) -> StandIn:
  """Returns the recipe with data that need not be here. Opens nothing but a data set that is neither published nor
  described by the arguments.

  Args:
    config: the ConfigDict that `load_config` made, not yet parsed; it is changed.
    num_devices: of the topology.
    num_examples: of the training split; None: as published, or as found on disk.
    num_classes: of the labels; None likewise.

  Raises:
    ConfigError: everything that is wrong with the recipe, or a length or number of classes that nothing tells.
  """
  source = config.data.source
  known_examples, known_classes = _look_up(config)
  num_examples = known_examples if num_examples is None else num_examples
  num_classes = known_classes if num_classes is None else num_classes
  name = source.name or source.path or source.kind
  problems = []
  if num_examples is None and _counts_epochs(config):
    hint = f'Durations in epochs become steps only then; {name} is neither published here nor on this disk'
    problems.append(Problem('--num_examples', 'not given', 'the number of training examples', hint))
  if num_classes is None and config.model.num_classes is None:
    expected = 'the number of classes, here or in model.num_classes'
    problems.append(Problem('--num_classes', 'not given', expected, f'{name} does not tell'))
  if problems:
    raise ConfigError('the data set is not here, and the recipe does not describe it', problems)
  num_examples = num_examples or 1_000_000
  num_classes = num_classes or config.model.num_classes or 1
  config.data.source = source_config(kind='synthetic', num_examples=num_examples, num_classes=num_classes)
  config.evals = evaluators()
  config.checkpoint.keep_best = None
  config.init.checkpoint = None
  note = f'synthetic stand-in for {name}: {num_examples:,} examples, {num_classes:,} classes; no evaluators'
  return StandIn(parse_recipe(config, num_devices=num_devices), note)


def _counts_epochs(config: Any) -> bool:
  """Whether any duration of the training itself is written in epochs."""
  lengths = (
    config.total,
    config.stop_after,
    config.optim.warmup,
    config.optim.cooldown,
    *config.optim.stairs,
  )
  lengths += (config.checkpoint.every, config.log.every)
  return any('epoch' in str(length) for length in lengths)


def _look_up(config: Any) -> tuple[int | None, int | None]:
  """Returns (examples, classes) of the training source where they are known, else None."""
  source = config.data.source
  if source.kind == 'synthetic':
    return source.num_examples, source.num_classes or 10
  name = (source.name or source.kind).partition(':')[0]
  if source.examples_per_class is None and name in _PUBLISHED:
    splits, classes = _PUBLISHED[name]
    parts = parse_split(source.split, where='data.source.split')
    if all(part.name in splits for part in parts):
      sizes = [part.bounds(splits[part.name]) for part in parts]
      return sum(high - low for low, high in sizes), classes
  return _on_disk(config)


def _on_disk(config: Any) -> tuple[int | None, int | None]:
  """Returns (examples, classes) of a source that can be opened, (None, what the recipe says) otherwise."""
  values = {field.name: config.data.source[field.name] for field in dataclasses.fields(SourceConfig)}
  try:
    opened = open_source(SourceConfig(**values))
  except (VitjaxError, OSError):
    return None, config.data.source.num_classes
  return len(opened), opened.num_classes
