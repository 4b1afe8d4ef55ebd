"""ops.positions against slow loops, scipy, and values that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage

from vitjax.errors import CheckpointError, ConfigError
from vitjax.ops.positions import (
  axis_weights,
  num_relative_keys,
  relative_index,
  resample_positions,
  sincos_2d,
)

METHODS = ('zoom', 'bilinear', 'bicubic')


def random_table(grid, num_prefix=0, d=3, seed=0):
  return np.random.default_rng(seed).normal(size=(1, num_prefix + grid[0] * grid[1], d)).astype(np.float32)


def test_sincos_matches_the_formula_cell_by_cell():
  h, w, d = 2, 3, 12
  table = sincos_2d(h, w, d)
  assert table.shape == (6, 12)
  assert table.dtype == np.float32
  for y in range(h):
    for x in range(w):
      expected = []
      for wave, place in ((math.sin, x), (math.cos, x), (math.sin, y), (math.cos, y)):
        expected += [wave(place / 1e4 ** (i / 2)) for i in range(3)]
      np.testing.assert_allclose(table[y * w + x], expected, atol=1e-6)


def test_sincos_smallest_width_and_a_wrong_one():
  np.testing.assert_allclose(sincos_2d(1, 2, 4)[1], [math.sin(1), math.cos(1), 0, 1], atol=1e-7)
  with pytest.raises(ConfigError, match='multiple of 4'):
    sincos_2d(2, 2, 6)


def test_relative_index_by_cases():
  num_patches, p = 4, 2
  index = relative_index(num_patches, p)
  assert index.shape == (6, 6)
  assert index.dtype == np.int32
  for query in range(6):
    for key in range(6):
      if key < p:
        expected = 7 + key
      elif query < p:
        expected = 7 + p + query
      else:
        expected = (query - key) + 3
      assert index[query, key] == expected
  assert set(index.ravel()) == set(range(num_relative_keys(num_patches, p)))


@pytest.mark.parametrize('method', METHODS)
def test_same_grid_is_a_bit_identical_copy(method):
  table = random_table((3, 5), num_prefix=1).astype(np.float16)
  out = resample_positions(table, old_grid=(3, 5), new_grid=(3, 5), num_prefix=1, method=method)
  assert out is not table
  assert out.dtype == table.dtype
  assert out.tobytes() == table.tobytes()


@pytest.mark.parametrize(
  ('old', 'new'),
  [((14, 14), (24, 24)), ((24, 24), (14, 14)), ((7, 7), (12, 5)), ((3, 5), (1, 8)), ((1, 4), (3, 2))],
)
def test_zoom_is_scipys(old, new):
  table = random_table(old, num_prefix=1, d=4)
  out = resample_positions(table, old_grid=old, new_grid=new, num_prefix=1, method='zoom')
  grid = table[0, 1:].reshape(*old, 4).astype(np.float64)
  expected = scipy.ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1, mode='nearest')
  assert out.dtype == np.float32
  assert expected.shape == (*new, 4)
  assert out[:, :1].tobytes() == table[:, :1].tobytes()
  np.testing.assert_allclose(out[0, 1:], expected.reshape(-1, 4), atol=1e-6)


def slow_resize(grid, new, method):
  """Half-pixel resize of [h, w], one output cell and one tap at a time."""

  def taps(target, old_size, new_size):
    place = (target + 0.5) * old_size / new_size - 0.5
    if method == 'bilinear':
      place = max(place, 0.0)
      low = min(int(place), old_size - 1)
      t = min(place - low, 1.0)
      return [(low, 1 - t), (min(low + 1, old_size - 1), t)]
    low = math.floor(place)
    t, a, found = place - low, -0.75, []
    for step in (-1, 0, 1, 2):
      x = abs(t - step)
      near = (a + 2) * x**3 - (a + 3) * x**2 + 1
      far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
      found.append((min(max(low + step, 0), old_size - 1), near if x < 1 else far))
    return found

  out = np.zeros(new)
  for i in range(new[0]):
    for j in range(new[1]):
      for row, row_weight in taps(i, grid.shape[0], new[0]):
        for column, column_weight in taps(j, grid.shape[1], new[1]):
          out[i, j] += row_weight * column_weight * grid[row, column]
  return out


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(('old', 'new'), [((4, 4), (7, 7)), ((6, 3), (2, 5)), ((1, 2), (3, 3))])
def test_half_pixel_methods_match_slow_loops(method, old, new):
  table = random_table(old, d=2)
  out = resample_positions(table, old_grid=old, new_grid=new, num_prefix=0, method=method)
  for channel in range(2):
    expected = slow_resize(table[0, :, channel].reshape(old).astype(np.float64), new, method)
    np.testing.assert_allclose(out[0, :, channel].reshape(new), expected, atol=1e-6)


def test_values_by_hand():
  table = np.array([1.0, 2.0, 3.0, 4.0], np.float32).reshape(1, 4, 1)
  bilinear = resample_positions(table, old_grid=(2, 2), new_grid=(4, 4), num_prefix=0, method='bilinear')
  # The example of torch.nn.Upsample(scale_factor=2, mode='bilinear').
  expected = [[1, 1.25, 1.75, 2], [1.5, 1.75, 2.25, 2.5], [2.5, 2.75, 3.25, 3.5], [3, 3.25, 3.75, 4]]
  np.testing.assert_allclose(bilinear.reshape(4, 4), expected)
  zoom = resample_positions(table, old_grid=(2, 2), new_grid=(3, 3), num_prefix=0, method='zoom')
  np.testing.assert_allclose(zoom.reshape(3, 3), [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]])
  # Halving an axis puts each new cell half-way between two old ones: the kernel at t = 1/2 for a = -0.75.
  np.testing.assert_allclose(axis_weights(8, 4, 'bicubic')[1, 1:5], [-0.09375, 0.59375, 0.59375, -0.09375])


@pytest.mark.parametrize('method', METHODS)
def test_weights_sum_to_one(method):
  for old, new in ((1, 5), (5, 1), (14, 24), (24, 14), (37, 16)):
    np.testing.assert_allclose(axis_weights(old, new, method).sum(axis=1), 1, atol=1e-12)


def test_methods_differ():
  outs = [
    resample_positions(random_table((4, 4)), old_grid=(4, 4), new_grid=(6, 6), num_prefix=0, method=m)
    for m in METHODS
  ]
  assert not np.allclose(outs[0], outs[1], atol=1e-2)
  assert not np.allclose(outs[1], outs[2], atol=1e-2)


def test_errors_name_what_is_wrong():
  with pytest.raises(CheckpointError, match=r'shape \(1, 17, 3\).*\(1, 16, d\)'):
    resample_positions(random_table((4, 4), 1), old_grid=(4, 4), new_grid=(6, 6), num_prefix=0)
  with pytest.raises(ConfigError, match='zoom, bilinear, bicubic'):
    resample_positions(random_table((4, 4)), old_grid=(4, 4), new_grid=(6, 6), num_prefix=0, method='cubic')
