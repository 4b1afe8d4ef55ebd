"""Positions of each image's grid against the resize of a whole table, and padding that does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.naflex import NativePatches
from vitjax.data.naflex import resize_and_cut
from vitjax.ops.attention import attend
from vitjax.ops.naflex import Places, masked_mean, model_inputs, sample_axes, sample_cells, sample_sincos
from vitjax.ops.normalize import normalize
from vitjax.ops.patches import resize_cells
from vitjax.ops.positions import resample_positions, sincos_2d

GRIDS = [(5, 7), (7, 5), (1, 12), (3, 3), (10, 2), (6, 6), (13, 4)]
LENGTH = 60


def places(grids, length=LENGTH):
  """Returns the places of one image per grid, padded to `length`."""
  found = np.zeros((4, len(grids), length), np.int32)
  for i, (rows, columns) in enumerate(grids):
    filled = rows * columns
    found[0, i, :filled], found[1, i, :filled] = np.divmod(np.arange(filled), columns)
    found[2, i, :filled], found[3, i, :filled] = rows, columns
  return Places(*map(jnp.asarray, found))


@pytest.mark.parametrize('stored', [(5, 7), (4, 4)])
def test_a_table_is_resized_to_each_grid_as_the_model_does_it_for_one(stored):
  table = jnp.asarray(np.random.default_rng(0).normal(size=(1, stored[0] * stored[1], 6)), jnp.float32)
  sampled = jax.jit(lambda t: sample_cells(t, stored, places(GRIDS)))(table)
  assert np.isfinite(sampled).all()
  for row, grid in zip(sampled, GRIDS, strict=True):
    expected = resize_cells(table, stored, grid)[0]
    np.testing.assert_allclose(row[: len(expected)], expected, rtol=1e-5, atol=1e-6)
    if grid[0] >= stored[0] and grid[1] >= stored[1]:  # without antialiasing the same
      transferred = resample_positions(
        np.asarray(table), old_grid=stored, new_grid=grid, num_prefix=0, method='bilinear'
      )
      np.testing.assert_allclose(row[: len(expected)], transferred[0], rtol=1e-5, atol=1e-6)
  if stored in GRIDS:
    np.testing.assert_array_equal(sampled[GRIDS.index(stored)][:35], table[0])


def test_two_tables_are_resized_along_their_axes():
  rng = np.random.default_rng(1)
  x, y = (jnp.asarray(rng.normal(size=(1, size, 3)), jnp.float32) for size in (7, 5))
  sampled = jax.jit(sample_axes)(x, y, places(GRIDS))
  for row, (h, w) in list(zip(sampled, GRIDS, strict=True))[1:3]:
    columns, rows = resize_cells(x, (1, 7), (1, w))[0], resize_cells(y, (1, 5), (1, h))[0]
    expected = [[*columns[j], *rows[i]] for i in range(h) for j in range(w)]
    np.testing.assert_allclose(row[: h * w], np.asarray(expected), rtol=1e-5, atol=1e-6)


def test_sines_are_those_of_the_grid():
  sampled = sample_sincos(places(GRIDS), 16)
  for row, (h, w) in zip(sampled, GRIDS, strict=True):
    np.testing.assert_allclose(row[: h * w], sincos_2d(h, w, 16), atol=1e-5)


def test_table_rows_get_gradients_from_real_patches_alone():
  table = jnp.ones((1, 35, 2))

  def total(table):
    sampled = sample_cells(table, (5, 7), places([(5, 7), (1, 3)]))
    real = places([(5, 7), (1, 3)]).rows > 0
    return jnp.where(real[..., None], sampled, 0).sum()

  gradient = jax.jit(jax.grad(total))(table)
  np.testing.assert_allclose(gradient.sum(), 2 * (35 + 3), rtol=1e-5)
  assert (np.asarray(gradient) >= 1 - 1e-6).all()


def test_raw_patches_become_strips_and_places():
  image = np.random.default_rng(2).integers(0, 256, (8, 16, 3), dtype=np.uint8)
  native = NativePatches(10, 4)
  found = model_inputs(resize_and_cut(image, native, 'bilinear')[None], (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
  expected = normalize(image, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7))
  assert found.strips.shape == (1, 40, 4, 3)
  np.testing.assert_array_equal(found.strips[0, 20:24], expected[4:8, 4:8])
  np.testing.assert_array_equal(found.places.row[0], [0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
  np.testing.assert_array_equal(found.places.column[0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 0])
  assert found.places.lengths().tolist() == [8]
  whole = np.zeros((1, 8, 8, 3), np.uint8)
  np.testing.assert_array_equal(model_inputs(whole, (0.5,) * 3, (0.5,) * 3), -np.ones((1, 8, 8, 3)))


def test_an_image_that_is_all_padding_counts_as_one_patch():
  nothing = places([(0, 0)])
  assert nothing.lengths().tolist() == [1]
  assert np.isfinite(sample_cells(jnp.ones((1, 4, 2)), (2, 2), nothing)).all()


def test_attention_to_padding_is_nothing_in_value_and_gradients():
  rng = np.random.default_rng(3)
  query, key, value, g = (jnp.asarray(rng.normal(size=(3, 9, 2, 4)), jnp.float32) for _ in range(4))
  lengths = jnp.asarray([9, 4, 1])

  @jax.jit
  def with_gradients(g, lengths, *args):
    value, pull = jax.vjp(lambda *args: attend(*args, lengths), *args)
    return value, pull(g)

  ours, gradients = with_gradients(g, lengths, query, key, value)
  for i, count in enumerate(lengths.tolist()):
    short, short_gradients = with_gradients(
      g[i : i + 1], None, query[i : i + 1], key[i : i + 1, :count], value[i : i + 1, :count]
    )
    np.testing.assert_allclose(ours[i], short[0], rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients, short_gradients, strict=True):
      np.testing.assert_allclose(a[i, : b.shape[1]], b[0], rtol=1e-4, atol=1e-5)
      assert not a[i, b.shape[1] :].any()


def test_means_leave_padding_out_even_where_it_is_not_finite():
  tokens = jnp.asarray([[[1.0, 2.0], [3.0, 4.0], [np.nan, np.inf]]])
  np.testing.assert_array_equal(masked_mean(tokens, jnp.asarray([2])), [[2.0, 3.0]])
