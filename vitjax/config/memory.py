"""How this process allocates host memory: a setting to make before jax starts."""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys

# Device files of NVIDIA and AMD GPUs and of TPUs.
_DEV = pathlib.Path('/dev')
_ACCELERATORS = ('nvidia[0-9]*', 'kfd', 'accel*', 'vfio/[0-9]*')


def computes_on_cpu() -> bool:
  """Returns whether jax will compute on the CPU, as far as that can be told before it starts."""
  if os.environ.get('JAX_PLATFORMS'):
    return os.environ['JAX_PLATFORMS'] == 'cpu'
  return not any(any(_DEV.glob(pattern)) for pattern in _ACCELERATORS)


def keep_freed_memory() -> bool:
  """Tells glibc to keep freed memory for the next step; returns whether it did. Harmless elsewhere.

  XLA:CPU allocates and frees every temporary of a step. By default glibc returns large ones to the kernel, and the
  next step faults every page in again and clears it. One arena, no mmap, no trimming and growth by 256 MiB end
  that; in exchange the process keeps its peak. An allocator set up through the environment is left alone.

  It works fully only before jax starts its threads, each of which takes to an arena of its own.
  """
  chosen = any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ)
  if not sys.platform.startswith('linux') or chosen:
    return False
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None:
    return False
  trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # names of <malloc.h>
  settings = ((arena_max, 1), (mmap_max, 0), (trim_threshold, -1), (top_pad, 256 << 20))
  done = [mallopt(name, value) for name, value in settings]
  return all(done)
