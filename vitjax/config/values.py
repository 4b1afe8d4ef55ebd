"""Values of knobs: from a config object or a command line to the type that the schema asks for.

Two separate questions, so that a command line can settle the first and leave the second to `parse_recipe`,
which reports all problems at once: is it the right type (`convert`, `from_text`), and is it in range
(`out_of_range`).
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from typing import Any

from vitjax.config.durations import UNITS, Duration
from vitjax.config.schema import KnobInfo
from vitjax.config.suggest import did_you_mean

_MAX_SHOWN = 120
_NUMBER_WORDS = {2: 'two', 3: 'three', 4: 'four'}
_NOUNS = {
  bool: ('True or False', 'booleans'),
  int: ('an integer', 'integers'),
  float: ('a number', 'numbers'),
  str: ('a text', 'texts'),
  Duration: (
    "a duration such as '1000 steps', '90 epochs' or '5e6 examples'",
    "durations such as '10 epochs'",
  ),
}


@dataclasses.dataclass(frozen=True)
class ValueType:
  """A knob's type annotation, taken apart.

  Attributes:
    base: bool, int, float, str, Duration or tuple.
    optional: None is a value too.
    items: types of a tuple's elements; one type for all when `variadic`.
    variadic: a tuple of any length.
  """

  base: type
  optional: bool = False
  items: tuple[ValueType, ...] = ()
  variadic: bool = False


class Mismatch(Exception):
  """A value of the wrong type or outside its range; `hint` is the next step, '' if there is none to offer."""

  def __init__(self, hint: str = ''):
    super().__init__(hint)
    self.hint = hint


def value_type(hint: Any) -> ValueType:
  """Returns the ValueType of a resolved annotation such as `int | None` or `tuple[str, ...]`.

  Raises:
    TypeError: the schema uses an annotation that this module does not know (a programmer's error).
  """
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    inner = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
    if len(inner) == 1:
      return dataclasses.replace(value_type(inner[0]), optional=True)
  if typing.get_origin(hint) is tuple:
    args = typing.get_args(hint)
    variadic = args[-1] is Ellipsis
    items = tuple(value_type(arg) for arg in (args[:1] if variadic else args))
    return ValueType(tuple, items=items, variadic=variadic)
  if hint in _NOUNS:
    return ValueType(hint)
  raise TypeError(f'{hint!r} is not a type that knobs may have')


def expectation(kind: ValueType, info: KnobInfo) -> str:
  """Returns what a knob accepts, in words: 'two integers >= 1 (pixels), or one for both'."""
  if info.choices:
    text = 'one of ' + ', '.join(repr(choice) for choice in info.choices)
  elif kind.base is tuple:
    text = _tuple_words(kind)
  else:
    text = _NOUNS[kind.base][0]
  text += _range_words(info) + (f' ({info.unit})' if info.unit else '')
  if info.square:
    text += ', or one for both'
  return text + (', or None' if kind.optional else '')


def convert(value: Any, kind: ValueType, info: KnobInfo) -> Any:
  """Returns `value` as the type the knob has: ints become floats, lists tuples, texts Durations.

  Raises:
    Mismatch: the type is wrong. bool is no int, a float is no int, NaN and infinity are no numbers.
  """
  if value is None:
    if kind.optional:
      return None
    raise Mismatch('None is for optional knobs; this one needs a value')
  if kind.base is tuple:
    return _convert_tuple(value, kind, info)
  if kind.base is Duration:
    return _convert_duration(value)
  if kind.base is float and isinstance(value, int) and not isinstance(value, bool):
    value = _to_float(value)
  if (isinstance(value, bool) and kind.base is not bool) or not isinstance(value, kind.base):
    raise Mismatch(_type_hint(value, kind.base))
  if kind.base is float and not math.isfinite(value):
    raise Mismatch('NaN and infinity are refused')
  return value


def from_text(text: str, kind: ValueType, info: KnobInfo) -> Any:
  """Returns the value that a command-line text stands for, by the knob's type.

  '1e-3' is a float, '90 epochs' stays a text for a Duration knob, '224' does for a square pair, '(1, 2)' for
  any pair; a text knob takes the text as it is, with matching outer quotes removed. 'None' is None where None
  is allowed.

  Raises:
    Mismatch: the text does not stand for a value of that type.
  """
  text = text.strip()
  if kind.optional and text == 'None':
    return None
  if kind.base in (str, Duration):
    value: Any = _unquoted(text)
  elif kind.base is bool and text.lower() in ('true', 'false'):
    value = text.lower() == 'true'
  elif kind.base is float:
    value = _float_of_text(text)
  else:
    value = _literal(text, kind)
  converted = convert(value, kind, info)
  return plain(converted)


def out_of_range(value: Any, kind: ValueType, info: KnobInfo) -> str | None:
  """Returns None for an allowed value of the right type, else a hint (possibly '') with the nearest one."""
  if value is None:
    return None
  if info.choices and value not in info.choices:
    return did_you_mean(value, info.choices) if isinstance(value, str) else ''
  numbers = value if kind.base is tuple else (value,)
  for number in numbers:
    if info.minimum is not None and number < info.minimum:
      return f'The smallest allowed value is {_number(info.minimum)}'
    if info.maximum is not None and number > info.maximum:
      return f'The largest allowed value is {_number(info.maximum)}'
  return None


def shown(value: Any) -> str:
  """Returns a value as one short line, for messages; whatever it is, this does not fail."""
  try:
    text = ' '.join(repr(plain(value)).split())
  except Exception:  # noqa: BLE001 -- someone else's __repr__, or an int with more digits than Python prints
    return f'<{type(value).__name__}>'
  return text if len(text) <= _MAX_SHOWN else f'{text[:_MAX_SHOWN]}...'


def plain(value: Any) -> Any:
  """Returns a knob's value with Durations as texts, the form that config files and JSON hold."""
  if isinstance(value, Duration):
    return str(value)
  if isinstance(value, tuple):
    return tuple(plain(item) for item in value)
  return value


def _convert_tuple(value: Any, kind: ValueType, info: KnobInfo) -> tuple[Any, ...]:
  if info.square and isinstance(value, int) and not isinstance(value, bool):
    value = (value, value)
  if not isinstance(value, (tuple, list)):
    raise Mismatch(_tuple_hint(value, kind))
  if not kind.variadic and len(value) != len(kind.items):
    raise Mismatch(f'{len(value)} given')
  items = kind.items * len(value) if kind.variadic else kind.items
  return tuple(convert(item, item_kind, info) for item, item_kind in zip(value, items, strict=True))


def _convert_duration(value: Any) -> Duration:
  if isinstance(value, Duration):
    return value
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    raise Mismatch(f"Name the unit: '{value} steps', '{value} epochs' or '{value} examples'")
  if not isinstance(value, str):
    raise Mismatch(f'Its type is {type(value).__name__}')
  try:
    return Duration.parse(value)
  except ValueError as error:
    number, _, unit = value.strip().rpartition(' ')
    if not number and _is_number(unit):
      raise Mismatch(f"Name the unit: '{unit} steps', '{unit} epochs' or '{unit} examples'") from None
    known = UNITS if unit not in (*UNITS, *(u.removesuffix('s') for u in UNITS)) else ()
    reason = 'Write a number >= 0, a space and the unit' if 'is not a duration' in str(error) else str(error)
    raise Mismatch(did_you_mean(unit, known) or reason) from None


def _is_number(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def _to_float(value: int) -> float:
  try:
    return float(value)
  except OverflowError:
    raise Mismatch('NaN and infinity are refused') from None


def _type_hint(value: Any, base: type) -> str:
  if base is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
    return f'Write {int(value)}'
  if base in (int, float) and isinstance(value, str):
    try:
      number = base(value)
    except ValueError:
      return 'Its type is str'
    return f'Write {number} without quotes'
  if base is bool and value in (0, 1):
    return f'Write {bool(value)}'
  return f'Its type is {type(value).__name__}'


def _tuple_hint(value: Any, kind: ValueType) -> str:
  if kind.variadic and isinstance(value, str):
    return f'Write ({value!r},)'
  if not kind.variadic and isinstance(value, (int, float)) and not isinstance(value, bool):
    return f'One value stands for one; write ({", ".join([str(value)] * len(kind.items))}) if you mean that'
  return f'Its type is {type(value).__name__}'


def _unquoted(text: str) -> str:
  if len(text) >= 2 and text[0] == text[-1] and text[0] in '\'"':
    return str(_literal(text, ValueType(str)))
  return text


def _float_of_text(text: str) -> Any:
  try:
    return float(text)
  except ValueError:
    return text  # convert() then says what is wrong with it


def _literal(text: str, kind: ValueType) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    if kind.base is tuple and kind.variadic:
      raise Mismatch(f'Quote the elements: ({text!r},)') from None
    return text


def _tuple_words(kind: ValueType) -> str:
  if kind.variadic and kind.items[0].base is tuple:
    return 'a tuple of pairs of texts'
  noun = _NOUNS[kind.items[0].base][1]
  return f'a tuple of {noun}' if kind.variadic else f'{_NUMBER_WORDS[len(kind.items)]} {noun}'


def _range_words(info: KnobInfo) -> str:
  low, high = info.minimum, info.maximum
  if low is not None and high is not None:
    return f' from {_number(low)} to {_number(high)}'
  if low is not None:
    return f' >= {_number(low)}'
  return f' <= {_number(high)}' if high is not None else ''


def _number(value: float) -> str:
  return str(int(value)) if value == int(value) else repr(float(value))
