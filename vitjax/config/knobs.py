"""The schema, read as data: groups of knobs, their dotted paths, types and defaults."""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from vitjax.config import schema
from vitjax.config.schema import EvalConfig, KnobInfo, Recipe
from vitjax.config.values import ValueType, expectation, value_type

EVALS = 'evals'
_EVAL_PATH = re.compile(rf'{EVALS}\.[^.]+')


@dataclasses.dataclass(frozen=True)
class Knob:
  """One knob of the schema: a leaf of the recipe.

  Attributes:
    name: its field.
    type: what it holds.
    default: its value when a config says nothing.
    info: everything else the schema knows.
  """

  name: str
  type: ValueType
  default: Any
  info: KnobInfo

  @property
  def expected(self) -> str:
    """What the knob accepts, in words."""
    return expectation(self.type, self.info)


@dataclasses.dataclass(frozen=True)
class KnobDoc:
  """One row of the reference of all knobs."""

  path: str
  type: str
  default: Any
  unit: str
  expected: str
  doc: str
  source: str


@functools.cache
def fields_of(group: type) -> dict[str, Knob | type]:
  """Returns the fields of a schema dataclass: a Knob, the dataclass of a subgroup, or `dict` for evals."""
  hints = typing.get_type_hints(group, dict(vars(schema)))
  found: dict[str, Knob | type] = {}
  for field in dataclasses.fields(group):
    hint = hints[field.name]
    if dataclasses.is_dataclass(hint) and 'knob' not in field.metadata:
      found[field.name] = typing.cast(type, hint)
    elif typing.get_origin(hint) is dict:
      found[field.name] = dict
    else:
      found[field.name] = Knob(field.name, value_type(hint), field.default, field.metadata['knob'])
  return found


def walk(group: type = Recipe, prefix: str = '') -> Iterator[tuple[str, Knob]]:
  """Yields (dotted path, Knob) of every knob under a schema dataclass; evals are 'evals.<name>.*'."""
  for name, field in fields_of(group).items():
    if isinstance(field, Knob):
      yield prefix + name, field
    elif field is dict:
      yield from walk(EvalConfig, f'{prefix}{name}.<name>.')
    else:
      yield from walk(field, f'{prefix}{name}.')


@functools.cache
def _knobs_by_path() -> dict[str, Knob]:
  return dict(walk())


def find_knob(path: str) -> Knob | None:
  """Returns the knob at a dotted path such as 'optim.peak_lr' or 'evals.val.every'; None if there is none."""
  return _knobs_by_path().get(_EVAL_PATH.sub(f'{EVALS}.<name>', path))


def known_paths(eval_names: Sequence[str] = ()) -> list[str]:
  """Returns every dotted path that a recipe with these evaluators has."""
  paths: list[str] = []
  for path in _knobs_by_path():
    if path.startswith(f'{EVALS}.<name>.'):
      paths.extend(path.replace('<name>', name) for name in eval_names)
    else:
      paths.append(path)
  return paths


def groups() -> dict[str, type]:
  """Returns {dotted path: dataclass} of all groups, '' for the recipe and 'evals.<name>' for evaluators."""
  found: dict[str, type] = {}

  def visit(group: type, path: str) -> None:
    found[path] = group
    for name, field in fields_of(group).items():
      inner = f'{path}.{name}' if path else name
      if field is dict:
        visit(EvalConfig, f'{inner}.<name>')
      elif not isinstance(field, Knob):
        visit(field, inner)

  visit(Recipe, '')
  return found


def read(recipe: Recipe, path: str) -> Any:
  """Returns the value at a dotted path of a recipe or one of its groups."""
  node: Any = recipe
  for name in path.split('.'):
    node = node[name] if isinstance(node, dict) else getattr(node, name)
  return node


def describe_knobs() -> list[KnobDoc]:
  """Returns a row of documentation for every knob, in the schema's order."""
  hints = {path: typing.get_type_hints(group, dict(vars(schema))) for path, group in groups().items()}
  rows = []
  for path, knob in walk():
    parent, _, name = path.rpartition('.')
    hint = hints[parent][name]
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    text = text.replace(f'{schema.Duration.__module__}.', '')
    info = knob.info
    rows.append(KnobDoc(path, text, knob.default, info.unit, knob.expected, info.doc, info.source))
  return rows
