"""Loop form <-> scanned form of the encoder's parameters."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from vitjax import trees
from vitjax.errors import CheckpointError
from vitjax.models import create_model, stack_blocks, unstack_blocks


def blocks(count=12):
  flat = {f'Transformer/encoderblock_{i}/norm/scale': np.full((3,), i, np.float32) for i in range(count)}
  return {'params': trees.unflatten({'cls': np.ones((1, 1, 3)), **flat})}


def test_blocks_stack_in_numerical_order_and_come_back():
  params = blocks()
  stacked = stack_blocks(params)
  scale = stacked['params']['Transformer']['encoderblock']['norm']['scale']
  assert isinstance(scale, np.ndarray)
  assert scale.dtype == np.float32
  np.testing.assert_array_equal(scale[:, 0], np.arange(12))
  assert list(stacked['params']['Transformer']) == ['encoderblock']
  back = trees.flatten(unstack_blocks(stacked))
  expected = trees.flatten(params)
  assert set(back) == set(expected)
  for path, leaf in expected.items():
    np.testing.assert_array_equal(back[path], leaf)


def test_abstract_trees_match_the_scanned_model(param_shapes):
  sizes = {'num_classes': 3, 'width': 8, 'num_heads': 2, 'mlp_dim': 8, 'depth': 11, 'position': 'relative'}
  loop = param_shapes(create_model('B/16', **sizes), (1, 32, 32, 3))
  scan = param_shapes(create_model('B/16', **sizes, layers='scan'), (1, 32, 32, 3))
  assert trees.flatten(stack_blocks(loop)) == trees.flatten(scan)
  assert trees.flatten(unstack_blocks(scan)) == trees.flatten(loop)


def test_other_forms_come_back_as_they_are():
  stacked = stack_blocks(blocks(2))
  assert jax.tree.structure(stack_blocks(stacked)) == jax.tree.structure(stacked)
  assert unstack_blocks({'head': {'kernel': 1.0}}) == {'head': {'kernel': 1.0}}


def test_uneven_blocks_are_named():
  missing = blocks(4)
  del missing['params']['Transformer']['encoderblock_2']
  with pytest.raises(
    CheckpointError, match=r'encoderblock_\*/norm/scale = missing in \[2\]: expected blocks 0 to 3'
  ):
    stack_blocks(missing)
  uneven = blocks(3)
  uneven['params']['Transformer']['encoderblock_1']['norm']['scale'] = np.ones((4,), np.float32)
  with pytest.raises(CheckpointError, match='one shape and dtype'):
    stack_blocks(uneven)
  lengths = {'encoderblock': {'a': np.ones((2, 3)), 'b': np.ones((3, 3))}}
  with pytest.raises(CheckpointError, match='encoderblock/b = 3 blocks: expected 2'):
    unstack_blocks(lengths)
