"""Reading and writing .npz files that come from strangers. Host-side, no jax.

The zip directory and the header of every array are checked against what is really in the file before anything
is allocated; arrays are read later, one by one, into memory of exactly their checked size. Nothing in a file
is executed: no pickle, no eval.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

from vitjax.errors import CheckpointError, Problem
from vitjax.weights.entries import (
  BFLOAT16,
  MAX_BYTES,
  Damage,
  Entry,
  Path,
  describe,
  open_binary,
  raise_damage,
  refusal,
  replacing,
)

MAX_MEMBERS = 20_000
# Deflate packs zeros 1000-fold, and a new head is all zeros; weights as a whole hardly shrink.
MAX_RATIO, FREE_BYTES = 20, 16 * 2**20
_MAX_NPY_HEADER = 16 * 2**10
_MAX_DIRECTORY = 4 * 2**20
_MAX_COMMENT = 2**16
_MAX_NAME = 400
_CHUNK = 2**20

_NPY_ITEM = re.compile(
  r"""\s*+'(?:(?P<descr>descr)'\s*+:\s*+'(?P<dtype>[<>|=]?[A-Za-z?]\d{0,4})'
  |(?P<order>fortran_order)'\s*+:\s*+(?P<fortran>True|False)
  |(?P<shape>shape)'\s*+:\s*+\((?P<dims>(?:\s*+-?\d{1,20}L?\s*+(?:,|(?=\))))*+)\s*+\))\s*+(?:,|$)""",
  re.VERBOSE,
)


def read_npz(path: Path) -> dict[str, Entry]:
  """Returns the arrays of a .npz file by name, none of them read yet.

  The zip directory and every array's header are checked: no duplicate or overlapping members, no encryption,
  no pickles, sizes that agree with shapes, and no more data than the file can honestly hold.

  Raises:
    CheckpointError: missing, truncated, forged, or not a .npz at all; lists all that is wrong.
  """
  with open_binary(path) as file:
    size = os.fstat(file.fileno()).st_size
    members = _zip_members(path, file, size)
    entries: dict[str, Entry] = {}
    problems = _budget_problems(path, members, size)
    if not problems:
      for member in members:
        name = member.filename.removesuffix('.npy')
        try:
          if name == member.filename:
            raise Damage(
              'no .npy in its name', 'an array', 'A PyTorch .pt file is a zip of pickles, not .npz'
            )
          if len(name) > _MAX_NAME:
            raise Damage(f'a name of {len(name)} characters', f'at most {_MAX_NAME}')
          if name in entries:
            raise Damage('stands twice', 'one array of each name')
          entries[name] = _npy_entry(path, file, member)
        except Damage as damage:
          problems.append(damage.problem(f'{path}: {name[:_MAX_NAME]}'))
  raise_damage(path, problems)
  return entries


def _zip_members(path: Path, file: IO[bytes], size: int) -> list[zipfile.ZipInfo]:
  """Returns the members of a zip directory that was checked for its size before it is parsed."""
  file.seek(0)
  head = file.read(64)
  if not head.startswith(b'PK'):
    raise refusal(path, describe(head, size), 'a .npz file')
  file.seek(max(size - _MAX_COMMENT - 100, 0))
  tail = file.read()
  at = tail.rfind(b'PK\x05\x06')
  if at < 0 or len(tail) - at < 22:
    raise refusal(path, 'no zip directory at its end', 'a complete .npz file', 'Download or copy it again')
  count, length, comment = struct.unpack('<10xHI4xH', tail[at : at + 22])
  if at + 22 + comment != len(tail):
    found = f'{len(tail) - at - 22} bytes after the zip directory'
    raise refusal(path, found, f'{comment}, as it says', 'Download or copy it again')
  if at >= 76 and tail[at - 20 : at - 16] == b'PK\x06\x07' and tail[at - 76 : at - 72] == b'PK\x06\x06':
    count, length = struct.unpack('<32xQQ', tail[at - 76 : at - 28])
  if count > MAX_MEMBERS or length > min(size, _MAX_DIRECTORY):
    found = f'a zip directory of {count} members in {length} bytes'
    raise refusal(path, found, f'at most {MAX_MEMBERS} members, and a directory inside the file')
  try:
    with zipfile.ZipFile(file) as archive:
      members = archive.infolist()
  except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError, struct.error) as error:
    raise refusal(
      path, f'a zip directory that cannot be read: {error}', 'a complete .npz file', 'Download it again'
    ) from None
  if not members:
    raise refusal(path, 'an archive without members', 'a .npz file with arrays')
  return members


