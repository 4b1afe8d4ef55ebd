"""Damaged and malicious .npz and .safetensors files, written field by field: what readers must refuse."""

from __future__ import annotations

import gzip
import json
import pathlib
import pickle
import struct
import zlib

import numpy as np
import official_files
from official_files import FAMILIES

from vitjax.config.schema import ModelConfig
from vitjax.weights.imported import expected_shapes

MiB = 2**20


class Member:
  """One zip member; `central` and `local` override what its headers say."""

  def __init__(self, name, data, method=0, central=None, local=None):
    self.name = name if isinstance(name, bytes) else name.encode()
    self.method = method
    self.body = data
    if method == 8:
      deflate = zlib.compressobj(9, wbits=-15)
      self.body = deflate.compress(data) + deflate.flush()
    self.fields = {'flags': 0, 'method': method, 'crc': zlib.crc32(data)}
    self.fields |= {'packed': len(self.body), 'size': len(data), 'extra': b''}
    self.central, self.local = central or {}, local or {}


def make_zip(members, *, zip64=False, comment=b'', end=None, between=b''):
  """Returns a zip archive written field by field; `end` overrides the last record: count, length, offset."""
  out, directory = bytearray(), bytearray()
  for member in members:
    local = {**member.fields, 'name': member.name, **member.local}
    central = {**member.fields, 'name': member.name, 'offset': len(out), **member.central}
    fixed = (local['flags'], local['method'], 0, 33, local['crc'], local['packed'], local['size'])
    out += struct.pack(
      '<4sHHHHHIII',
      b'PK\3\4',
      20,
      *fixed,
    )[:26]
    out += struct.pack('<HH', len(local['name']), len(local['extra'])) + local['name'] + local['extra']
    out += member.body
    fixed = (central['flags'], central['method'], 0, 33, central['crc'], central['packed'], central['size'])
    directory += struct.pack('<4sHHHHHHIII', b'PK\1\2', 20, 20, *fixed)
    directory += struct.pack(
      '<HHHHHII', len(central['name']), len(central['extra']), 0, 0, 0, 0, central['offset']
    )
    directory += central['name'] + central['extra']
  out += between
  fields = {'count': len(members), 'length': len(directory), 'offset': len(out), 'comment': len(comment)}
  fields |= end or {}
  count, length, offset = fields['count'], fields['length'], fields['offset']
  at = len(out) + len(directory)
  out += directory
  if zip64:
    out += struct.pack('<4sQHHIIQQQQ', b'PK\6\6', 44, 45, 45, 0, 0, count, count, length, offset)
    out += struct.pack('<4sIQI', b'PK\6\7', 0, at, 1)
    count, length, offset = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
  out += struct.pack(
    '<4sHHHHIIH', b'PK\5\6', 0, 0, count & 0xFFFF, count & 0xFFFF, length, offset, fields['comment']
  )
  return bytes(out + comment)


def npy(array=None, *, header=None, data=b'', version=1, magic=b'\x93NUMPY', length=None):
  """Returns .npy bytes of an array, or of a forged header."""
  if array is not None:
    header = str({'descr': array.dtype.str, 'fortran_order': False, 'shape': array.shape})
    data = array.tobytes()
  text = header if isinstance(header, bytes) else header.encode('latin1')
  text += b'\n'
  size = struct.pack('<H' if version == 1 else '<I', len(text) if length is None else length)
  return magic + bytes([version, 0]) + size + text + data


def tensors(header, data, length=None):
  """Returns .safetensors bytes; `header` is an object or the bytes that stand in its place."""
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text) if length is None else length) + text + data


