"""The form of the training step that is fastest on each class of devices: one table, and what reads it."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from vitjax.config.schema import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tuning:
  """How one class of devices runs the same step fastest. Never what it computes.

  Attributes:
    attention: what model.attention='auto' stands for.
    compiler_options: XLA options of the jitted step; an option that XLA_FLAGS sets is left to the user.
    keep_freed_memory: keep freed host memory instead of giving it back to the system; see `config.memory`.
  """

  attention: str = 'plain'
  compiler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  keep_freed_memory: bool = False


# Fewer copies of donated arrays.
_CPU = {'xla_cpu_copy_insertion_use_region_analysis': True}

# One row per class of `device_class`; benchmarks/LOG.md has the measurements.
TUNING = {
  'cpu': Tuning(keep_freed_memory=True, compiler_options=_CPU),
  'cpu-avx512': Tuning(keep_freed_memory=True, compiler_options={**_CPU, 'xla_cpu_prefer_vector_width': 512}),
  'gpu': Tuning(),
  'gpu-sm80': Tuning(attention='cudnn'),
  'tpu': Tuning(),
}


def device_class(device: Any) -> str:
  """Returns the row of TUNING for a device; it may be one of an ahead-of-time topology.

  'gpu-sm80' are NVIDIA GPUs from compute capability 8.0 on (A100, H100 ...), 'cpu-avx512' x86 with AVX-512.
  """
  if device.platform == 'cpu':
    return 'cpu-avx512' if _has_avx512() else 'cpu'
  if device.platform in ('gpu', 'cuda'):
    version = str(getattr(device, 'compute_capability', '0')).partition('.')[0]
    return 'gpu-sm80' if version.isdigit() and int(version) >= 8 else 'gpu'
  return device.platform


def tuning_for(name: str | None = None) -> Tuning:
  """Returns a row of TUNING; None: of the device that jax would use. Kinds without a row get the plain one."""
  name = device_class(_default_device()) if name is None else name
  return TUNING[name] if name in TUNING else Tuning()


def attention_for(config: ModelConfig, name: str | None) -> str:
  """Returns 'plain' or 'cudnn': what config.attention means on devices of class `name` (None: jax's default).

  A model that asks for 'cudnn' runs as 'plain' elsewhere, so that its checkpoints load anywhere.
  """
  best = tuning_for(name).attention
  return best if config.attention == 'auto' or best == 'plain' else config.attention


def compiler_options(name: str) -> dict[str, Any]:
  """Returns the XLA options for jax.jit on devices of class `name`, without those that XLA_FLAGS sets."""
  flags = os.environ['XLA_FLAGS'] if 'XLA_FLAGS' in os.environ else ''
  return {key: value for key, value in tuning_for(name).compiler_options.items() if f'--{key}=' not in flags}


def _default_device() -> Any:
  """Returns the device that an unconstrained jitted function runs on."""
  device = jax.config.jax_default_device
  return jax.local_devices(backend=device)[0] if isinstance(device, str | None) else device


@functools.cache
def _has_avx512() -> bool:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
  except OSError:
    return False
  flags = next((line for line in lines if line.startswith('flags')), '')
  return ' avx512f ' in f'{flags.strip()} '
