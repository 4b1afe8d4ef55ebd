"""Position similarity and structure against loops and tables with known structure."""

import itertools
import math

import numpy as np
import pytest
from tiny_loaded import RESNET, tiny_loaded

from vitjax import analysis
from vitjax.ops.positions import sincos_2d


def test_similarity_is_the_cosine():
  table = np.random.default_rng(0).normal(size=(2, 3, 5))
  table[1, 2] = 0
  found = analysis.position_similarity(table)
  for y, x, v, u in itertools.product(range(2), range(3), range(2), range(3)):
    a, b = table[y, x], table[v, u]
    product = sum(a[i] * b[i] for i in range(5))
    lengths = math.sqrt(sum(t * t for t in a)) * math.sqrt(sum(t * t for t in b))
    assert found[y, x, v, u] == pytest.approx(product / lengths if lengths else 0)


def slow_structure(table):
  h, w, d = table.shape
  mean = sum(table[y, x] for y in range(h) for x in range(w)) / (h * w)
  total = rows = columns = 0.0
  for y, x, i in itertools.product(range(h), range(w), range(d)):
    row = sum(table[y, u, i] for u in range(w)) / w
    column = sum(table[v, x, i] for v in range(h)) / h
    total += (table[y, x, i] - mean[i]) ** 2
    rows += (row - mean[i]) ** 2
    columns += (column - mean[i]) ** 2
  return rows / total, columns / total


def test_structure_is_the_definition():
  table = np.random.default_rng(1).normal(size=(3, 4, 5))
  found = analysis.position_structure(table)
  np.testing.assert_allclose((found.rows, found.columns), slow_structure(table))
  assert found.rows + found.columns + found.rest == pytest.approx(1)


def test_additive_tables_have_no_rest_and_random_ones_meet_chance():
  assert analysis.position_structure(sincos_2d(5, 6, 16).reshape(5, 6, 16)).rest == pytest.approx(0, abs=1e-6)
  rows_only = np.broadcast_to(np.random.default_rng(0).normal(size=(4, 1, 8)), (4, 5, 8))
  assert analysis.position_structure(rows_only).rows == pytest.approx(1)
  random = analysis.position_structure(np.random.default_rng(0).normal(size=(6, 7, 4000)))
  assert random.rows + random.columns == pytest.approx(random.chance, rel=0.02)
  assert analysis.position_structure(np.ones((3, 3, 2))).rest == 0


def test_tables_of_every_kind_are_found():
  learned = tiny_loaded(num_registers=1)
  table = np.asarray(learned.params['Transformer']['posembed_input']['pos_embedding'])
  np.testing.assert_array_equal(analysis.position_tables(learned)['stem'].reshape(16, 16), table[0, 1:])
  split = analysis.position_tables(tiny_loaded(position='learned_2d', size=(8, 16)))['stem']
  assert split.shape == (2, 4, 16)
  assert analysis.position_structure(split).rest == pytest.approx(0, abs=1e-6)
  blocks = analysis.position_tables(tiny_loaded(position_at='every_layer', layers='scan', depth=3))
  assert list(blocks) == ['block 1', 'block 2', 'block 3']
  assert list(analysis.position_tables(tiny_loaded(position_at='every_layer_shared'))) == ['every block']
  fixed = analysis.position_tables(tiny_loaded(position='sincos_2d'))['stem']
  np.testing.assert_array_equal(fixed.reshape(16, 16), sincos_2d(4, 4, 16))
  for none in (tiny_loaded(position='none'), tiny_loaded(position='relative'), tiny_loaded(RESNET)):
    assert analysis.position_tables(none) == {}


def test_resampling_keeps_corners():
  table = np.random.default_rng(0).normal(size=(3, 3, 4)).astype(np.float32)
  larger = analysis.resampled(table, (5, 7))
  assert larger.shape == (5, 7, 4)
  np.testing.assert_allclose(larger[-1, -1], table[-1, -1], rtol=1e-6)
