"""Communication of a compiled step, read from its optimised HLO text: what, over which mesh axes, how many bytes.

A collective inside a loop counts once per iteration. Backends write one collective in several ways, and each must
count once: 'all-gather-start' with its '-done'; a TPU collective that is spread over fused computations (only its
'async-collective-start' counts); and a reduce-scatter that a TPU carries out as a fused all-reduce and slice.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')

_BITS = {'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'bf16': 16, 'f16': 16} | {
  name: int(name[1:]) for name in ('s32', 'u32', 'f32', 's64', 'u64', 'f64')
}
_HEADER = re.compile(r'(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$')
_ARRAY = re.compile(r'\b(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,]*)\]')
_OPCODE = re.compile(r'(?<=[ })\]])(?P<opcode>[a-z][a-z\-]*)\(')
_COLLECTIVE = re.compile(rf'(?P<kind>{"|".join(KINDS)})(?P<async>-start)?$')
_CALLED = re.compile(r'(?P<how>calls|body|to_apply|condition)=%?(?P<name>[\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{(?P<names>[^}]*)\}')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(?P<count>\d+)"\}')
_OP_NAME = re.compile(r'op_name="(?P<name>(?:[^"\\]|\\.)*)"')
_IOTA = re.compile(r'\[(?P<groups>[\d,]+)\]<=\[(?P<dims>[\d,]+)\](?:T\((?P<perm>[\d,]+)\))?')
_MESH = re.compile(
  r'mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\(\[(?P<dims>[\d,]+)\](?:T\((?P<perm>[\d,]+)\))?\))? *\{(?P<used>[^}]*)\}'
)
_MESH_AXIS = re.compile(r"'(?P<name>[^']+)'=(?P<size>\d+)")
_MESH_USED = re.compile(r"'(?P<name>[^']+)'(?::\((?P<before>\d+)\)(?P<size>\d+))?")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a step.

  Attributes:
    kind: one of KINDS.
    axes: mesh axes that the participants differ in, such as ('fsdp',); ('?',) where the groups follow no axes.
    group: ids (positions in the flattened mesh) of one group of participants; all groups are alike.
    payload_bytes: the whole array of one group in one execution: gathered, reduced or exchanged, before scattering.
    count: executions per step.
    overlapped: the compiler lets it run beside computation.
    shape: of the largest array, such as 'bf16[1,1280,5120]'.
    op_name: the model part it comes from, '' if unknown.
  """

  kind: str
  axes: tuple[str, ...]
  group: tuple[int, ...]
  payload_bytes: int
  count: int
  overlapped: bool
  shape: str
  op_name: str

  @property
  def wire_bytes(self) -> float:
    """Returns the bytes that each device sends per step with ring algorithms."""
    n = len(self.group)
    factor = {'all-reduce': 2 * (n - 1) / n, 'collective-permute': 1.0}
    share = factor[self.kind] if self.kind in factor else (n - 1) / n
    return share * self.payload_bytes * self.count


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  opcode: str
  result: str
  line: str


def parse_collectives(hlo: str, mesh_axes: dict[str, int]) -> list[Collective]:
  """Returns the collectives of an optimised HLO module, in program order, loops multiplied out.

  Args:
    hlo: `compiled.as_text()`.
    mesh_axes: axis -> size, in the order of the mesh: device ids are positions in it.

  Raises:
    ValueError: a loop whose number of iterations cannot be read.
  """
  computations, entry = _split(hlo)
  num_devices = math.prod(mesh_axes.values())
  found = []
  for instruction, count, overlapped, scatter in _walk(computations, entry, 1):
    match = _COLLECTIVE.match(instruction.opcode)
    assert match is not None
    group = _first_group(instruction.line, num_devices)
    if len(group) < 2:
      continue
    kind = 'reduce-scatter' if scatter and match['kind'] == 'all-reduce' else match['kind']
    size, shape = _payload(instruction, len(group), is_start=match['async'] is not None)
    name = _OP_NAME.search(instruction.line)
    found.append(
      Collective(
        kind=kind,
        axes=_axes_of(group, mesh_axes),
        group=group,
        payload_bytes=size,
        count=count,
        overlapped=overlapped or match['async'] is not None,
        shape=shape,
        op_name=name['name'] if name else '',
      )
    )
  return found


