"""A recipe as JSON, for checkpoints, and as text, for people and golden files."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from vitjax.config import knobs
from vitjax.config.parse import Reader, to_mapping
from vitjax.config.schema import Recipe
from vitjax.config.values import plain, shown
from vitjax.errors import ConfigError, Problem

# Where the reasons begin in a line of Recipe.derivation.
DERIVATION_INDENT = 25
_HEADLINE = 'The stored recipe does not fit this version of vitjax.'


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
  """Returns a recipe as nested dicts of JSON values: durations as texts, tuples as lists."""
  return _json(to_mapping(recipe))


def recipe_from_json(stored: Mapping[str, Any]) -> Recipe:
  """Returns the recipe that `recipe_to_json` wrote. Only data is read: nothing in it is imported or executed.

  Types, ranges and names are checked. Files and devices are not: a checkpoint may be read on another machine.
  A recipe of an earlier version lacks the knobs that were added since; they take their defaults, so the default
  of a new knob must be what the versions before it did. `knobs_filled` names them.

  Raises:
    ConfigError: no stored recipe, knobs that this version does not know, and values of a wrong type; all of
      them are listed.
  """
  return _read(stored)[0]


def knobs_filled(stored: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the knobs that a stored recipe lacks, as dotted paths: those added after the version that wrote it.

  Raises:
    ConfigError: as `recipe_from_json`.
  """
  return _read(stored)[1]


def _read(stored: Any) -> tuple[Recipe, tuple[str, ...]]:
  if not isinstance(stored, Mapping) or not {'model', 'data', 'optim'} <= stored.keys():
    expected = "a mapping with 'model', 'data' and 'optim' in it"
    raise ConfigError(_HEADLINE, [Problem('recipe', shown(stored), expected, 'Was it written by vitjax?')])
  reader = Reader(stored, stored=True)
  recipe = reader.recipe()
  if reader.problems:
    raise ConfigError(_HEADLINE, reader.problems)
  return recipe, tuple(reader.filled)


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
  """Returns {dotted path: JSON value} of every knob, such as {'optim.peak_lr': 0.001}: to compare two recipes by."""
  return {path: _json(value) for path, value in _leaves(to_mapping(recipe), '')}


def render_derivation(recipe: Recipe, width: int = 100) -> str:
  """Returns how a recipe came to its values, wrapped to `width` columns; '' for one without derivation."""
  indent = ' ' * DERIVATION_INDENT
  return '\n'.join(
    textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    for line in recipe.derivation
  )


def render(recipe: Recipe) -> str:
  """Returns a recipe as text: a `path = value` line per knob in order, '*' before what is not the default."""
  lines = list(_leaves(to_mapping(recipe), ''))
  width = max(len(path) for path, _ in lines)
  return '\n'.join(f'{_mark(path, value)} {path.ljust(width)} = {plain(value)!r}' for path, value in lines)


def _mark(path: str, value: Any) -> str:
  knob = knobs.find_knob(path)
  return ' ' if knob is not None and value == knob.default else '*'


def _leaves(node: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
  found: list[tuple[str, Any]] = []
  for name, value in node.items():
    if isinstance(value, dict):
      found += _leaves(value, f'{prefix}{name}.')
    else:
      found.append((prefix + name, value))
  return found


def _json(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _json(inner) for name, inner in value.items()}
  value = plain(value)
  return [_json(item) for item in value] if isinstance(value, tuple) else value
