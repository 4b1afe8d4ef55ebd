"""Devices that are not there: 'v5e:16x16', '2xv6e:16x16', 'h100:8x4' or 'cpu:512' -> descriptions to compile for."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from vitjax.errors import ConfigError, Problem, VitjaxError
from vitjax.parallel.hardware import HARDWARE, Hardware

_PATTERN = re.compile(r'(?:(?P<slices>\d+)x)?(?P<kind>[a-z]\w*?):(?P<shape>\d+(?:x\d+){0,2})')
_EXAMPLES = "'v5e:16x16', 'v5p:8x8x8', '2xv6e:16x16', 'h100:8x4' (8 GPUs in each of 4 nodes) or 'cpu:8'"
_TPU_HINT = 'pip install "vitjax[plan]" brings libtpu (some 500 MB); it needs no TPU'
_GPU_HINT = 'pip install "vitjax[cuda]" brings the CUDA plugin; it needs no GPU'


class PlanError(VitjaxError):
  """A plan that cannot be made, or a job that cannot run as planned."""


@dataclasses.dataclass(frozen=True)
class Topology:
  """A cluster by name.

  Attributes:
    text: as the user wrote it.
    kind: 'v5e', 'v5p', 'v6e', 'h100' or 'cpu'.
    shape: TPU: chips along each axis of one slice; GPU: (GPUs per node, nodes); CPU: (devices,).
    num_slices: TPU slices joined by the data-center network; 1 otherwise.
  """

  text: str
  kind: str
  shape: tuple[int, ...]
  num_slices: int = 1

  @classmethod
  def parse(cls, text: str) -> Topology:
    """Reads the text of --topology.

    Raises:
      ConfigError: unknown kinds of device, or a shape that the kind does not have.
    """
    match = _PATTERN.fullmatch(text.strip())
    kinds = (*HARDWARE, 'cpu')
    if match is None or match['kind'] not in kinds:
      problem = Problem('--topology', repr(text), _EXAMPLES, f'Known: {", ".join(kinds)}')
      raise ConfigError('the topology is not known', [problem])
    shape = tuple(int(size) for size in match['shape'].split('x'))
    slices = int(match['slices'] or 1)
    kind = match['kind']
    dims = {'v5e': 2, 'v6e': 2, 'v5p': 3, 'h100': 2, 'cpu': 1}[kind]
    problems = []
    if len(shape) != dims or min(shape) < 1 or slices < 1:
      problems.append(Problem('--topology', repr(text), f'{dims} sizes after {kind}:, such as {_EXAMPLES}'))
    elif slices > 1 and not kind.startswith('v'):
      problems.append(Problem('--topology', repr(text), 'one slice: only TPUs come in slices'))
    if problems:
      raise ConfigError('the topology has no such shape', problems)
    return cls(text.strip(), kind, shape, slices)

  @property
  def num_devices(self) -> int:
    """Returns the number of devices of all slices together."""
    return math.prod(self.shape) * self.num_slices

  @property
  def hardware(self) -> Hardware | None:
    """Returns the data sheet; None for virtual CPU devices."""
    return None if self.kind == 'cpu' else HARDWARE[self.kind]

  @property
  def platform(self) -> str:
    """Returns 'tpu', 'cuda' or 'cpu'."""
    return {'cpu': 'cpu', 'h100': 'cuda'}[self.kind] if not self.kind.startswith('v') else 'tpu'

  @property
  def num_hosts(self) -> int:
    """Returns how many hosts feed the devices."""
    if self.hardware is None:
      return 1
    return max(self.num_devices // self.hardware.devices_per_host, 1)


def prepare_process(topology: Topology) -> None:
  """Sets what jax and libtpu read when they start; to be called before jax touches a device."""
  import jax

  jax.config.update('jax_platforms', 'cpu')  # the host compiles; nothing may seize a local accelerator
  if topology.kind == 'cpu':
    # A process whose devices exist already keeps those; describe_devices then counts them.
    with contextlib.suppress(RuntimeError):
      jax.config.update('jax_num_cpu_devices', topology.num_devices)
  else:
    # Without the devices a stored program cannot be loaded: jax would warn, compile again, and write it once more.
    jax.config.update('jax_enable_compilation_cache', False)
  for name, value in {
    'TPU_SKIP_MDS_QUERY': '1',  # no cloud metadata server to ask
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # several plans at once: no chip is there to lock
  }.items():
    os.environ.setdefault(name, value)


def describe_devices(topology: Topology) -> list[Any]:
  """Returns the devices, in the order of jax.devices() on that cluster; they compile and hold no arrays.

  Raises:
    PlanError: libtpu or the CUDA plugin is not installed (the pip line is named), or it knows no such shape.
  """
  import jax

  if topology.kind == 'cpu':
    if len(jax.devices('cpu')) < topology.num_devices:
      found, hint = f'{len(jax.devices("cpu"))} virtual devices', 'XLA_FLAGS is read once, before jax starts'
      problem = Problem('--topology', topology.text, f'at most the {found} of this process', hint)
      raise PlanError('not enough virtual devices', [problem])
    return jax.devices('cpu')[: topology.num_devices]
  _check_installed(topology)
  from jax.experimental import topologies

  if topology.platform == 'tpu':
    options: dict[str, Any] = {'num_slices': topology.num_slices} if topology.num_slices > 1 else {}
    name = f'{topology.kind}:{"x".join(map(str, topology.shape))}'
  else:
    per_node, nodes = topology.shape
    text = pathlib.Path(__file__).with_name('h100.txtpb').read_text(encoding='utf-8')
    name, options = 'h100', {'topology': f'1x{nodes}x{per_node}', 'target_config': text}
  try:
    with _quiet_stderr():
      return list(topologies.get_topology_desc(name, topology.platform, **options).devices)
  except Exception as error:
    problem = Problem('--topology', repr(topology.text), 'a shape that exists', str(error).splitlines()[0])
    raise PlanError('the compiler cannot describe these devices', [problem]) from error


def _check_installed(topology: Topology) -> None:
  package, hint = (
    ('libtpu', _TPU_HINT) if topology.platform == 'tpu' else ('jax_plugins.xla_cuda13', _GPU_HINT)
  )
  try:
    found = importlib.util.find_spec(package) is not None
  except ModuleNotFoundError:
    found = False
  if not found:
    problem = Problem('--topology', topology.text, f'{package} installed', hint)
    raise PlanError(f'the compiler for {topology.kind} is not installed', [problem])


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
  """Holds back what C++ writes to stderr (libtpu complains that this is no TPU host); shows it on an exception."""
  sys.stderr.flush()
  saved = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except BaseException:
      os.dup2(saved, 2)
      held.seek(0)
      sys.stderr.write(held.read().decode(errors='replace'))
      raise
    finally:
      os.dup2(saved, 2)
      os.close(saved)