def _split(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
  """Returns {computation: instructions} and the name of the entry computation."""
  computations: dict[str, list[_Instruction]] = {}
  entry, current = '', None
  for line in hlo.splitlines():
    header = _HEADER.match(line)
    if header is not None:
      current = computations.setdefault(header['name'], [])
      entry = header['name'] if header['entry'] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None:
      name, equals, rest = line.strip().removeprefix('ROOT ').partition(' = ')
      opcode = _OPCODE.search(rest)
      if equals and opcode is not None:
        current.append(_Instruction(name.lstrip('%'), opcode['opcode'], rest[: opcode.start()], rest))
  return computations, entry


def _walk(
  computations: dict[str, list[_Instruction]], name: str, count: int
) -> Iterator[tuple[_Instruction, int, bool, bool]]:
  """Yields (collective, executions, runs beside computation, is half of a reduce-scatter) below one computation."""
  for instruction in computations[name]:
    if _COLLECTIVE.match(instruction.opcode):
      yield instruction, count, False, False
      continue
    called = {match['how']: match['name'] for match in _CALLED.finditer(instruction.line)}
    if instruction.opcode == 'while':
      trips = _trip_count(instruction, computations[called['condition']])
      yield from _walk(computations, called['body'], count * trips)
    elif instruction.opcode == 'conditional':
      branches = _BRANCHES.search(instruction.line)
      for branch in branches['names'].split(',') if branches else ():
        yield from _walk(computations, branch.strip().lstrip('%'), count)
    elif instruction.opcode in ('fusion', 'call', 'async-start') and (called.keys() & {'calls', 'to_apply'}):
      inner = called['calls'] if 'calls' in called else called['to_apply']
      if _repeats(instruction, inner):
        continue
      starts = instruction.opcode == 'async-start' or 'async-collective-start' in instruction.name
      for collective, times, overlapped, scatter in _walk(computations, inner, count):
        yield (
          collective,
          times,
          overlapped or starts,
          scatter or 'reduce-scatter' in inner.replace('all-', ''),
        )


def _repeats(instruction: _Instruction, inner: str) -> bool:
  """Whether a fusion carries on, or ends, a collective that another instruction started."""
  return inner.startswith('async_collective_fusion') or 'async-collective-done' in instruction.name


def _trip_count(loop: _Instruction, condition: list[_Instruction]) -> int:
  known = _TRIPS.search(loop.line)
  if known is not None:
    return int(known['count'])
  limits = [re.search(r'constant\((\d+)\)', i.line) for i in condition if i.opcode == 'constant']
  values = {int(limit[1]) for limit in limits if limit is not None}
  if len(values) != 1:
    raise ValueError(f'the number of iterations of the loop {loop.name} cannot be read')
  return values.pop()


def _payload(instruction: _Instruction, group_size: int, *, is_start: bool) -> tuple[int, str]:
  """Returns the bytes of the whole array of a group, and the shape of the largest array."""
  sizes = [(_bytes(match), match[0]) for match in _ARRAY.finditer(instruction.result)]
  if not sizes:
    return 0, ''
  total = sum(size for size, _ in sizes)
  opcode = instruction.opcode
  if opcode == 'collective-permute-start' and len(sizes) > 1:
    total = sizes[1][0]  # (operand, result, contexts)
  elif is_start and opcode != 'all-reduce-start':
    # (operands, results): the one is the group_size-th part of the other, and the larger one is the whole.
    total = total * group_size // (group_size + 1)
  elif opcode == 'reduce-scatter':
    total *= group_size
  return total, max(sizes)[1]


def _bytes(match: re.Match[str]) -> int:
  if match['dtype'] not in _BITS:
    return 0
  sizes = [int(size) for size in match['shape'].split(',') if size]
  return math.prod(sizes) * _BITS[match['dtype']] // 8


def _first_group(line: str, num_devices: int) -> tuple[int, ...]:
  """Returns the ids of one group of participants: the first of those listed."""
  if 'source_target_pairs=' in line:
    pairs = re.findall(
      r'\{(\d+),(\d+)\}', line.partition('source_target_pairs=')[2].partition('}}')[0] + '}}'
    )
    return tuple(sorted({int(i) for i in next((p for p in pairs if p[0] != p[1]), ())}))
  text = line.partition('replica_groups=')[2]
  if (mesh := _MESH.match(text)) is not None:
    return _mesh_group(mesh)
  if (iota := _IOTA.match(text)) is not None:
    ids = _iota(iota['dims'], iota['perm'])
    return tuple(ids.reshape([int(n) for n in iota['groups'].split(',')])[0].tolist())
  listed = re.match(r'\{\{([\d,]*)\}', text)
  ids = [int(n) for n in listed[1].split(',') if n] if listed else []
  return tuple(ids) if ids else tuple(range(num_devices))


def _mesh_group(mesh: re.Match[str]) -> tuple[int, ...]:
  """Returns the first group of mesh['a'=4,'b'=2] {'a'}.

  An axis may be split, 'a':(1)2 being its major half, and device_ids=([2,4]T(1,0)) says which ids fill the mesh.
  """
  axes = {match['name']: int(match['size']) for match in _MESH_AXIS.finditer(mesh['axes'])}
  strides = dict(zip(axes, np.cumprod([1, *reversed(axes.values())])[-2::-1].tolist(), strict=True))
  parts = []
  for used in _MESH_USED.finditer(mesh['used']):
    stride, size = strides[used['name']], axes[used['name']]
    if used['size']:
      stride, size = stride * (size // (int(used['before']) * int(used['size']))), int(used['size'])
    parts.append([stride * i for i in range(size)])
  places = [sum(ids) for ids in itertools.product(*parts)]
  order = _iota(mesh['dims'], mesh['perm']) if mesh['dims'] else np.arange(math.prod(axes.values()))
  return tuple(sorted(order[places].tolist()))


def _iota(dims: str, perm: str | None) -> np.ndarray:
  """Returns 0, 1, ... in the order of [dims]T(perm), flattened."""
  shape = [int(n) for n in dims.split(',')]
  ids = np.arange(math.prod(shape)).reshape(shape)
  return (ids.transpose([int(n) for n in perm.split(',')]) if perm else ids).ravel()


def _axes_of(group: Sequence[int], mesh_axes: dict[str, int]) -> tuple[str, ...]:
  """Returns the axes along which a group lies, ('?',) when it is not made of whole axes."""
  coords = np.stack(np.unravel_index(np.array(group), tuple(mesh_axes.values())))
  names = tuple(name for name, row in zip(mesh_axes, coords, strict=True) if len(set(row.tolist())) > 1)
  return names if names else ('?',)


def summarise(found: Sequence[Collective]) -> list[tuple[str, str, int, float, float]]:
  """Returns (kind, axes joined by '+', executions, wire bytes, share of them overlapped), largest first."""
  rows: dict[tuple[str, str], list[Collective]] = collections.defaultdict(list)
  for collective in found:
    rows[collective.kind, '+'.join(collective.axes)].append(collective)
  table = []
  for (kind, axes), members in rows.items():
    total = sum(c.wire_bytes for c in members)
    beside = sum(c.wire_bytes for c in members if c.overlapped)
    table.append((kind, axes, sum(c.count for c in members), total, beside / total if total else 0.0))
  return sorted(table, key=lambda row: -row[3])
