"""Recipe files: 'configs/x.py:arg=value', run to a ConfigDict, then edited by `--config.a.b=value` overrides.

absl's config_flags is not used: it raises a raw AttributeError on the first wrong path and turns 2 into (2,).
"""

from __future__ import annotations

import dataclasses
import inspect
import linecache
import pathlib
import re
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import config_dict

from vitjax.config import knobs
from vitjax.config.defaults import default_config, evaluator, evaluators
from vitjax.config.parse import count, parse_recipe, to_mapping
from vitjax.config.schema import KnobInfo, Recipe
from vitjax.config.suggest import closest, did_you_mean, suggest_file, suggest_path
from vitjax.config.values import Mismatch, from_text, plain, shown, value_type
from vitjax.errors import ConfigError, Problem, VitjaxError

ConfigDict = config_dict.ConfigDict

_ENTRY = 'get_config'
_START_HERE = Problem(
  _ENTRY, '', 'default_config() of vitjax.config, edited and returned', 'Define get_config(arg: str = "")'
)
_SPEC = re.compile(r'(?P<path>.+?\.py)(?::(?P<arg>.*))?', re.DOTALL)


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> ConfigDict:
  """Returns the ConfigDict that a recipe file makes, with overrides applied; `parse_recipe` comes next.

  Args:
    spec: a recipe file, with an optional argument for its `get_config(arg)`: 'configs/x.py:lr=0.1,smoke'.
    overrides: (dotted path, value as text) pairs in order, such as ('optim.peak_lr', '1e-3'). The text is
      read by the knob's type, see `values.from_text`.

  Raises:
    ConfigError: the file is missing or fails (file and line are named), it assigns an unknown knob, or
      overrides name unknown knobs or hold values of a wrong type (all of them are listed).
  """
  path, arg = _split_spec(spec)
  return apply_overrides(_run_file(path, arg), overrides)


def load_recipe(
  spec: str, overrides: Sequence[tuple[str, str]] = (), *, num_devices: int | None = None
) -> tuple[ConfigDict, Recipe]:
  """Returns the ConfigDict and the checked Recipe of a recipe file: what commands call.

  Args:
    spec: as for `load_config`.
    overrides: as for `load_config`.
    num_devices: as for `parse_recipe`.

  Raises:
    ConfigError: the file is missing or fails; or everything that is wrong with overrides and recipe together.
  """
  path, arg = _split_spec(spec)
  config = _run_file(path, arg)
  problems = [problem for override in overrides if (problem := _apply(config, *override)) is not None]
  recipe = None
  try:
    recipe = parse_recipe(config, num_devices=num_devices)
  except ConfigError as error:
    problems += error.problems
  if problems or recipe is None:
    raise ConfigError(count(problems, f'in the recipe {path}'), problems)
  return config, recipe


