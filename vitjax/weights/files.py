"""Files of weights: what kind one is, .safetensors and JSON in and out. For .npz see archives.py. Host-side, no jax.

A reader first checks everything that a file says of itself against what is really there and allocates nothing
for it; arrays are read one by one, later. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from vitjax.errors import CheckpointError, Problem
from vitjax.weights.archives import read_npz, write_npz
from vitjax.weights.entries import (
  BFLOAT16,
  Damage,
  Entry,
  Path,
  describe,
  open_binary,
  raise_damage,
  refusal,
  replacing,
)

__all__ = [
  'BFLOAT16',
  'Entry',
  'kind_of',
  'read_json',
  'read_npz',
  'read_safetensors',
  'write_json',
  'write_npz',
  'write_safetensors',
]

MAX_JSON_BYTES = 16 * 2**20
_DTYPES = {
  'F64': np.dtype('<f8'), 'F32': np.dtype('<f4'), 'F16': np.dtype('<f2'), 'BF16': BFLOAT16,
  'I64': np.dtype('<i8'), 'I32': np.dtype('<i4'), 'I16': np.dtype('<i2'), 'I8': np.dtype('i1'),
  'U64': np.dtype('<u8'), 'U32': np.dtype('<u4'), 'U16': np.dtype('<u2'), 'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}  # fmt: skip


def kind_of(path: Path) -> str:
  """Returns 'npz', 'safetensors' or 'onnx': by what the file begins with, and for .onnx by its name.

  Raises:
    CheckpointError: the file is missing or something else.
  """
  with open_binary(path) as file:
    head, size = file.read(64), os.fstat(file.fileno()).st_size
  suffix = pathlib.Path(path).suffix
  if suffix == '.onnx':
    return 'onnx'
  if head.startswith(b'PK'):
    return 'npz'
  if len(head) > 8 and struct.unpack('<Q', head[:8])[0] <= size - 8 and head[8:9] == b'{':
    return 'safetensors'
  names = {'.npz': 'npz', '.safetensors': 'safetensors'}
  expected = f'{names[suffix]} data, as its name says' if suffix in names else '.npz, .safetensors or .onnx'
  raise refusal(path, describe(head, size), expected)


def read_safetensors(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
  """Returns (arrays by name, none of them read yet; the text of `__metadata__`).

  The header's length, every dtype and shape, and every offset are checked: arrays must cover the rest of the
  file without gap or overlap, as the format demands.

  Raises:
    CheckpointError: missing, truncated, forged, or not a .safetensors at all; lists all that is wrong.
  """
  with open_binary(path) as file:
    size = os.fstat(file.fileno()).st_size
    start, header = _safetensors_header(path, file, size)
  metadata = header.pop('__metadata__', {})
  if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
    raise refusal(path, f'__metadata__ {str(metadata)[:100]}', 'an object of text')
  entries: dict[str, Entry] = {}
  spans: list[tuple[int, int, str]] = []
  problems = []
  for name, info in header.items():
    try:
      entries[name], span = _tensor(path, name, info, start)
      spans.append((*span, name))
    except Damage as damage:
      problems.append(damage.problem(f'{path}: {name}'))
  end = 0
  for first, last, name in sorted(spans) if not problems else []:
    if first != end:
      problems.append(
        Problem(f'{path}: {name}', f'data at {first}', f'{end}, where the array before it ends')
      )
    end = max(end, last)
  if not problems and end != size - start:
    hint = 'Download or copy it again' if end > size - start else ''
    problems.append(Problem(str(path), f'{size - start} bytes of data', f'{end}, by its header', hint))
  raise_damage(path, problems)
  return entries, metadata


def _safetensors_header(path: Path, file: IO[bytes], size: int) -> tuple[int, dict[str, Any]]:
  """Returns (where the data begins, the header's JSON object)."""
  head = file.read(8)
  if len(head) < 8:
    raise refusal(path, describe(head, size), 'a .safetensors file')
  length = struct.unpack('<Q', head)[0]
  if length > min(size - 8, MAX_JSON_BYTES):
    if file.read(1) != b'{':
      file.seek(0)
      raise refusal(path, describe(file.read(64), size), 'a .safetensors file')
    found = f'a header of {length} bytes in a file of {size}'
    raise refusal(path, found, f'at most {MAX_JSON_BYTES}, inside the file', 'Download or copy it again')
  return 8 + length, _parse_json(path, file.read(length), 'its header')


def _tensor(path: Path, name: str, info: Any, start: int) -> tuple[Entry, tuple[int, int]]:
  """Returns one array of a safetensors header and the (first, last) offset of its data."""
  if not isinstance(info, dict) or set(info) != {'dtype', 'shape', 'data_offsets'}:
    raise Damage(str(info)[:100], 'dtype, shape and data_offsets')
  if not isinstance(info['dtype'], str) or info['dtype'] not in _DTYPES:
    raise Damage(f'dtype {str(info["dtype"])[:50]!r}', f'one of {", ".join(_DTYPES)}')
  dtype, shape = _DTYPES[info['dtype']], _naturals(info['shape'], 'shape')
  if len(shape) > 32:
    raise Damage(f'a shape of {len(shape)} sides', 'up to 32')
  offsets = _naturals(info['data_offsets'], 'data_offsets')
  nbytes = math.prod(shape) * dtype.itemsize
  if len(offsets) != 2 or offsets[1] - offsets[0] != nbytes:
    raise Damage(f'data_offsets {offsets}', f'{nbytes} bytes for {list(shape)} {info["dtype"]}')
  at = start + offsets[0]

  def read() -> np.ndarray:
    array = np.empty(math.prod(shape), dtype)
    with open_binary(path) as file:
      file.seek(at)
      if nbytes and file.readinto(memoryview(array.view(np.uint8))) != nbytes:  # type: ignore[attr-defined]
        raise refusal(path, f'{name} ends early', f'{nbytes} bytes', 'The file changed while it was read')
    return array.reshape(shape)

  return Entry(shape, dtype, read), (offsets[0], offsets[1])


def _naturals(values: Any, what: str) -> tuple[int, ...]:
  """Returns a JSON list of numbers >= 0 as a tuple."""
  good = isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
  if not good:
    raise Damage(f'{what} {str(values)[:100]}', 'a list of whole numbers from 0 on')
  return tuple(values)


def write_safetensors(
  path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
  """Writes arrays as .safetensors, in the given order; the file appears only when it is complete.

  Args:
    path: the file.
    arrays: name -> array of a dtype that the format has.
    metadata: text for `__metadata__`, such as {'format': 'pt'}, which transformers asks for.

  Raises:
    CheckpointError: a dtype that the format does not have; lists all.
  """
  names = {dtype: name for name, dtype in _DTYPES.items()}
  header: dict[str, Any] = {'__metadata__': dict(metadata)} if metadata else {}
  problems, at = [], 0
  for name, array in arrays.items():
    dtype = array.dtype.newbyteorder('<') if array.dtype != BFLOAT16 else BFLOAT16
    if dtype not in names:
      problems.append(Problem(name, f'dtype {array.dtype}', f'one of {", ".join(map(str, names))}'))
      continue
    offsets = [at, at + array.nbytes]
    header[name] = {'dtype': names[dtype], 'shape': list(array.shape), 'data_offsets': offsets}
    at = offsets[1]
  if problems:
    raise CheckpointError(f'{path} cannot be written', problems)
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with replacing(path) as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for array in arrays.values():
      little = array.astype(array.dtype.newbyteorder('<'), copy=False) if array.dtype != BFLOAT16 else array
      file.write(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)


def read_json(path: Path) -> dict[str, Any]:
  """Returns the object in a JSON file of at most MAX_JSON_BYTES.

  Raises:
    CheckpointError: missing, too long, not JSON, not an object, or with a key that stands twice.
  """
  with open_binary(path) as file:
    content = file.read(MAX_JSON_BYTES + 1)
  if len(content) > MAX_JSON_BYTES:
    raise refusal(path, f'more than {MAX_JSON_BYTES} bytes', 'a small JSON file')
  return _parse_json(path, content, 'the file')


def write_json(path: Path, content: Mapping[str, Any]) -> None:
  """Writes an object as indented JSON with a final line break."""
  text = json.dumps(content, indent=2, allow_nan=False)
  with replacing(path) as file:
    file.write(f'{text}\n'.encode())


def _parse_json(path: Path, content: bytes, what: str) -> dict[str, Any]:
  def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
      names = [name for name, _ in pairs]
      raise ValueError(f'{next(name for name in names if names.count(name) > 1)[:100]!r} stands twice')
    return result

  try:
    parsed = json.loads(content.decode('utf-8'), object_pairs_hook=once)
  except (ValueError, RecursionError) as error:
    raise refusal(path, f'{what} is not JSON: {str(error)[:200]}', 'a JSON object') from None
  if not isinstance(parsed, dict):
    raise refusal(path, f'{what} is a JSON {type(parsed).__name__}', 'a JSON object')
  return parsed
