"""Filters, feature colours, token norms and CKA against slow versions and planted structure."""

import itertools

import numpy as np
import pytest
from tiny_loaded import RESNET, tiny_images, tiny_loaded

from vitjax import analysis
from vitjax.errors import ConfigError


def test_filter_components_are_eigenvectors_of_the_covariance():
  loaded = tiny_loaded()
  found = analysis.filter_components(loaded, num_components=4)
  kernel = np.asarray(loaded.params['embedding']['kernel'], np.float64)
  filters = np.array([kernel[..., f].ravel() for f in range(16)])
  mean = sum(filters) / len(filters)
  covariance = sum(np.outer(row - mean, row - mean) for row in filters)
  values = np.sort(np.linalg.eigvalsh(covariance))[::-1]
  for i, component in enumerate(found.components.reshape(4, -1)):
    np.testing.assert_allclose(covariance @ component, values[i] * component, atol=1e-9 * values[0])
    assert found.explained[i] == pytest.approx(values[i] / np.trace(covariance))
    assert component[np.abs(component).argmax()] > 0


def test_filters_of_a_resnet_are_its_root():
  found = analysis.filter_components(tiny_loaded(RESNET))
  assert found.path == 'root_block/conv_root/kernel'
  assert found.components.shape == (8, 3, 3, 3)


def planted(seed=0):
  """Features [2, 6, 6, 8]: a subject in the middle, in two halves, on a dull background."""
  rng = np.random.default_rng(seed)
  x = rng.normal(0, 0.05, (2, 6, 6, 8))
  x[:, 2:5, 1:5, 0] += 3
  x[:, 2:5, 1:3, 1] += 1
  inside = np.zeros((2, 6, 6), bool)
  inside[:, 2:5, 1:5] = True
  return x, inside


@pytest.mark.parametrize('sign', [1, -1])
@pytest.mark.parametrize('joint', [True, False])
def test_the_threshold_finds_the_subject_whatever_the_sign(sign, joint):
  x, inside = planted()
  found = analysis.feature_pca(sign * x, threshold=0.5, joint=joint)
  np.testing.assert_array_equal(found.foreground, inside)
  assert not found.rgb[~inside].any()
  left, right = found.components[:, 2:5, 1:3, 0], found.components[:, 2:5, 3:5, 0]
  assert left.min() > right.max() or left.max() < right.min()


def test_components_are_the_principal_ones():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1, 3, 4, 5)) * [5, 4, 3, 1, 1]
  found = analysis.feature_pca(x)
  rows = x.reshape(-1, 5)
  centred = rows - rows.mean(axis=0)
  _, values, vectors = np.linalg.svd(centred, full_matrices=False)
  np.testing.assert_allclose(
    np.abs(found.components.reshape(-1, 3)), np.abs(centred @ vectors[:3].T), atol=1e-8
  )
  np.testing.assert_allclose(found.explained[0], (values**2 / (values**2).sum())[:3])
  assert 0 <= found.rgb.min() < found.rgb.max() <= 1


def test_joint_and_single_images_agree_for_one_image():
  x, _ = planted()
  one = x[:1]
  np.testing.assert_array_equal(analysis.feature_pca(one).rgb, analysis.feature_pca(one, joint=False).rgb)


def test_norms_and_planted_outliers():
  rng = np.random.default_rng(0)
  quiet, loud = rng.normal(size=(2, 8, 8, 32)), rng.normal(size=(2, 8, 8, 32))
  loud[1, 3, 4] *= 10
  found = analysis.token_norms(('block 1', 'block 2'), [quiet, loud])
  assert found.norms[0, 1, 2, 3] == pytest.approx(sum(v * v for v in quiet[1, 2, 3]) ** 0.5)
  assert np.argwhere(found.outliers).tolist() == [[1, 1, 3, 4]]
  np.testing.assert_allclose(found.share, [0, 1 / 128])


def slow_hsic(k, m):
  """The unbiased U-statistic: the mean over 4-tuples of distinct examples."""
  n, total, count = len(k), 0.0, 0
  for i, j, q, r in itertools.permutations(range(n), 4):
    total += k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q]
    count += 1
  return total / count


def test_hsic_is_the_mean_over_tuples():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
  assert analysis.hsic(x @ x.T, y @ y.T) == pytest.approx(slow_hsic(x @ x.T, y @ y.T))


def test_cka_of_rotated_copies_is_one_and_of_noise_about_zero():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(200, 6))
  turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  noise = rng.normal(size=(200, 9))
  found = analysis.cka([([x], [3 * x @ turn, noise])])
  assert found[0, 0] == pytest.approx(1)
  assert abs(found[0, 1]) < 0.05


def test_minibatches_agree_with_one_batch():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(1000, 3))
  y = x @ rng.normal(size=(3, 4)) + rng.normal(size=(1000, 4))
  whole = analysis.cka([([x], [y])])
  parts = analysis.cka([([x[i : i + 50]], [y[i : i + 50]]) for i in range(0, 1000, 50)])
  assert parts[0, 0] == pytest.approx(whole[0, 0], abs=0.05)


def test_cka_refuses_tiny_batches():
  with pytest.raises(ConfigError, match='>= 4'):
    analysis.cka([([np.ones((3, 2))], [np.ones((3, 2))])])


def test_cells_average_by_overlap():
  x = np.arange(9.0).reshape(1, 3, 3, 1)
  assert analysis.pooled_cells(x, 1) == pytest.approx(4)
  # The first of 2 x 2 cells holds pixel (0, 0), halves of its neighbours and a quarter of the middle.
  first = (0 * 1 + (1 + 3) * 0.5 + 4 * 0.25) / 2.25
  assert analysis.pooled_cells(x, 2)[0, 0] == pytest.approx(first)


def test_maps_come_in_the_order_of_layers_also_with_ten_blocks():
  loaded, images = tiny_loaded(depth=11, layers='scan'), tiny_images(2)
  maps = next(analysis.mapped(loaded, images))
  assert list(maps) == [*(f'block {i + 1}' for i in range(11)), 'final norm']
  second = loaded.features(images, layer=1, tokens=True)[:, 1:]
  np.testing.assert_allclose(maps['block 2'].reshape(second.shape), second, atol=1e-5)


def test_layers_of_a_vit_and_a_resnet_can_be_compared():
  vit, resnet, images = tiny_loaded(), tiny_loaded(RESNET), tiny_images(4)
  found = analysis.layer_similarity(vit, resnet, images, batch_size=2)
  assert found.first == ('block 1', 'block 2', 'final norm')
  assert found.second == ('stage 1', 'stage 2', 'stage 3', 'final norm')
  assert found.cka.shape == (3, 4)
  assert found.num_examples == 4 * 16
  same = analysis.layer_similarity(vit, vit, images)
  np.testing.assert_allclose(np.diag(same.cka), 1)
  np.testing.assert_allclose(same.cka, same.cka.T)