class Canary:
  """Unpickling it creates a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(self.path),)


SIZE, DEPTH = (8, 8), 2
MODEL = ModelConfig(variant='Ti/4', width=8, depth=DEPTH, mlp_dim=12, num_heads=2)


def sound_arrays():
  shapes = expected_shapes(MODEL, num_classes=3, image_size=SIZE)
  rng = np.random.default_rng(0)
  flat = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
  return official_files.vit_file(flat, DEPTH, FAMILIES['augreg'])


SOUND = sound_arrays()
MEMBERS = {name: npy(array) for name, array in SOUND.items()}
VICTIM = 'Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel'  # (8, 12) float32, 384 bytes


def forged(changes=None, **options):
  """Returns the sound archive with some members replaced (bytes or Member), added, or dropped (None)."""
  members = {**MEMBERS, **(changes or {})}
  made = [
    data if isinstance(data, Member) else Member(f'{name}.npy', data)
    for name, data in members.items()
    if data is not None
  ]
  return make_zip(made, **options)


def header_of(descr="'<f4'", order='False', shape='(8, 12)'):
  return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def truncations():
  whole = forged()
  for i in range(40):
    yield f'truncated {i}/40', whole[: len(whole) * i // 40]
  for cut in (1, 4, 21, 22, 23, 60):
    yield f'last {cut} bytes missing', whole[:-cut]
  for i in range(1, 9):
    at = len(whole) * i // 10
    yield f'hole {i}/10', whole[:at] + whole[at + 100 :]
    yield f'zeros {i}/10', whole[:at] + bytes(600) + whole[at + 600 :]


def headers(canary):
  """Yields members with forged .npy headers."""
  data = bytes(384)
  pickled = pickle.dumps(np.array([Canary(canary)], object))
  touch = f"__import__('pathlib').Path({str(canary)!r}).touch()"
  for name, text in {
    '4 TiB': header_of(shape='(1099511627776,)'),
    'product overflows': header_of(shape='(4294967296, 4294967296, 4294967296)'),
    '2**63 sides': header_of(shape='(9223372036854775808, 12)'),
    'negative side': header_of(shape='(-8, -12)'),
    'one negative side': header_of(shape='(-1, 12)'),
    'zero side': header_of(shape='(0, 12)'),
    'many digits': header_of(shape=f'({"9" * 5000},)'),
    'float side': header_of(shape='(8.0, 12)'),
    'boolean side': header_of(shape='(True, 12)'),
    'text side': header_of(shape="('8', 12)"),
    'list shape': header_of(shape='[8, 12]'),
    'nested shape': header_of(shape='((8, 12),)'),
    'number shape': header_of(shape='96'),
    'no shape': "{'descr': '<f4', 'fortran_order': False, }",
    'shape twice': "{'shape': (8, 12), 'fortran_order': False, 'shape': (8, 12), }",
    'four items': "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 12), 'x': 1}",
    '40 sides': header_of(shape=f'({"1, " * 40})'),
    'objects': header_of(descr="'|O'", shape='(1,)'),
    'structured': header_of(descr="[('a', '<f4')]"),
    'unicode': header_of(descr="'<U4'", shape='(24,)'),
    'bytes': header_of(descr="'|S4'"),
    'complex': header_of(descr="'<c8'", shape='(48,)'),
    'dates': header_of(descr="'<M8[s]'", shape='(48,)'),
    'void 4': header_of(descr="'|V4'"),
    'long double': header_of(descr="'<f16'", shape='(24,)'),
    'integers': header_of(descr="'<i4'"),
    'bool order': header_of(order='0'),
    'code as dtype': header_of(descr=touch),
    'code as order': header_of(order=touch),
    'code as shape': header_of(shape=f'({touch},)'),
    'parentheses': header_of(shape='(' * 8000),
    'minuses': header_of(shape=f'({"-" * 8000}1,)'),
    'spaces': header_of(shape=f'({" " * 12_000}8'),
    'comma storm': header_of(shape=f'({"," * 12_000}8)'),
    'too long': header_of() + ' ' * 60_000,
    'nothing': '',
    'not closed': header_of()[:-1],
    'JSON': '{"descr": "<f4", "fortran_order": false, "shape": [8, 12]}',
    'no Python': '\xff\xfe\x00',
  }.items():
    yield f'header: {name}', npy(header=text, data=pickled if name == 'objects' else data)
  yield 'header: other magic', npy(header=header_of(), data=data, magic=b'\x93NUMPX')
  yield 'header: version 9', npy(header=header_of(), data=data, version=9)
  yield 'header: version 0', npy(header=header_of(), data=data, version=0)
  yield 'header: longer than the member', npy(header=header_of(), data=data, length=60_000)
  yield 'header: 4 GiB long', npy(header=header_of(), data=data, version=2, length=2**32 - 1)
  yield 'header: cut', npy(header=header_of(), data=data, length=20)
  yield 'member: a pickle', pickle.dumps(Canary(canary))
  yield 'member: empty', b''
  yield 'member: magic alone', b'\x93NUMPY'
  yield 'member: one byte short', npy(header=header_of(), data=data[:-1])
  yield 'member: one byte long', npy(header=header_of(), data=data + b'x')
  yield 'member: twice the data', npy(header=header_of(), data=data * 2)
  yield 'member: float16 by size', npy(header=header_of(descr="'<f2'"), data=data)


def archives(canary):
  """Yields (name, bytes) of zip archives that lie."""
  data, size = MEMBERS[VICTIM], len(MEMBERS[VICTIM])
  zeros = npy(header=header_of(shape=f'({16 * MiB},)'), data=bytes(64 * MiB))

  def victim(method=0, central=None, local=None, data=data, name=f'{VICTIM}.npy'):
    return {VICTIM: Member(name, data, method, central, local)}

  yield 'bomb: 64 MiB of zeros', forged(victim(8, data=zeros))
  yield 'bomb: extra member', forged({'bomb': Member('bomb.npy', zeros, 8)})
  del zeros
  yield 'bomb: announces 4 GiB', forged(victim(8, {'size': 2**32 - 2}))
  extra = struct.pack('<HHQQ', 1, 16, 2**42, 300)
  yield 'bomb: announces 4 TiB', forged(victim(8, {'size': 0xFFFFFFFF, 'packed': 0xFFFFFFFF, 'extra': extra}))
  yield 'deflated: less than announced', forged(victim(8, {'size': size + 50}))
  yield 'deflated: more than announced', forged(victim(8, {'size': size - 50}))
  yield 'deflated: garbage', forged(victim(0, {'method': 8}, {'method': 8}))
  yield 'deflated: cut', forged(victim(8, {'packed': 40}))
  yield 'stored: packed size differs', forged(victim(0, {'packed': size - 4}))
  yield 'stored: size differs', forged(victim(0, {'size': size + 4}))
  yield (
    'stored: both sizes reach into the next member',
    forged(victim(0, {'size': size + 99, 'packed': size + 99})),
  )
  yield 'wrong checksum', forged(victim(0, {'crc': 1}))
  yield 'wrong checksum, deflated', forged(victim(8, {'crc': 1}))
  yield 'encrypted', forged(victim(0, {'flags': 1}))
  yield 'strongly encrypted', forged(victim(0, {'flags': 0x41}))
  for method in (1, 9, 12, 14, 93, 99):
    yield f'method {method}', forged(victim(0, {'method': method}))
  yield 'member twice', forged({'again': Member(f'{VICTIM}.npy', data)})
  yield 'overlap: two names, one place', forged({'again': Member('again.npy', data, 0, {'offset': 0})})
  yield 'overlap: inside another', forged(victim(0, {'offset': 100}))
  yield 'offset beyond the file', forged(victim(0, {'offset': 2**31}))
  yield 'offset at the end', forged(victim(0, {'offset': len(forged()) - 30}))
  yield 'another name in its own header', forged(victim(0, None, {'name': b'x.npy'}))
  yield 'long name in its own header', forged(victim(0, None, {'name': b'x' * 60_000}))
  yield 'name without .npy', forged({VICTIM: Member(VICTIM, data)})
  yield 'name with NUL', forged({VICTIM: Member(f'{VICTIM}\0.npy', data)})
  yield 'name not UTF-8', forged({VICTIM: Member(b'\xff\xfe.npy', data, 0, {'flags': 0x800})})
  yield 'name climbs', forged({'../../x': Member('../../x.npy', data)})
  yield 'extra field cut', forged(victim(0, {'extra': struct.pack('<HH', 1, 40)}))
  yield 'torch archive', make_zip([Member('archive/data.pkl', pickle.dumps(Canary(canary)))])
  yield 'no members', make_zip([])
  yield '20,001 members', make_zip([Member(f'{i}', b'') for i in range(20_001)])
  for name, end in {
    'length': {'length': 2**31},
    'length short': {'length': 46},
    'length zero': {'length': 0},
    'offset far': {'offset': 2**31},
    'offset near': {'offset': 10},
    'comment': {'comment': 999},
  }.items():
    yield f'directory: {name}', forged(end=end)
  yield 'directory: bytes after it', forged() + b'x'
  for name, end in {
    'count': {'count': 2**60},
    'length': {'length': 2**60},
    'offset': {'offset': 2**60},
  }.items():
    yield f'64-bit directory: {name}', forged(end=end, zip64=True)
  yield 'directory: a million entries', forged(end={'length': 5 * MiB}, between=bytes(6 * MiB))
  yield 'directory: garbage', forged(end={'offset': 0, 'length': 4000})


def contents():
  """Yields archives that are sound as files, and hold the wrong arrays."""
  for name in SOUND:
    yield f'missing: {name}', forged({name: None})
  for name, array in SOUND.items():
    if array.ndim > 1 and min(array.shape) != max(array.shape):
      yield f'transposed: {name}', forged({name: npy(np.ascontiguousarray(array.T))})
  for name in SOUND:
    yield f'a scalar: {name}', forged({name: npy(np.float32(1).reshape(()))})
  scalars = {
    name: npy(np.float32(1).reshape(())) for name in ('head/kernel', 'pre_logits/kernel', 'MAPHead_0/probe')
  }
  yield 'scalars', forged(scalars)
  one = np.ones(3, np.float32)
  for name in ('surprise', 'head/extra', 'Transformer/encoderblock_0/LayerNorm_9/scale', 'head', 'cls/x'):
    yield f'extra: {name}', forged({name: npy(one)})
  block = 'Transformer/encoderblock'
  yield 'a gap between blocks', forged({f'{block}_3/LayerNorm_0/scale': npy(one)})
  yield 'a billion blocks', forged({f'{block}_999999999/LayerNorm_0/scale': npy(one)})
  yield 'many blocks by digits', forged({f'{block}_{"9" * 5000}/LayerNorm_0/scale': npy(one)})
  yield 'many units by digits', forged({f'block1/unit{"9" * 5000}/conv1/kernel': npy(one)})
  yield 'empty stacks', forged({f'{block}/LayerNorm_0/scale': npy(np.zeros((2**60, 0), np.float32))})
  yield 'stacked and not', forged({f'{block}/LayerNorm_0/scale': npy(np.ones((2, 8), np.float32))})
  yield 'two spellings', forged({f'{block}_0/MlpBlock_0/Dense_0/kernel': MEMBERS[VICTIM]})
  yield 'patches of no pixels', forged({'embedding/kernel': npy(np.ones((0, 0, 3, 8), np.float32))})
  yield 'gray images', forged({'embedding/kernel': npy(np.ones((4, 4, 1, 8), np.float32))})
  yield 'rectangular patches', forged({'embedding/kernel': npy(np.ones((4, 2, 3, 8), np.float32))})
  yield 'a stem without units', forged({'conv_root/kernel': npy(np.ones((7, 7, 3, 64), np.float32))})
  yield 'an unknown stem', forged({'block1/unit7/conv1/kernel': npy(np.ones((1, 1, 64, 64), np.float32))})
  positions = 'Transformer/posembed_input/pos_embedding'
  yield 'flat positions', forged({positions: npy(np.ones(40, np.float32))})
  yield 'no square of positions', forged({positions: npy(np.ones((1, 8, 8), np.float32))})
  yield 'only a class row', forged({positions: npy(np.ones((1, 1, 8), np.float32))})
  kernels = {
    f'{block}_{i}/MultiHeadDotProductAttention_1/{part}/kernel': npy(np.ones((8, 3, 4), np.float32))
    for i in range(DEPTH)
    for part in ('query', 'key', 'value')
  }
  yield 'heads that do not divide', forged(kernels)
  yield 'only a patch embedding', make_zip([Member('embedding/kernel.npy', MEMBERS['embedding/kernel'])])
  yield 'arrays of something else', make_zip([Member('weights.npy', npy(one)), Member('bias.npy', npy(one))])


def other_types(canary):
  """Yields files that are no archives of arrays at all."""
  yield 'type: empty', b''
  yield 'type: text', b'hello world, these are no weights'
  yield 'type: HTML', b'<!DOCTYPE html><html>404</html>'
  yield 'type: pickle', pickle.dumps(Canary(canary))
  yield 'type: pickle, protocol 0', pickle.dumps(Canary(canary), protocol=0)
  yield 'type: one array', npy(np.ones(3, np.float32))
  yield 'type: HDF5', b'\x89HDF\r\n\x1a\n' + bytes(100)
  yield 'type: gzip', gzip.compress(forged())
  yield 'type: LFS pointer', b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n'
  yield 'type: PNG', b'\x89PNG\r\n\x1a\n' + bytes(100)
  yield 'type: zeros', bytes(5000)
  yield 'type: PK alone', b'PK'
  yield 'type: end record alone', make_zip([])[-22:]
  yield 'type: safetensors', tensors({'a': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}}, bytes(4))


def damaged_safetensors():
  """Yields (name, bytes) of .safetensors that lie."""
  info = {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}
  data = bytes(24)

  def one(**changes):
    return tensors({'a': {**info, **changes}}, data)

  whole = tensors({'a': info}, data)
  for i in range(16):
    yield f'truncated {i}/16', whole[: len(whole) * i // 16]
  yield 'a byte more', whole + b'x'
  for name, length in {
    'header: 2**63 bytes': 2**63,
    'header: past the end': 9999,
    'header: short': 10,
  }.items():
    yield name, tensors({'a': info}, data, length=length)
  yield 'header: 17 MiB', tensors(b'{' + b' ' * 17 * MiB + b'}', b'')
  for name, text in {
    'no JSON': b'{"a": }', 'a list': b'[]', 'text': b'"a"', 'number': b'3', 'not UTF-8': b'{"\xff": 1}',
    'deep': b'{"a":' * 50_000, 'deep lists': b'[' * 50_000, 'twice': b'{"a": 1, "a": 1}', 'NaN': b'{"a": NaN}',
    'digits': b'{"a": ' + b'9' * 9000 + b'}',
  }.items():  # fmt: skip
    yield f'header: {name}', tensors(text, data)
  for name, value in {
    'negative': [-2, -3], 'fraction': [2.0, 3], 'boolean': [True, 6], 'text': '6', 'nothing': None, 'huge': [2**70],
    'overflow': [2**40, 2**40], 'long': [1] * 40, 'other': [2, 4], 'nested': [[2, 3]],
  }.items():  # fmt: skip
    yield f'shape: {name}', one(shape=value)
  for name, value in {
    'reversed': [24, 0], 'negative': [-24, 0], 'beyond': [0, 2**40], 'gap': [4, 28], 'one': [24], 'three': [0, 24, 24],
    'text': 'x', 'past the end': [24, 48], 'fractions': [0.0, 24.0],
  }.items():  # fmt: skip
    yield f'offsets: {name}', one(data_offsets=value)
  for name in ('F8_E4M3', 'O', '', None, ['F32'], 'f32'):
    yield f'dtype: {name!r}', one(dtype=name)
  yield 'overlap', tensors({'a': info, 'b': info}, data)
  yield 'gap between arrays', tensors({'a': info, 'b': {**info, 'data_offsets': [28, 52]}}, bytes(52))
  yield 'no fields', tensors({'a': {}}, data)
  yield 'more fields', one(extra=1)
  yield 'a list for an array', tensors({'a': [1]}, data)
  yield 'metadata: numbers', tensors({'__metadata__': {'a': 1}, 'a': info}, data)
  yield 'metadata: a list', tensors({'__metadata__': [], 'a': info}, data)


def all_damaged(canary):
  yield from truncations()
  for name, member in headers(canary):
    yield name, forged({VICTIM: member})
  yield from archives(canary)
  yield from contents()
  yield from other_types(canary)
