"""What a recipe file starts from: the schema's defaults as a locked ConfigDict, evaluators and sources.

A ConfigDict holds durations as texts ('90 epochs'). Assigning an unknown knob raises in the recipe file.
Types and ranges of values are left to `parse_recipe`, which reports all problems at once.
"""

from __future__ import annotations

from typing import Any

from ml_collections import config_dict

from vitjax.config import knobs
from vitjax.config.durations import Duration
from vitjax.config.knobs import Knob
from vitjax.config.schema import EvalConfig, Recipe, SourceConfig
from vitjax.config.suggest import did_you_mean
from vitjax.config.values import plain
from vitjax.errors import ConfigError, Problem

ConfigDict = config_dict.ConfigDict


def default_config() -> ConfigDict:
  """Returns the default recipe for a file in configs/ to edit: locked, so that a mistyped knob raises.

  `evals` alone takes new names: `config.evals = evaluators(val=...)`, or `config.evals.val = evaluator(...)`.
  """
  config = _group(Recipe).lock()
  evals = config[knobs.EVALS]
  assert isinstance(evals, ConfigDict)
  evals.unlock()
  return config


def evaluator(*, source: ConfigDict | None = None, **values: Any) -> ConfigDict:
  """Returns one evaluator, a locked ConfigDict of EvalConfig.

  Args:
    source: where its images come from, see `source_config`; it is copied. None: the schema's default source.
    **values: other knobs of EvalConfig, such as every='1000 steps'.

  Raises:
    ConfigError: a name is no knob of EvalConfig.
  """
  config = _group(EvalConfig)
  if source is not None:
    config.source = _copy(source)
  return _assign(config, values, 'evaluator').lock()


def evaluators(**named: ConfigDict) -> ConfigDict:
  """Returns evaluators by name, for `config.evals = evaluators(val=evaluator(...), test=evaluator(...))`."""
  return ConfigDict({name: _copy(config) for name, config in named.items()}, type_safe=False)


def source_config(like: ConfigDict | None = None, **values: Any) -> ConfigDict:
  """Returns a source, a locked ConfigDict of SourceConfig: a copy of `like` with some knobs changed.

  A copy matters: after `config.evals.val.source = config.data.source`, an edit of one would edit the other.
  `source_config(config.data.source, split='test')` is the safe form.

  Args:
    like: the source to start from, such as config.data.source; None: the schema's defaults.
    **values: knobs of SourceConfig.

  Raises:
    ConfigError: a name is no knob of SourceConfig.
  """
  config = _group(SourceConfig) if like is None else _copy(like)
  return _assign(config, values, 'source_config').lock()


def _group(group: type) -> ConfigDict:
  fields: dict[str, Any] = {}
  for name, field in knobs.fields_of(group).items():
    if isinstance(field, Knob):
      fields[name] = _field(field)
    else:
      fields[name] = {} if field is dict else _group(field)
  # Not type-safe: ml_collections would raise on the first wrong type, without a range or a suggestion.
  return ConfigDict(fields, type_safe=False, sort_keys=False)


def _field(knob: Knob) -> Any:
  """Returns a field's initial value: a typed placeholder where None is allowed."""
  default = plain(knob.default)
  if knob.type.base is float:
    # A plain float field would turn True into 1.0 unnoticed; a tuple of types skips that cast.
    return config_dict.FieldReference(default, field_type=(float,))
  if knob.type.optional:
    return config_dict.FieldReference(
      default, field_type=str if knob.type.base is Duration else knob.type.base
    )
  return default


def _assign(config: ConfigDict, values: dict[str, Any], caller: str) -> ConfigDict:
  unknown = [name for name in values if name not in config]
  if unknown:
    known = ', '.join(config)
    problems = [Problem(n, repr(values[n]), f'one of {known}', did_you_mean(n, config)) for n in unknown]
    raise ConfigError(f'{caller}() does not know these knobs.', problems)
  for name, value in values.items():
    config[name] = _copy(value) if isinstance(value, ConfigDict) else value
  return config


def _copy(value: Any) -> Any:
  """Returns a copy that shares nothing with `value`, if that is a group, else `value` itself."""
  if not isinstance(value, ConfigDict):
    return value
  copied = ConfigDict(type_safe=False, sort_keys=False)
  for name, field in value.items(preserve_field_references=True):
    if isinstance(field, config_dict.FieldReference):
      field = config_dict.FieldReference(field.get(), field_type=field.get_type())
    copied[name] = _copy(field)
  return copied.lock() if value.is_locked else copied
