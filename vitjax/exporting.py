"""Loaded models as files of other frameworks: `vitjax.export(loaded, path, format='timm')`."""

from __future__ import annotations

import dataclasses
import importlib
import os
import pathlib

import vitjax
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded
from vitjax.trees import num_params
from vitjax.weights.archives import write_npz
from vitjax.weights.files import write_json, write_safetensors
from vitjax.weights.imported import Exported

FORMATS = ('npz', 'timm', 'huggingface')
_MAX_CLASSES_LISTED = 20


def export(loaded: Loaded, path: str | os.PathLike[str], format: str = 'npz') -> tuple[str, ...]:
  """Writes a model for another framework, with its preprocessing, labels and a model card. Host-side.

  'npz' writes the file PATH in the official layout (BiT's own for a ResNet), with PATH.md beside it. 'timm' and
  'huggingface' write the folder PATH: model.safetensors, config.json, README.md (and preprocessor_config.json),
  which `timm.create_model('local-dir:PATH', pretrained=True)` and transformers' `from_pretrained(PATH)` load.

  Args:
    loaded: from `vitjax.load`.
    path: a new file ending in .npz, or a new folder.
    format: 'npz', 'timm' or 'huggingface'.

  Returns:
    What the format has no place for, one sentence each.

  Raises:
    ConfigError: an unknown format, or a path that exists or has the wrong ending.
    CheckpointError: a knob of this model that the format cannot express, all of them.
  """
  target = pathlib.Path(path)
  _check(target, format)
  module = 'bit' if loaded.config.variant.startswith('R') and '+' not in loaded.config.variant else 'npz'
  module = module if format == 'npz' else format
  exported: Exported = importlib.import_module(f'vitjax.weights.{module}').export(
    loaded.params,
    loaded.config,
    loaded.num_classes,
    loaded.preprocess.image_size,
    loaded.preprocess,
    loaded.class_names or None,
  )
  if loaded.preprocess.native is not None:
    size = 'x'.join(map(str, loaded.preprocess.image_size))
    sentence = (
      f'images at their own aspect ratio: trained on such, the file says that images are resized to {size}'
    )
    exported = dataclasses.replace(exported, lost=(*exported.lost, sentence))
  card = _model_card(loaded, exported, format, target.name)
  if format == 'npz':
    target.parent.mkdir(parents=True, exist_ok=True)
    write_npz(target, exported.arrays)
    target.with_suffix('.npz.md').write_text(card, encoding='utf-8')
    return exported.lost
  target.mkdir(parents=True)
  write_safetensors(target / 'model.safetensors', exported.arrays, exported.metadata)
  if exported.config is not None:
    write_json(target / 'config.json', exported.config)
  if exported.preprocessor is not None:
    write_json(target / 'preprocessor_config.json', exported.preprocessor)
  (target / 'README.md').write_text(card, encoding='utf-8')
  return exported.lost


def _check(target: pathlib.Path, format: str) -> None:
  """Raises ConfigError for a format or a path that cannot be served, both at once."""
  problems = []
  if format not in FORMATS:
    problems.append(Problem('format', repr(format), f'one of {", ".join(FORMATS)}'))
  if format == 'npz' and target.suffix != '.npz':
    problems.append(Problem('path', str(target), 'a file name that ends in .npz'))
  if target.exists():
    problems.append(Problem('path', str(target), 'a name that is free', 'Nothing is ever overwritten'))
  if problems:
    raise ConfigError('cannot export like this', problems)


_USE = {
  'npz': "import vitjax\n\nmodel = vitjax.load('{name}')\nlogits = model.predict(['image.jpg'])",
  'timm': "import timm\n\nmodel = timm.create_model('local-dir:{name}', pretrained=True).eval()",
  'huggingface': (
    'from transformers import AutoImageProcessor, AutoModelForImageClassification\n\n'
    "processor = AutoImageProcessor.from_pretrained('{name}')\n"
    "model = AutoModelForImageClassification.from_pretrained('{name}')"
  ),
}


def _model_card(loaded: Loaded, exported: Exported, format: str, name: str) -> str:
  """Returns the model card: what it is, how images are prepared, how to use it, what was lost."""
  p = loaded.preprocess
  resize = f'resize to {p.image_size[0]}x{p.image_size[1]}'
  if p.resize_short is not None:
    resize = (
      f'resize the short side to {p.resize_short}, take the central {p.image_size[0]}x{p.image_size[1]}'
    )
  size = f'{num_params(loaded.params):,} parameters'
  facts = [
    f'- architecture: {loaded.config.variant}, {size}, `{loaded.config.pool}` pooling',
    f'- input: RGB, {resize} ({p.interpolation}), pixels in [0, 1], mean {p.mean}, std {p.std}',
    f'- outputs: {_classes(loaded)}',
    f'- written by vitjax {vitjax.__version__} from: {loaded.format}',
  ]
  if loaded.recipe is not None:
    source, total = loaded.recipe.data.source, loaded.recipe.total
    facts.append(f'- trained on: {source.name or source.path or source.kind} ({source.split}), {total}')
  lines = [
    f'# {loaded.config.variant} ({format})',
    '',
    *facts,
    '',
    '## Use',
    '',
    '```python',
    _USE[format].format(name=name),
    '```',
  ]
  if exported.lost:
    lines += ['', '## Not in this file', '', *(f'- {sentence}' for sentence in exported.lost)]
  return '\n'.join(lines) + '\n'


def _classes(loaded: Loaded) -> str:
  if loaded.num_classes == 0:
    return 'features, no head'
  listed = ', '.join(loaded.class_names[:_MAX_CLASSES_LISTED])
  more = ' ...' if loaded.num_classes > _MAX_CLASSES_LISTED else ''
  return f'{loaded.num_classes} classes: {listed}{more}'
