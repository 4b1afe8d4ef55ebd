"""Layouts of arrays: each form computes the same layer in both, and is its own inverse bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from vitjax import trees
from vitjax.errors import CheckpointError
from vitjax.weights.entries import BFLOAT16, Entry
from vitjax.weights.links import (
  CONV,
  DENSE,
  HALF_DENSE,
  HEADS,
  HEADS_BIAS,
  OUT,
  ROWS,
  SAME,
  WITHOUT_CLASS_ROW,
  Form,
  Link,
  dense,
  fused,
  load_links,
  save_links,
)

RNG = np.random.default_rng(0)
FORMS: dict[str, tuple[Form, list[tuple[int, ...]]]] = {
  'same': (SAME, [(1, 5, 6)]),
  'dense': (DENSE, [(6, 4)]),
  'heads': (HEADS, [(6, 2, 3)]),
  'heads bias': (HEADS_BIAS, [(2, 3)]),
  'out': (OUT, [(2, 3, 6)]),
  'conv': (CONV, [(4, 5, 3, 6)]),
  'rows': (ROWS, [(1, 5, 6)]),
  'qkv': (fused(HEADS), [(6, 2, 3)] * 3),
  'qkv bias': (fused(HEADS_BIAS), [(2, 3)] * 3),
  'kv': (fused(HEADS), [(6, 2, 3)] * 2),
}


def draw(shape, dtype=np.float32):
  return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize('dtype', [np.float32, BFLOAT16])
@pytest.mark.parametrize('name', FORMS)
def test_forms_are_inverse(name, dtype):
  form, shapes = FORMS[name]
  parameters = [draw(shape, dtype) for shape in shapes]
  stored = form.save(*parameters)
  assert stored.shape == form.stored(*shapes)
  again = form.load(stored, shapes)
  for found, expected in zip(again, parameters, strict=True):
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_linear_layers_compute_the_same():
  x = draw((6,))
  kernel = draw((6, 2, 3))
  np.testing.assert_allclose(HEADS.save(kernel) @ x, np.einsum('d,dke->ke', x, kernel).ravel(), rtol=1e-5)
  kernel = draw((2, 3, 6))
  np.testing.assert_allclose(OUT.save(kernel) @ x, np.einsum('ke,ked->d', x.reshape(2, 3), kernel), rtol=1e-5)
  kernel = draw((6, 4))
  np.testing.assert_allclose(DENSE.save(kernel) @ x, x @ kernel, rtol=1e-5)


def test_query_key_value_stand_in_this_order():
  query, key, value = (np.full((6, 2, 3), number, np.float32) for number in (1, 2, 3))
  stored = fused(HEADS).save(query, key, value)
  assert stored.shape == (18, 6)
  assert stored[:, 0].tolist() == [1] * 6 + [2] * 6 + [3] * 6


def test_convolutions_are_oihw_there():
  kernel = draw((4, 5, 3, 6))
  assert CONV.save(kernel)[5, 2, 3, 4] == kernel[3, 4, 2, 5]


def test_the_class_row_is_zero_where_the_file_has_none():
  (table,) = WITHOUT_CLASS_ROW.load(draw((1, 4, 6)), [(1, 5, 6)])
  assert table.shape == (1, 5, 6)
  assert not table[0, 0].any()
  assert WITHOUT_CLASS_ROW.save(table).tobytes() == table[:, 1:].tobytes()


def test_the_mean_half_of_a_head_is_zero():
  kernel = draw((6, 4))
  stored = HALF_DENSE.save(kernel)
  assert stored.shape == HALF_DENSE.stored((6, 4)) == (4, 12)
  assert not stored[:, 6:].any()
  assert HALF_DENSE.load(stored, [(6, 4)])[0].tobytes() == kernel.tobytes()


def entry(array):
  return Entry(array.shape, array.dtype, array.copy)


LINKS = [*dense('fc', 'Dense_0'), Link('token', ('cls',))]
SHAPES = {'Dense_0/kernel': (6, 4), 'Dense_0/bias': (4,), 'cls': (1, 1, 6)}


def stored(dtype=np.float32):
  return {'fc.weight': draw((4, 6), dtype), 'fc.bias': draw((4,), dtype), 'token': draw((1, 1, 6), dtype)}


def test_load_and_save():
  arrays = stored()
  entries = {name: entry(array) for name, array in arrays.items()}
  params, dtype, rows = load_links('f', entries, LINKS, SHAPES)
  assert dtype == 'float32'
  assert [row.action for row in rows] == ['loaded'] * 3
  assert all(leaf.flags.c_contiguous for leaf in trees.flatten(params).values())
  again = save_links(LINKS, trees.flatten(params))
  assert {name: array.tobytes() for name, array in again.items()} == {
    name: array.tobytes() for name, array in arrays.items()
  }


def test_dtypes():
  entries = {name: entry(array) for name, array in stored(BFLOAT16).items()}
  params, dtype, _ = load_links('f', entries, LINKS, SHAPES)
  assert dtype == 'bfloat16'
  assert {leaf.dtype for leaf in trees.flatten(params).values()} == {BFLOAT16}
  entries['token'] = entry(draw((1, 1, 6), np.float16))
  params, dtype, rows = load_links('f', entries, LINKS, SHAPES)
  assert dtype == 'float32'
  assert {leaf.dtype for leaf in trees.flatten(params).values()} == {np.dtype(np.float32)}
  assert {row.key: row.note for row in rows} == {
    'fc.weight': 'bfloat16 cast to float32',
    'fc.bias': 'bfloat16 cast to float32',
    'token': 'float16 cast to float32',
  }


def test_everything_that_does_not_fit_is_listed_and_nothing_is_read():
  def never():
    raise AssertionError('read before everything fits')

  entries = {
    'fc.weight': Entry((4, 7), np.dtype(np.float32), never),
    'token': Entry((1, 1, 6), np.dtype(np.int64), never),
    'more': Entry((3,), np.dtype(np.float32), never),
    'text': Entry((3,), np.dtype(np.float32), never),
  }
  with pytest.raises(CheckpointError) as caught:
    load_links('f', entries, LINKS, SHAPES, lambda key: 'not needed' if key == 'text' else '')
  assert [problem.where for problem in caught.value.problems] == ['fc.weight', 'fc.bias', 'token', 'more']