def _budget_problems(path: Path, members: list[zipfile.ZipInfo], size: int) -> list[Problem]:
  """Returns what makes the archive as a whole a bomb: too much data for its size, or members that overlap."""
  problems = []
  total = sum(member.file_size for member in members)
  allowed = min(MAX_BYTES, FREE_BYTES + MAX_RATIO * size)
  if total > allowed:
    problems.append(
      Problem(
        str(path),
        f'{total} bytes of arrays in a file of {size}',
        f'at most {allowed}',
        'This is no file of weights',
      )
    )
  end, last = 0, ''
  for member in sorted(members, key=lambda m: m.header_offset):
    if member.header_offset < end or member.header_offset + member.compress_size > size:
      found = f'data at {member.header_offset} to {member.header_offset + member.compress_size}'
      expected = f'data after {end}, where {last!r} ends, and inside the {size} bytes of the file'
      problems.append(Problem(f'{path}: {member.filename}', found, expected))
    end = max(end, member.header_offset + 30 + member.compress_size)
    last = member.filename
  return problems


def _npy_entry(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> Entry:
  """Returns one member's shape and dtype, checked against its size in the zip directory."""
  start = _data_offset(file, member)
  head = bytearray()
  for chunk in _chunks(file, start, member, step=4096):
    head += chunk
    if len(head) >= min(_MAX_NPY_HEADER, member.file_size):
      break
  dtype, fortran, shape, header = _npy_header(bytes(head))
  stored = dtype if dtype.kind != 'V' else BFLOAT16
  nbytes = math.prod(shape) * dtype.itemsize
  if header + nbytes != member.file_size:
    found = f'a header that announces {list(shape)} {stored}, {nbytes} bytes'
    raise Damage(found, f'the {member.file_size - header} bytes that are there')
  native = stored.newbyteorder('=') if stored is not BFLOAT16 else stored

  def read() -> np.ndarray:
    try:
      with open_binary(path) as again:
        flat = np.empty(math.prod(shape), stored)
        _fill(flat, _chunks(again, start, member, step=_CHUNK), header)
    except Damage as damage:
      raise CheckpointError(f'{path} is damaged', [damage.problem(f'{path}: {member.filename}')]) from None
    array = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return np.ascontiguousarray(array, native).reshape(shape)

  return Entry(shape, native, read)


def _data_offset(file: IO[bytes], member: zipfile.ZipInfo) -> int:
  """Returns where a member's data begins, from its own header, which must agree with the directory."""
  if member.flag_bits & 0x41:
    raise Damage('encrypted', 'a plain member')
  if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise Damage(f'compression method {member.compress_type}', 'stored or deflated')
  if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
    raise Damage(f'{member.file_size} bytes stored in {member.compress_size}', 'equal sizes')
  file.seek(member.header_offset)
  header = file.read(30)
  if len(header) < 30 or header[:4] != b'PK\x03\x04':
    raise Damage(f'no member at offset {member.header_offset}', 'what the zip directory lists')
  name_length, extra_length = struct.unpack('<26xHH', header)
  if file.read(name_length) != member.orig_filename.encode('utf-8' if member.flag_bits & 0x800 else 'cp437'):
    raise Damage('another name in its own header', 'the name that the zip directory lists')
  return member.header_offset + 30 + name_length + extra_length


def _chunks(file: IO[bytes], start: int, member: zipfile.ZipInfo, *, step: int) -> Iterator[bytes]:
  """Yields a member's data, never more than the directory announces, and checks its CRC at the end."""
  inflate = zlib.decompressobj(-15) if member.compress_type == zipfile.ZIP_DEFLATED else None
  left, due, crc, pending = member.compress_size, member.file_size, 0, b''
  file.seek(start)
  while due:
    if not pending and left:
      pending = file.read(min(left, step))
      if not pending:
        raise Damage('the file ends within its data', f'{left} bytes more', 'Download or copy it again')
      left -= len(pending)
    if inflate is None:
      chunk, pending = pending, b''
    else:
      try:
        chunk = inflate.decompress(pending, min(due, step))
      except zlib.error as error:
        raise Damage(f'compressed data that is damaged: {error}', 'a valid deflate stream') from None
      pending = inflate.unconsumed_tail
    if not chunk and not pending and (not left or (inflate is not None and inflate.eof)):
      raise Damage(f'its data ends {due} bytes early', f'{member.file_size} bytes')
    due -= len(chunk)
    crc = zlib.crc32(chunk, crc)
    if not due and crc != member.CRC:
      raise Damage(f'checksum {crc:08x}', f'{member.CRC:08x}', 'The file was damaged: download it again')
    yield chunk


def _fill(flat: np.ndarray, chunks: Iterator[bytes], skip: int) -> None:
  """Copies a member's data without its first `skip` bytes into `flat`, which has exactly that size."""
  target = flat.view(np.uint8)
  at = 0
  for chunk in chunks:
    body = np.frombuffer(chunk, np.uint8)[skip:]
    skip -= len(chunk) - len(body)
    target[at : at + len(body)] = body
    at += len(body)


def _npy_header(head: bytes) -> tuple[np.dtype, bool, tuple[int, ...], int]:
  """Returns (dtype, Fortran order, shape, length of the header) of .npy data.

  The header is a Python literal; only its canonical form is accepted, by a regular expression.
  """
  if not head.startswith(b'\x93NUMPY') or len(head) < 12:
    raise Damage(describe(head, len(head)), 'a .npy array')
  if head[6] not in (1, 2, 3):
    raise Damage(f'.npy version {head[6]}', 'version 1, 2 or 3')
  start = 10 if head[6] == 1 else 12
  length = struct.unpack('<H' if head[6] == 1 else '<I', head[8:start])[0]
  if start + length > min(len(head), _MAX_NPY_HEADER):
    raise Damage(f'a .npy header of {length} bytes', f'a header inside the array and below {_MAX_NPY_HEADER}')
  text = head[start : start + length].decode('latin1').strip()
  items: dict[str, str] = {}
  at, end = 1, len(text) - 1
  while text[:1] == '{' and text[-1:] == '}' and (match := _NPY_ITEM.match(text, at, end)) and len(items) < 3:
    name = match['descr'] or match['order'] or match['shape']
    items[name] = match['dtype'] or match['fortran'] or (match['dims'] or '')
    at = match.end()
  if len(items) != 3 or text[at:end].strip():
    expected = "{'descr': '<f4', 'fortran_order': False, 'shape': (...)} of numbers"
    raise Damage(f'the .npy header {text[:100]!r}', expected)
  shape = tuple(int(side.strip().rstrip('L')) for side in items['shape'].split(',') if side.strip())
  if len(shape) > 32 or any(side < 0 for side in shape):
    raise Damage(f'shape {shape}', 'up to 32 sides, none negative')
  return _npy_dtype(items['descr']), items['fortran_order'] == 'True', shape, start + length


def _npy_dtype(text: str) -> np.dtype:
  """Returns a dtype of numbers; 2-byte voids are bfloat16, which .npy has no name for."""
  if 'O' in text:
    raise Damage('an array of Python objects', 'numbers', 'It is stored as a pickle, which can run code')
  if re.fullmatch(r'[<|=]V2', text):
    return np.dtype('V2')
  if not re.fullmatch(r'[<>|=]?(f[248]|[iu][1248]|[b?]1?)', text):
    raise Damage(f'dtype {text!r}', 'floating point, integers, or bfloat16 as 2-byte void')
  return np.dtype(text)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays as an uncompressed .npz that numpy.load reads; bfloat16 becomes 2-byte void.

  The same arrays give the same bytes, and the file appears under its name only when it is complete.
  """
  with replacing(path) as file, zipfile.ZipFile(file, 'w') as archive:
    for name, array in arrays.items():
      member = zipfile.ZipInfo(f'{name}.npy')
      member.external_attr = 0o600 << 16
      with archive.open(member, 'w', force_zip64=True) as target:
        stored = np.ascontiguousarray(array).reshape(array.shape)
        if stored.dtype == BFLOAT16:
          stored = stored.view('V2')
        np.lib.format.write_array(target, stored, allow_pickle=False)
