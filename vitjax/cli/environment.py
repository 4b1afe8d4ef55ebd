"""Process settings that commands make before jax is imported."""

from __future__ import annotations

import logging
import os
import pathlib
import warnings

from vitjax.config.memory import computes_on_cpu, keep_freed_memory


def prepare() -> None:
  """Sets up logging, the persistent compilation cache and, where the CPU computes, the allocator.

  What the user has set is left alone.

  To be called before jax is imported: jax reads these variables at import.
  """
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(pathlib.Path.home() / '.cache' / 'vitjax' / 'jax'))
  os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.5')
  if computes_on_cpu():
    keep_freed_memory()
  logging.basicConfig(format='%(message)s')
  logging.getLogger('vitjax').setLevel(logging.INFO)
  # Orbax and absl report every internal step at INFO and warn of choices made on purpose in checkpoint/.
  logging.getLogger('absl').setLevel(logging.ERROR)
  warnings.filterwarnings('ignore', category=UserWarning, module='orbax')
