"""How many devices a run will see, as far as that can be told before jax is imported."""

from __future__ import annotations

import os
import re

_FLAG = re.compile(r'--xla_force_host_platform_device_count=(\d+)')
_OTHER_LAUNCHERS = ('SLURM_STEP_NODELIST', 'OMPI_COMM_WORLD_SIZE')


def expected_devices() -> int | None:
  """Returns the global number of devices where the environment fixes it, else None.

  It does for virtual CPU devices: JAX_PLATFORMS=cpu, --xla_force_host_platform_device_count=N in XLA_FLAGS,
  times JAX_NUM_PROCESSES. Under another launcher the number of processes is not known here.
  """
  env = os.environ
  if 'JAX_PLATFORMS' not in env or env['JAX_PLATFORMS'] != 'cpu' or 'XLA_FLAGS' not in env:
    return None
  counts = _FLAG.findall(env['XLA_FLAGS'])
  if not counts:
    return None
  if 'JAX_NUM_PROCESSES' in env:
    processes = env['JAX_NUM_PROCESSES']
    return int(counts[-1]) * int(processes) if processes.isdigit() else None
  return None if any(name in env for name in _OTHER_LAUNCHERS) else int(counts[-1])
