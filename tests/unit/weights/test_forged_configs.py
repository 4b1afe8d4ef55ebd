"""config.json, preprocessor_config.json and shapes from strangers: a model or a CheckpointError, nothing else."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch_likes import NAMES, PREPROCESS, SIZE, random_params, tiny

from vitjax.errors import CheckpointError
from vitjax.weights import huggingface, timm
from vitjax.weights.entries import Entry
from vitjax.weights.imported import expected_shapes

JUNK = (None, [], {}, [1, 2, 3], {'a': []}, '', 'x', -1, 0, 10**30, 1e308, math.nan, math.inf, True, False)
MODELS = {
  'timm': (timm, tiny(num_registers=2, layer_scale_init=0.1)),
  'ViT': (huggingface, tiny(num_registers=1)),
  'DINOv2': (huggingface, tiny(num_registers=2, layer_scale_init=0.1)),
  'SigLIP': (huggingface, tiny(pool='gap')),
}


CACHED_SHAPES = functools.cache(expected_shapes)  # the same few models, thousands of times


def entries_of(arrays):
  return {key: Entry(array.shape, array.dtype, array.copy) for key, array in arrays.items()}


def paths(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
  """Yields the path of every node of a JSON tree but the root."""
  children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
  for key, value in children:
    yield (*path, key)
    yield from paths(value, (*path, key))


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
  """Returns a copy of a JSON tree with another value at a path."""
  result = node = copy.deepcopy(tree)
  for key in path[:-1]:
    node = node[key]
  node[path[-1]] = value
  return result


@pytest.fixture(params=MODELS)
def forged(request, monkeypatch):
  """Returns (module, entries, config, preprocessor) of one kind."""
  module, model = MODELS[request.param]
  monkeypatch.setattr(module, 'expected_shapes', CACHED_SHAPES)
  export = module.export(random_params(model), model, 3, SIZE, PREPROCESS, NAMES)
  return module, entries_of(export.arrays), export.config, export.preprocessor


def outcome(module, *args, **kwargs):
  """Returns whether a model came out of it; any error but CheckpointError fails the test."""
  try:
    module.load('f', *args, **kwargs)
  except CheckpointError as error:
    return not error.problems
  return True


def test_any_value_anywhere_in_config_json(forged):
  module, entries, config, preprocessor = forged
  options = {} if module is timm else {'preprocessor': preprocessor}
  assert outcome(module, entries, config, **options)
  good = sum(
    outcome(module, entries, replaced(config, path, value), **options)
    for path in paths(config)
    for value in JUNK
  )
  assert good > 0


def test_any_value_anywhere_in_preprocessor_config(forged):
  module, entries, config, preprocessor = forged
  if preprocessor is None:
    pytest.skip('timm has no such file')
  for path in paths(preprocessor):
    for value in JUNK:
      outcome(module, entries, config, preprocessor=replaced(preprocessor, path, value))


def test_any_shape_of_any_array(forged):
  module, entries, config, _ = forged
  for key in (key for key in entries if not key.endswith('mask_token')):  # which is not needed
    for shape in ((), (0,), (1,), (1, 1), (2, 3, 4), (0, 0, 0, 0), (1, 1, 1, 1, 1), (2**40, 2**40)):
      entry = Entry(shape, np.dtype(np.float32), lambda: pytest.fail('read before everything fits'))
      if shape != entries[key].shape:
        assert not outcome(module, entries | {key: entry}, config), (key, shape)
    assert not outcome(module, {name: entry for name, entry in entries.items() if name != key}, config), key