def apply_overrides(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> ConfigDict:
  """Sets knobs of a config from (dotted path, value as text) pairs, in place, and returns it.

  Raises:
    ConfigError: unknown knobs and values of a wrong type, all of them.
  """
  problems = [problem for override in overrides if (problem := _apply(config, *override)) is not None]
  if problems:
    raise ConfigError(count(problems, 'in the overrides'), problems)
  return config


def recipe_to_config(recipe: Recipe) -> ConfigDict:
  """Returns a recipe as the ConfigDict of a recipe file: what `parse_recipe` turns back into it."""
  config = default_config()
  config.evals = evaluators(**{name: evaluator() for name in recipe.evals})
  _fill(config, to_mapping(recipe))
  return config


def _fill(config: ConfigDict, values: Mapping[str, Any]) -> None:
  for name, value in values.items():
    if isinstance(value, Mapping):
      _fill(config[name], value)
    else:
      config[name] = plain(value)


def parse_args(arg: str, **defaults: Any) -> types.SimpleNamespace:
  """Returns the arguments of a recipe file as attributes: parse_args('lr=0.1,smoke', lr=1e-3, smoke=False).

  Args:
    arg: 'name=value,name=value'; a bare name is a flag and means True.
    **defaults: names and their defaults, which also set the types: bool, int, float or str. A tuple of texts
      lists the allowed ones, the first being the default.

  Raises:
    ConfigError: unknown names, repeated names, or values of a wrong type; all of them are listed.
  """
  values = {name: default[0] if isinstance(default, tuple) else default for name, default in defaults.items()}
  problems: list[Problem] = []
  seen: set[str] = set()
  for item in filter(None, (part.strip() for part in arg.split(','))):
    name, equals, text = (part.strip() for part in item.partition('='))
    if name not in defaults:
      known = ', '.join(defaults) or 'no arguments'
      problems.append(Problem(name, text, f'one of {known}', did_you_mean(name, defaults)))
    elif name in seen:
      problems.append(Problem(name, text, 'each argument once'))
    else:
      try:
        values[name] = _argument(defaults[name], text if equals else None)
      except Mismatch as error:
        problems.append(Problem(name, repr(text), _argument_words(defaults[name]), error.hint))
    seen.add(name)
  if problems:
    raise ConfigError('Arguments that this recipe file does not take.', problems)
  return types.SimpleNamespace(**values)


def _argument(default: Any, text: str | None) -> Any:
  if text is None:
    if not isinstance(default, bool):
      raise Mismatch('A bare name stands for True')
    return True
  if isinstance(default, tuple):
    if text not in default:
      raise Mismatch(did_you_mean(text, default))
    return text
  return from_text(text, value_type(type(default)), KnobInfo(doc=''))


def _argument_words(default: Any) -> str:
  if isinstance(default, tuple):
    return f'one of {", ".join(default)}'
  return f'a value like its default, {default!r}'


def _split_spec(spec: str) -> tuple[pathlib.Path, str]:
  match = _SPEC.fullmatch(spec)
  name, arg = (
    (match['path'], match['arg'] or '') if match else (spec.partition(':')[0], spec.partition(':')[2])
  )
  path = pathlib.Path(name)
  if path.is_file() and match:
    return path, arg
  raise ConfigError('No such recipe file.', [Problem(name, '', 'a Python file', _suggest_recipe(path))])


def _suggest_recipe(path: pathlib.Path) -> str:
  folders = [folder for folder in (path.parent, pathlib.Path('configs')) if folder.is_dir()]
  files = {str(file): file.stem for folder in folders for file in sorted(folder.glob('*.py'))}
  if (match := closest(path.stem, files.values())) is not None:
    return f'Did you mean {next(file for file, stem in files.items() if stem == match)}?'
  if files:
    return f'There are {", ".join(files)}'
  return suggest_file(str(path))


def _run_file(path: pathlib.Path, arg: str) -> ConfigDict:
  """Returns what get_config(arg) of the file returns; exceptions become ConfigErrors with file and line."""
  config = call_in_file(path, lambda module: _call_entry(module, arg, str(path)))
  if not isinstance(config, ConfigDict):
    raise ConfigError(
      f'{path}: {_ENTRY}() returned {type(config).__name__}, not a ConfigDict.', [_START_HERE]
    )
  if shared := _shared_groups(config):
    raise ConfigError(f'{path}: groups of knobs that are one object, so that editing one edits both.', shared)
  return config


def call_in_file(path: pathlib.Path, call: Callable[[types.ModuleType], Any]) -> Any:
  """Runs a Python file and returns call(its module); exceptions become ConfigErrors with file and line."""
  name = str(path)
  try:
    module = types.ModuleType(path.stem)
    module.__file__ = name
    linecache.checkcache(name)
    # Not imported: no entry in sys.modules, no __pycache__ beside the recipe, no stale bytecode.
    exec(compile(path.read_text(encoding='utf-8'), name, 'exec'), vars(module))
    return call(module)
  except SyntaxError as error:
    line = (error.text or '').strip()
    raise ConfigError(
      f'{error.filename}:{error.lineno}: {error.msg}', [Problem(line)] if line else []
    ) from None
  except VitjaxError as error:
    raise ConfigError(f'{_place(error, name)}: {error.headline}', error.problems) from None
  except Exception as error:
    raise _file_error(error, name) from error


def _call_entry(module: types.ModuleType, arg: str, name: str) -> Any:
  entry = vars(module).get(_ENTRY)
  if not callable(entry):
    raise ConfigError('no function get_config.', [_START_HERE])
  if inspect.signature(entry).parameters:
    return entry(arg)
  if arg:
    hint = 'Drop the part after the colon, or define get_config(arg: str = "") and read it with parse_args'
    raise ConfigError('get_config() takes no argument.', [Problem(name, repr(arg), 'no argument', hint)])
  return entry()


def _place(error: BaseException, name: str) -> str:
  """Returns 'file:line' of the innermost line of the recipe file that led to `error`, or the file alone."""
  lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
  return f'{name}:{lines[-1]}' if lines else name


def _file_error(error: Exception, name: str) -> ConfigError:
  place = _place(error, name)
  if isinstance(error, (AttributeError, KeyError)) and (problem := _unknown_knob(error)) is not None:
    return ConfigError(f'{place}: unknown knob.', [problem])
  line = linecache.getline(name, int(place.rpartition(':')[2])).strip() if place != name else ''
  return ConfigError(f'{place}: {type(error).__name__}: {error}', [Problem(line)] if line else [])


def _unknown_knob(error: Exception) -> Problem | None:
  """Returns the problem with a name that a ConfigDict refused, read from the traceback; else None."""
  trace = error.__traceback__
  while trace is not None:
    local = trace.tb_frame.f_locals
    if isinstance(local.get('self'), ConfigDict) and ('attribute' in local or 'key' in local):
      name = local['attribute' if 'attribute' in local else 'key']
      return _unknown(local['self'], str(name), shown(local['value']) if 'value' in local else '')
    trace = trace.tb_next
  return None


def _unknown(group: ConfigDict, name: str, found: str) -> Problem:
  present = set(group.keys())
  for path, cls in knobs.groups().items():
    fields = {field.name for field in dataclasses.fields(cls)}
    if fields == present:
      where = f'{path}.{name}' if path else name
      return Problem(where, found, 'a knob of the schema', suggest_path(where, [p for p, _ in knobs.walk()]))
  listed = ', '.join(sorted(map(str, present))) or 'none yet'
  return Problem(
    name, found, f'one of the names that stand there ({listed})', did_you_mean(name, map(str, present))
  )


def _shared_groups(config: ConfigDict) -> list[Problem]:
  first: dict[int, str] = {}
  problems: list[Problem] = []

  def visit(node: ConfigDict, path: str) -> None:
    if id(node) in first:
      hint = f'Use source_config(config.{first[id(node)]}), which copies'
      problems.append(Problem(path, f'config.{first[id(node)]}', 'an object of its own', hint))
      return
    first[id(node)] = path
    for name in node:
      if isinstance(inner := node[name], ConfigDict):
        visit(inner, f'{path}.{name}' if path else str(name))

  visit(config, '')
  return problems


def _apply(config: ConfigDict, path: str, text: str) -> Problem | None:
  """Sets one knob from its text; returns the problem if that cannot be done."""
  names = path.split('.')
  group: Any = config
  for name in names[:-1]:
    group = group[name] if isinstance(group, ConfigDict) and name in group else None
  evals = config['evals'] if 'evals' in config else {}
  known = knobs.known_paths([str(name) for name in evals] if isinstance(evals, ConfigDict) else [])
  if not isinstance(group, ConfigDict) or names[-1] not in group:
    return Problem(path, text, 'the dotted path of a knob', suggest_path(path, known))
  knob = knobs.find_knob(path)
  if knob is None:
    inside = [p for p in known if p.startswith(f'{path}.')]
    hint = f'Set one of {", ".join(inside)}' if inside else 'Add evaluators in the recipe file'
    return Problem(path, text, 'a knob, not a group of them', hint)
  try:
    group[names[-1]] = from_text(text, knob.type, knob.info)
  except Mismatch as error:
    return Problem(path, shown(text), knob.expected, error.hint)
  return None
