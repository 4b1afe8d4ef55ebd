"""The real train step, compiled ahead of time for devices that are not there."""

from __future__ import annotations

import dataclasses
import re
import time

from vitjax.errors import Problem
from vitjax.parallel.hardware import Hardware
from vitjax.planning.collectives import Collective, parse_collectives
from vitjax.planning.topology import PlanError
from vitjax.training.build import Run

_OOM = re.compile(
  r'\((?P<needed>[\d.]+)(?P<unit>[KMGT])\) exceeds available HBM \((?P<limit>[\d.]+)(?P<limit_unit>[KMGT])\)'
)
_USED = re.compile(r'Used (?P<needed>[\d.]+)(?P<unit>[KMGT]) of (?P<limit>[\d.]+)(?P<limit_unit>[KMGT])')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class DoesNotFit(PlanError):
  """A step that needs more memory than a device has.

  Attributes:
    needed: bytes, the compiler's own figure.
    limit: bytes.
  """

  def __init__(self, needed: int, limit: int):
    self.needed, self.limit = needed, limit
    found = f'{needed / 2**30:.2f} GiB by the compiler'
    super().__init__(
      'the job does not fit', [Problem('memory per device', found, f'at most {limit / 2**30:.2f} GiB')]
    )


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """What the compiler says about one train step; bytes are per device.

  Attributes:
    arguments: state and batch.
    temporaries: peak of everything that lives within the step.
    outputs: results that reuse no argument.
    code: the program itself.
    collectives: as in the optimised program.
    lower_s, compile_s: wall time of tracing and of the compiler.
  """

  arguments: int
  temporaries: int
  outputs: int
  code: int
  collectives: tuple[Collective, ...]
  lower_s: float
  compile_s: float

  @property
  def total(self) -> int:
    """Returns the peak per device."""
    return self.arguments + self.temporaries + self.outputs + self.code


def compile_step(run: Run, hardware: Hardware | None) -> CompiledStep:
  """Returns the compiler's account of `run.step_fn` on `run.mesh`.

  Args:
    run: what `training.build` returned for described (or real) devices.
    hardware: gives the limit where the compiler itself checks none (GPU); None: no limit.

  Raises:
    DoesNotFit: with the compiler's figure.
    PlanError: the compiler fails otherwise.
  """
  start = time.perf_counter()
  lowered = run.step_fn.lower(run.abstract_state, run.abstract_batch())
  lowered_at = time.perf_counter()
  try:
    compiled = lowered.compile()
  except Exception as error:
    raise _explained(error) from error
  memory = compiled.memory_analysis()
  step = CompiledStep(
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    code=memory.generated_code_size_in_bytes,
    collectives=tuple(parse_collectives(compiled.as_text(), dict(run.mesh.shape))),
    lower_s=lowered_at - start,
    compile_s=time.perf_counter() - lowered_at,
  )
  if hardware is not None and step.total > hardware.hbm_bytes:
    raise DoesNotFit(step.total, hardware.hbm_bytes)
  return step


def _explained(error: Exception) -> PlanError:
  text = str(error)
  match = _OOM.search(text) or _USED.search(text)
  if match is None:
    lines = text.splitlines() or [type(error).__name__]
    return PlanError('the compiler refuses the step', [Problem('compiler', lines[0][:300])])
  needed, limit = (
    int(float(match[name]) * _UNITS[match[unit]])
    for name, unit in (('needed', 'unit'), ('limit', 'limit_unit'))
  )
  return DoesNotFit(needed, limit)
