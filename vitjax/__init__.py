"""vitjax: pretrain Vision Transformers at pod scale in JAX/Flax, and transfer them.

Public names, imported on first use so that `import vitjax` and `vitjax --help` stay instant:

  load(path)                 any checkpoint as a model that predicts; see vitjax.loading
  export(loaded, path, ...)  a model as official .npz, timm or Hugging Face files; see vitjax.exporting
  create_model("B/16", ...)  a Linen module of the size table; see vitjax.models
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = '0.1.0'
__all__ = ['__version__', 'create_model', 'export', 'load']

_HOMES = {'load': 'vitjax.loading', 'export': 'vitjax.exporting', 'create_model': 'vitjax.models'}


def __getattr__(name: str) -> Any:
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}; public names: {", ".join(__all__)}')
  return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
  return sorted(__all__)
