"""CutMix: the box, the labels, and its area against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from vitjax.ops.cutmix import cutmix


def one(key, h=32, w=48, alpha=1.0):
  images = jnp.broadcast_to(jnp.arange(4.0).reshape(4, 1, 1, 1), (4, h, w, 3))
  return cutmix(key, images, jnp.eye(4), alpha)


def test_labels_are_mixed_by_the_area_of_one_box():
  for seed in range(20):
    images, targets = map(np.asarray, jax.jit(one)(jax.random.key(seed)))
    pasted = images[1, :, :, 0] == 0
    rows, columns = np.nonzero(pasted.any(1))[0], np.nonzero(pasted.any(0))[0]
    assert pasted.sum() == len(rows) * len(columns)
    np.testing.assert_allclose(targets[1], [pasted.mean(), 1 - pasted.mean(), 0, 0], atol=1e-6)
    np.testing.assert_array_equal(images[0, :, :, 0] == 3, pasted)


def test_the_area_follows_the_definition():
  keys = jax.random.split(jax.random.key(0), 2000)
  found = np.asarray(jax.jit(jax.vmap(lambda key: one(key, 100, 100)[1][1, 0]))(keys))
  rng = np.random.default_rng(1)
  side, y, x = np.sqrt(1 - rng.beta(1, 1, 20000)), rng.random(20000), rng.random(20000)

  def inside(centre):
    return np.minimum(centre + side / 2, 1) - np.maximum(centre - side / 2, 0)

  assert scipy.stats.ks_2samp(found, inside(y) * inside(x)).pvalue > 0.01
