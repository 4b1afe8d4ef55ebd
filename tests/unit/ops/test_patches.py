"""Patch embeddings for other patch sizes, against a dense pseudo-inverse; dropped patches, by count and by gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops.patches import drop_patches, num_kept, pi_resize, resize_cells


def dense_resize_matrix(old, new):
  """Returns [new * new, old * old], bilinear resizing with half-pixel centres, pixel by pixel."""
  matrix = np.zeros((new, new, old, old))
  for y in range(new):
    for x in range(new):
      at = [min(max((place + 0.5) * old / new - 0.5, 0), old - 1) for place in (y, x)]
      low = [int(place) for place in at]
      for dy in (0, 1):
        for dx in (0, 1):
          shares = [
            at[0] - low[0] if dy else 1 - at[0] + low[0],
            at[1] - low[1] if dx else 1 - at[1] + low[1],
          ]
          if min(shares) > 0:
            matrix[y, x, low[0] + dy, low[1] + dx] += shares[0] * shares[1]
  return matrix.reshape(new * new, old * old)


@pytest.mark.parametrize(('old', 'new'), [(4, 8), (8, 4), (6, 7), (7, 5), (4, 12), (5, 5)])
def test_pi_resize_is_the_dense_pseudo_inverse(old, new):
  kernel = np.random.default_rng(0).normal(size=(old, old, 3, 5)).astype(np.float32)
  matrix = dense_resize_matrix(old, new)
  solved = np.linalg.lstsq(matrix.T, kernel.reshape(old * old, -1), rcond=None)[0]
  expected = solved.reshape(new, new, 3, 5)
  np.testing.assert_allclose(pi_resize(kernel, new), expected, atol=2e-5 * np.abs(expected).max())
  traced = jax.jit(pi_resize, static_argnums=1)(jnp.asarray(kernel), new)
  np.testing.assert_allclose(traced, expected, atol=2e-5 * np.abs(expected).max())


def test_tokens_of_enlarged_patches_stay_what_they_were():
  rng = np.random.default_rng(1)
  kernel, patch = rng.normal(size=(4, 4, 1, 6)), rng.normal(size=(4, 4))
  enlarged = (dense_resize_matrix(4, 10) @ patch.reshape(-1)).reshape(10, 10)
  tokens = np.einsum('hw,hwcd->d', patch, kernel)
  np.testing.assert_allclose(np.einsum('hw,hwcd->d', enlarged, pi_resize(kernel, 10)), tokens, rtol=1e-9)


def test_cells_resize_as_the_source_does():
  cells = jnp.asarray(np.random.default_rng(2).normal(size=(1, 12, 5)), jnp.float32)
  expected = jax.image.resize(cells.reshape(1, 3, 4, 5), (1, 6, 2, 5), 'linear').reshape(1, 12, 5)
  np.testing.assert_array_equal(resize_cells(cells, (3, 4), (6, 2)), expected)
  assert resize_cells(cells, (3, 4), (3, 4)) is cells


def test_dropping_keeps_prefix_and_order_and_takes_each_patch_as_often():
  n, patches, rate = 4000, 10, 0.7
  tokens = jnp.broadcast_to(jnp.arange(2 + patches, dtype=jnp.float32)[None, :, None], (n, 2 + patches, 3))
  kept = np.asarray(drop_patches(jax.random.key(0), tokens, num_prefix=2, drop_rate=rate))[..., 0]
  assert kept.shape == (n, 2 + 3)
  np.testing.assert_array_equal(kept[:, :2], np.tile([0, 1], (n, 1)))
  assert (np.diff(kept, axis=1) > 0).all()
  share = np.bincount(kept[:, 2:].astype(int).ravel(), minlength=12)[2:] / n
  assert np.abs(share - 0.3).max() < 4 * np.sqrt(0.3 * 0.7 / n)
  assert len(np.unique(kept, axis=0)) > 100, 'images share their draws'


@pytest.mark.parametrize(
  ('patches', 'rate', 'kept'), [(16, 0.5, 8), (9, 0.5, 4), (4, 0.99, 1), (49, 0.25, 37)]
)
def test_number_of_kept_patches(patches, rate, kept):
  assert num_kept(patches, rate) == kept


def test_dropped_patches_get_no_gradient_and_kept_ones_theirs():
  tokens = jnp.asarray(np.random.default_rng(3).normal(size=(5, 9, 2)), jnp.float32)
  drop = lambda x: drop_patches(jax.random.key(4), x, num_prefix=1, drop_rate=0.5)  # noqa: E731
  gradient = np.asarray(jax.grad(lambda x: (drop(x) ** 2).sum())(tokens))
  kept = {tuple(row) for row in np.asarray(drop(tokens)).reshape(-1, 2).tolist()}
  for row, found in zip(np.asarray(tokens).reshape(-1, 2).tolist(), gradient.reshape(-1, 2), strict=True):
    np.testing.assert_allclose(found, np.multiply(row, 2 * (tuple(row) in kept)), rtol=1e-6)
  assert (gradient.any(axis=-1).sum(axis=1) == 1 + 4).all()
