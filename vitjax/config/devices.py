"""How many devices a run will see, as far as that can be told before jax is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from vitjax.config.processes import read_launch

_FLAG = re.compile(r'--xla_force_host_platform_device_count=(\d+)')


def expected_devices(flags: Mapping[str, str] | None = None) -> int | None:
  """Returns the global number of devices where the environment fixes it, else None.

  It does for virtual CPU devices: JAX_PLATFORMS=cpu, --xla_force_host_platform_device_count=N in XLA_FLAGS,
  times the number of processes where that is known.

  Args:
    flags: --coordinator, --num_processes, --process_id as given on the command line.
  """
  env = os.environ
  if 'JAX_PLATFORMS' not in env or env['JAX_PLATFORMS'] != 'cpu' or 'XLA_FLAGS' not in env:
    return None
  counts = _FLAG.findall(env['XLA_FLAGS'])
  if not counts:
    return None
  launch = read_launch(env, flags)
  if launch is None:
    return int(counts[-1])
  return None if launch.num_processes is None else int(counts[-1]) * launch.num_processes
