"""ConfigDict -> Recipe: every problem of a config found, and reported in one error."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from vitjax.config import knobs
from vitjax.config.checks import check_recipe
from vitjax.config.durations import Duration
from vitjax.config.knobs import Knob
from vitjax.config.schema import EvalConfig, Recipe
from vitjax.config.suggest import suggest_path
from vitjax.config.values import Mismatch, convert, out_of_range, plain, shown
from vitjax.errors import ConfigError, Problem

_MISSING = object()


def parse_recipe(config: config_dict.ConfigDict, *, num_devices: int | None = None) -> Recipe:
  """Returns the frozen recipe that a config describes. Host-side; imports no jax and opens no data.

  Args:
    config: `default_config()` after edits.
    num_devices: devices over all processes, see `expected_devices`; None skips the checks that depend on it.

  Raises:
    ConfigError: everything that is wrong: types, ranges, unknown and missing knobs, settings that nothing
      reads, knobs that contradict one another, missing files, batches that do not divide over the devices.
  """
  reader = Reader(config)
  recipe = reader.recipe()
  problems = reader.problems + check_recipe(recipe, reader.bad, num_devices)
  if problems:
    raise ConfigError(count(problems, 'in the recipe'), problems)
  return recipe


def count(problems: list[Problem], where: str) -> str:
  """Returns '2 problems in the recipe'."""
  return f'{len(problems)} problem{"s" if len(problems) > 1 else ""} {where}'


class Reader:
  """Reads a nested mapping into a Recipe; what is wrong lands in `problems`, and its path in `bad`.

  Args:
    config: the mapping.
    stored: it was written by this or an earlier version: knobs that it lacks take their defaults, and their
      paths land in `filled`. Otherwise a missing knob is a problem.
  """

  def __init__(self, config: Any, *, stored: bool = False):
    self.problems: list[Problem] = []
    self.bad: set[str] = set()
    self.filled: list[str] = []
    self._stored = stored
    self._config = config
    evals: Any = _item(config, knobs.EVALS) if _is_group(config) and knobs.EVALS in config else {}
    self._known = knobs.known_paths(list(map(str, evals.keys())) if _is_group(evals) else ())

  def recipe(self) -> Recipe:
    """Returns the recipe; knobs in `bad` hold their defaults."""
    return self._group(Recipe, self._config, '')

  def _refuse(self, path: str, found: str, expected: str, hint: str) -> None:
    self.problems.append(Problem(path, found, expected, hint))
    self.bad.add(path)

  def _group(self, group: type, node: Any, path: str) -> Any:
    fields = knobs.fields_of(group)
    if not _is_group(node):
      expected = f'a group of knobs: {", ".join(fields)}'
      hint = f'Assign to its knobs, such as {path or "config"}.{next(iter(fields))}'
      self._refuse(path or 'config', shown(node), expected, hint)
      return group()
    prefix = f'{path}.' if path else ''
    missing = [name for name in fields if name not in node]
    if self._stored:
      self.filled += [prefix + name for name in missing]
    elif missing:
      hint = 'Edit the knobs of default_config(), evaluator() or source_config() instead of replacing a group'
      self._refuse(path or 'config', f'without {", ".join(missing)}', 'all knobs of the group', hint)
    for name in node:
      if name not in fields:
        where = f'{prefix}{name}'
        self._refuse(
          where, shown(_item(node, name)), 'a knob of the schema', suggest_path(where, self._known)
        )
    present = {name: field for name, field in fields.items() if name in node}
    return group(**{n: self._field(field, _item(node, n), prefix + n) for n, field in present.items()})

  def _field(self, field: Knob | type, value: Any, path: str) -> Any:
    if isinstance(field, Knob):
      return self._knob(field, value, path)
    return self._evals(value, path) if field is dict else self._group(field, value, path)

  def _evals(self, node: Any, path: str) -> dict[str, EvalConfig]:
    if not _is_group(node):
      self._refuse(
        path, shown(node), 'evaluators by name', 'Write config.evals = evaluators(val=evaluator(...))'
      )
      return {}
    evals = {}
    for name in map(str, node.keys()):
      if name.isidentifier():
        evals[name] = self._group(EvalConfig, _item(node, name), f'{path}.{name}')
      else:
        fixed = re.sub(r'\W', '_', name)
        hint = f'Did you mean {fixed!r}?' if fixed.isidentifier() else "Such as 'val' or 'test'"
        self._refuse(f'{path}.{name}', '', "a name of letters, digits and '_': it names metrics", hint)
    return evals

  def _knob(self, knob: Knob, value: Any, path: str) -> Any:
    if value is _MISSING:
      self._refuse(path, 'an unset required placeholder', knob.expected, 'Give it a value')
      return knob.default
    if self._stored and knob.type.base is Duration and isinstance(value, int):
      value = f'{value} steps'  # optim.rsqrt_timescale of versions that knew it in steps alone
    try:
      converted = convert(value, knob.type, knob.info)
    except Mismatch as error:
      self._refuse(path, shown(value), knob.expected, error.hint)
      return knob.default
    hint = out_of_range(converted, knob.type, knob.info)
    if hint is not None:
      self._refuse(path, shown(value), knob.expected, hint or f'The default is {plain(knob.default)!r}')
      return knob.default
    return converted


def _is_group(node: Any) -> bool:
  return isinstance(node, (config_dict.ConfigDict, Mapping))


def _item(node: Any, name: Any) -> Any:
  try:
    return node[name]
  except config_dict.RequiredValueError:
    return _MISSING


def from_mapping(values: Mapping[str, Any], headline: str) -> Recipe:
  """Returns the recipe in a nested mapping of plain values. Checks types and ranges, not files and devices.

  Raises:
    ConfigError: with `headline`, everything that does not fit the schema.
  """
  reader = Reader(values)
  recipe = reader.recipe()
  if reader.problems:
    raise ConfigError(headline, reader.problems)
  return recipe


def to_mapping(group: Any) -> dict[str, Any]:
  """Returns a schema dataclass as nested dicts of its field values, evals included."""
  found: dict[str, Any] = {}
  for field in dataclasses.fields(group):
    value = getattr(group, field.name)
    if dataclasses.is_dataclass(value) and not isinstance(knobs.fields_of(type(group))[field.name], Knob):
      value = to_mapping(value)
    elif isinstance(value, dict):
      value = {name: to_mapping(inner) for name, inner in value.items()}
    found[field.name] = value
  return found
