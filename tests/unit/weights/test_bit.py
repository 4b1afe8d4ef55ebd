"""BiT ResNets: TensorFlow dumps and big_vision trees, recognised, loaded and written back bit-equal."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import official_files
import pytest

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError
from vitjax.models import build_model
from vitjax.weights import bit, read_weights
from vitjax.weights.files import Entry, write_npz
from vitjax.weights.imported import expected_shapes

R50 = ModelConfig(variant='R50x1')
SIZE = (224, 224)


def entries_of(shapes, seed=None):
  """Returns entries of random numbers, or of zeros that take no memory."""

  def read(name, shape):
    if seed is None:
      return np.broadcast_to(np.float32(0), shape)
    return np.random.default_rng([seed, len(name), *map(ord, name)]).normal(size=shape).astype(np.float32)

  return {
    name: Entry(shape, np.dtype(np.float32), lambda name=name, shape=shape: read(name, shape))
    for name, shape in shapes.items()
  }


UNITS = {'R50': (3, 4, 6, 3), 'R101': (3, 4, 23, 3), 'R152': (3, 8, 36, 3)}


@pytest.mark.parametrize('variant', ['R50x1', 'R50x3', 'R101x1', 'R101x3', 'R152x2', 'R152x4'])
def test_the_size_table_is_recognised(variant):
  units, multiple = variant.split('x')
  shapes = official_files.bit_shapes(UNITS[units], 64 * int(multiple), 21_843)
  assert bit.recognises(shapes)
  found = bit.load('a.npz', entries_of(shapes))
  assert (found.format, found.model, found.num_classes) == ('bit_npz', ModelConfig(variant=variant), 21_843)
  assert found.preprocess == Preprocess(SIZE)
  assert any('224x224' in sentence for sentence in found.assumed)


def test_every_array_of_a_dump_lands_in_its_place():
  """The pre-activation unit: a's norm comes first (gn1), then a's kernel (conv1), and so on."""
  entries = entries_of(official_files.bit_shapes(UNITS['R50'], 64, 5), seed=1)
  params = bit.load('a.npz', entries).params
  unit = params['block2']['unit01']
  pairs = [
    ('root_block/standardized_conv2d/kernel', params['root_block']['conv_root']['kernel']),
    ('block2/unit01/a/group_norm/gamma', unit['gn1']['scale']),
    ('block2/unit01/a/group_norm/beta', unit['gn1']['bias']),
    ('block2/unit01/a/standardized_conv2d/kernel', unit['conv1']['kernel']),
    ('block2/unit01/b/group_norm/gamma', unit['gn2']['scale']),
    ('block2/unit01/b/standardized_conv2d/kernel', unit['conv2']['kernel']),
    ('block2/unit01/c/group_norm/beta', unit['gn3']['bias']),
    ('block2/unit01/c/standardized_conv2d/kernel', unit['conv3']['kernel']),
    ('block2/unit01/a/proj/standardized_conv2d/kernel', unit['conv_proj']['kernel']),
    ('group_norm/gamma', params['norm-pre-head']['scale']),
    ('group_norm/beta', params['norm-pre-head']['bias']),
    ('head/conv2d/bias', params['head']['bias']),
  ]
  for name, array in pairs:
    np.testing.assert_array_equal(array, entries[f'resnet/{name}'].read(), err_msg=name)
  np.testing.assert_array_equal(params['head']['kernel'], entries['resnet/head/conv2d/kernel'].read()[0, 0])


def test_a_dump_goes_back_bit_equal(tmp_path):
  shapes = official_files.bit_shapes(UNITS['R50'], 64, 5)
  arrays = {name: entry.read() for name, entry in entries_of(shapes, seed=2).items()}
  np.savez(tmp_path / 'a.npz', **arrays)
  found = read_weights(tmp_path / 'a.npz')
  out = bit.export(found.params, found.model, 5, SIZE, found.preprocess)
  assert sorted(out.arrays) == sorted(arrays)
  assert all(np.array_equal(out.arrays[name], arrays[name]) for name in arrays)
  assert out.lost == ('the image size, 224x224',)


@pytest.mark.parametrize('form', ['dense', 'conv_head', 'bfloat16'])
def test_big_vision_forms(form, tmp_path):
  rng = np.random.default_rng(3)
  shapes = expected_shapes(R50, num_classes=5, image_size=SIZE)
  flat = {path: rng.random(shape, np.float32) for path, shape in shapes.items()}
  file = {f'params/{path}': array for path, array in flat.items()}
  if form == 'conv_head':
    file = {
      path.replace('/head/', '/conv_head/'): array[None, None, None]
      if 'gn' in path or 'norm-' in path
      else array
      for path, array in file.items()
    }
    file['params/conv_head/kernel'] = file['params/conv_head/kernel'][None, None]
  if form == 'bfloat16':
    flat = {path: array.astype(ml_dtypes.bfloat16) for path, array in flat.items()}
    file = {f'params/{path}': array.view('V2') for path, array in flat.items()}
  np.savez(tmp_path / 'a.npz', **file)
  found = read_weights(tmp_path / 'a.npz')
  assert found.model == dataclasses.replace(R50, param_dtype='bfloat16' if form == 'bfloat16' else 'float32')
  loaded = trees.flatten(found.params)
  assert sorted(loaded) == sorted(flat)
  assert all(np.array_equal(loaded[path], flat[path]) for path in flat)
  if form != 'conv_head':
    out = bit.export(found.params, found.model, 5, SIZE, found.preprocess, layout='big_vision').arrays
    write_npz(tmp_path / 'b.npz', out)
    with np.load(tmp_path / 'b.npz') as after:
      assert sorted(after) == sorted(file)
      assert all(after[name].tobytes() == file[name].tobytes() for name in file)


def test_a_loaded_model_runs():
  shapes = official_files.bit_shapes(UNITS['R50'], 64, 5)
  found = bit.load('a.npz', entries_of(shapes))
  module = build_model(found.model, num_classes=found.num_classes)
  images = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
  logits = jax.eval_shape(lambda p, x: module.apply({'params': p}, x), found.params, images)
  assert logits.shape == (1, 5)


@pytest.mark.parametrize(
  ('units', 'width', 'message'),
  [((1, 1, 1, 1), 64, r'residual units \(1, 1, 1, 1\) per stage'), ((3, 4, 6, 3), 80, 'a multiple of 64')],
)
def test_other_resnets_are_refused(units, width, message):
  with pytest.raises(CheckpointError, match=message):
    bit.load('a.npz', entries_of(official_files.bit_shapes(units, width, 5)))


def test_all_that_does_not_fit_is_listed():
  shapes = official_files.bit_shapes(UNITS['R50'], 64, 5)
  del shapes['resnet/block1/unit02/b/group_norm/gamma']
  shapes['resnet/group_norm/beta'] = (2047,)
  shapes['resnet/extra'] = (1,)
  with pytest.raises(CheckpointError) as caught:
    bit.load('a.npz', entries_of(shapes))
  places = [problem.where for problem in caught.value.problems]
  assert sorted(places) == [
    'block1/unit02/gn2/scale', 'resnet/extra', 'resnet/group_norm/beta (norm-pre-head/bias)'
  ]  # fmt: skip


@pytest.mark.parametrize(('variant', 'where'), [('R-tiny', 'model.variant'), ('B/16', 'model.variant')])
def test_export_refuses_other_networks(variant, where):
  with pytest.raises(CheckpointError, match=where):
    bit.export({}, ModelConfig(variant=variant), 5, SIZE, Preprocess(SIZE))


def test_arguments_of_transformers_are_refused(tmp_path):
  shapes = official_files.bit_shapes(UNITS['R50'], 64, 1)
  write_npz(tmp_path / 'a.npz', {name: np.zeros((0,), np.float32) for name in shapes})
  with pytest.raises(CheckpointError, match='a ResNet has no position table'):
    read_weights(tmp_path / 'a.npz', grid=(7, 7))
