"""Check this environment: versions, backend, devices and memory, and what is wrong with them.

vitjax doctor
"""

from __future__ import annotations

import argparse

import vitjax

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'tensorflow-datasets', 'ml-collections',
  'chex', 'numpy', 'opencv-python-headless',
)  # fmt: skip
_OLDEST_PYTHON = (3, 11)
_OLDEST_JAX = (0, 10, 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares no flags."""


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Prints what is here and what is wrong; returns 0 when nothing is, 1 otherwise."""
  from vitjax.cli.environment import prepare

  prepare()
  lines, faults = _packages()
  if not any(fault.startswith('jax') for fault in faults):
    more_lines, more_faults = _devices()
    lines, faults = lines + more_lines, faults + more_faults
  width = max(len(name) for name, _ in lines)
  for name, text in lines:
    print(f'{name.ljust(width)}  {text}')
  for fault in faults:
    print(f'WRONG: {fault}')
  print('nothing wrong found' if not faults else f'{len(faults)} thing(s) to mend')
  return 1 if faults else 0


def _packages() -> tuple[list[tuple[str, str]], list[str]]:
  """Returns (name, version) lines and faults of Python and the packages."""
  import importlib.metadata
  import platform
  import sys

  lines = [
    ('vitjax', vitjax.__version__),
    ('python', f'{platform.python_version()} ({sys.executable})'),
    ('system', platform.platform()),
  ]
  faults = []
  if sys.version_info < _OLDEST_PYTHON:
    faults.append(f'python {platform.python_version()}: vitjax needs 3.11 or newer')
  for name in _PACKAGES:
    try:
      version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      faults.append(f'{name} is not installed: run `pip install vitjax`, or `make install` in a clone')
      continue
    lines.append((name, version))
    if name == 'jax' and tuple(int(part) for part in version.split('.')[:3]) < _OLDEST_JAX:
      faults.append(f'jax {version}: vitjax is tested from {".".join(map(str, _OLDEST_JAX))} on; upgrade jax')
  return lines, faults


def _devices() -> tuple[list[tuple[str, str]], list[str]]:
  """Returns lines and faults of the backend: devices, memory, a small computation, accelerators left unused."""
  import os
  import pathlib

  import jax
  import jax.numpy as jnp

  faults = []
  try:
    devices = jax.devices()
  except RuntimeError as error:
    first_line = str(error).splitlines()[0]
    return [], [
      f'jax finds no backend: {first_line}. Unset JAX_PLATFORMS, or install the jax extra of this machine'
    ]
  device = devices[0]
  lines = [('backend', f'{jax.default_backend()}, {len(devices)} x {device.device_kind}')]
  lines.append(('processes', f'{jax.process_count()}'))
  stats = device.memory_stats()
  if stats is not None and 'bytes_limit' in stats:
    lines.append(
      ('device memory', f'{stats["bytes_limit"] / 2**30:.1f} GiB, {stats["bytes_in_use"] / 2**30:.1f} in use')
    )
  free, total = (
    os.sysconf(name) * os.sysconf('SC_PAGE_SIZE') / 2**30 for name in ('SC_AVPHYS_PAGES', 'SC_PHYS_PAGES')
  )
  lines.append(('host memory', f'{free:.1f} GiB free of {total:.1f}; {os.cpu_count()} cores'))
  lines.append(('compilation cache', str(jax.config.jax_compilation_cache_dir)))
  ones = float(jax.jit(jnp.sum)(jnp.ones((64, 64))))
  if ones != 64 * 64:
    faults.append(f'the sum of 4,096 ones is {ones} on {device.device_kind}: broken driver or hardware')
  if jax.default_backend() == 'cpu' and pathlib.Path('/dev/nvidia0').exists():
    faults.append('an NVIDIA GPU is here but jax runs on the CPU: pip install "jax[cuda13]"')
  if jax.default_backend() == 'cpu' and pathlib.Path('/dev/accel0').exists():
    faults.append('a TPU is here but jax runs on the CPU: pip install "jax[tpu]"')
  if 'JAX_NUM_PROCESSES' in os.environ and int(os.environ['JAX_NUM_PROCESSES']) != jax.process_count():
    # doctor does not join a job, so this is information for the reader and no fault.
    lines.append(
      ('launcher', f'JAX_NUM_PROCESSES={os.environ["JAX_NUM_PROCESSES"]}; doctor looks at this process alone')
    )
  return lines, faults
