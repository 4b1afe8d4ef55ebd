"""Reads what jax.profiler wrote: the time of every compiled operation. Host-side; needs nothing beside jax."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence

import jax

from vitjax.errors import DataError, Problem

_COMPUTATION = re.compile(r'^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$')
_OPERATION = re.compile(r'^\s+(?P<root>ROOT )?%?(?P<op>[\w.\-]+) = (?P<rest>.*)')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLS = re.compile(r'(?:calls|to_apply)=%?([\w.\-]+)')
_COSTLY = re.compile(r' (?:dot|convolution|custom-call)\(')


@dataclasses.dataclass(frozen=True)
class OpTimes:
  """Where the device's time went during a trace.

  Attributes:
    seconds: {operation: its share of the busy time}; where several run at once, they share the time equally, so
      that the sum is the time in which at least one ran.
    counts: {operation: how often it ran}.
    busy_s: the sum of `seconds`.
    num_devices: devices of this host whose times were added up and divided by their number.
  """

  seconds: dict[str, float]
  counts: dict[str, int]
  busy_s: float
  num_devices: int


def read_op_times(folder: pathlib.Path, module: str) -> OpTimes:
  """Returns the times of the operations of one compiled function in the newest trace below `folder`.

  Args:
    folder: where jax.profiler.start_trace wrote.
    module: the function's name in the trace, such as 'jit_train_step'.

  Raises:
    DataError: there is no trace, or no operation of `module` in it.
  """
  files = sorted(folder.rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
  if not files:
    raise DataError('no trace was written', [Problem(str(folder), '', 'a file *.xplane.pb')])
  with warnings.catch_warnings():
    # The types of ProfileData warn when first used, from C++, where a warning made an error aborts the process.
    warnings.simplefilter('ignore', DeprecationWarning)
    devices = _events_by_device(jax.profiler.ProfileData.from_file(str(files[-1])), module)
  if not devices:
    raise DataError('the trace is empty', [Problem(str(files[-1]), '', f'operations of {module}')])
  seconds, counts = Counter(), Counter()
  for events in devices.values():
    seconds.update(share_time(events))
    counts.update(event.op for event in events)
  seconds = {op: value / len(devices) for op, value in seconds.items()}
  return OpTimes(seconds, dict(counts), sum(seconds.values()), len(devices))


@dataclasses.dataclass(frozen=True)
class Event:
  """One run of an operation: its name, the line (thread or stream) it ran on, begin and end in nanoseconds."""

  op: str
  line: int
  begin: float
  end: float


def share_time(events: Sequence[Event]) -> dict[str, float]:
  """Returns {operation: seconds}: at each instant the running operations share the time equally.

  Of operations nested on one line (a loop and its body) only the innermost counts as running.
  """
  marks = sorted(
    [(e.begin, 1, i, e) for i, e in enumerate(events)] + [(e.end, 0, i, e) for i, e in enumerate(events)],
    key=lambda mark: mark[:3],
  )
  running: dict[int, list[Event]] = defaultdict(list)
  total: Counter[str] = Counter()
  before = 0.0
  for now, begins, _, event in marks:
    innermost = [stack[-1] for stack in running.values() if stack]
    for other in innermost:
      total[other.op] += (now - before) / len(innermost) * 1e-9
    before = now
    if begins:
      running[event.line].append(event)
    else:
      running[event.line].remove(event)
  return dict(total)


def op_names(compiled_text: str) -> dict[str, str]:
  """Returns {operation: 'jit(train_step)/.../MlpBlock_0/Dense_0/dot_general'} of a compiled function's text.

  A fusion without a name of its own takes that of the product inside it, or else of its last named operation.
  """
  names: dict[str, str] = {}
  unnamed: dict[str, str] = {}
  inside: dict[str, str] = {}
  computation, costly = '', False
  for line in compiled_text.splitlines():
    if opening := _COMPUTATION.match(line):
      computation, costly = opening['name'], False
      continue
    operation = _OPERATION.match(line)
    if operation is None:
      continue
    rest = operation['rest']
    if name := _OP_NAME.search(rest):
      names[operation['op']] = name[1]
      if _COSTLY.search(rest) or not costly:
        inside[computation] = name[1]
      costly = costly or _COSTLY.search(rest) is not None
    elif calls := _CALLS.search(rest):
      unnamed[operation['op']] = calls[1]
  return names | {op: inside[called] for op, called in unnamed.items() if called in inside}


def _events_by_device(data: jax.profiler.ProfileData, module: str) -> dict[str, list[Event]]:
  """Returns {device: events} of the operations of `module`.

  TPU planes list them in a line 'XLA Ops'; elsewhere an operation is what carries the statistic 'hlo_op', on the
  streams of a GPU's plane, or on the host's threads for the CPU, whose devices tell themselves apart by number.
  """
  devices: dict[str, list[Event]] = defaultdict(list)
  for plane in data.planes:
    lines = list(plane.lines)
    of_tpu = [line for line in lines if line.name == 'XLA Ops']
    for number, line in enumerate(of_tpu or lines):
      for event in line.events:
        stats = dict(event.stats)
        if of_tpu:
          op = event.name.partition(' = ')[0].lstrip('%')
        elif 'hlo_op' in stats and ('hlo_module' not in stats or stats['hlo_module'] == module):
          op = str(stats['hlo_op'])
        else:
          continue
        device = f'{plane.name}:{stats["device_ordinal"]}' if 'device_ordinal' in stats else plane.name
        begin = event.start_ns
        devices[device].append(Event(op, number, begin, begin + event.duration_ns))
  return devices
