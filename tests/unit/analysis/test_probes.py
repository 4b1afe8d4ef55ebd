"""Receptive fields and probes of inductive bias."""

import numpy as np
import pytest
from tiny_loaded import RESNET, tiny_images, tiny_loaded

from vitjax import analysis
from vitjax.analysis.probes import shifted, shuffled
from vitjax.data import Preprocess
from vitjax.errors import ConfigError


def test_radius_holds_its_share():
  weights = np.zeros((9, 9))
  weights[4, 4], weights[4, 7] = 0.6, 0.4
  assert analysis.radius_holding(weights, (4.5, 4.5), 0.5) == 0
  assert analysis.radius_holding(weights, (4.5, 4.5), 0.9) == 3


def test_the_field_is_the_root_mean_square_jacobian():
  """Against finite differences of every feature, along a column through the centre."""
  loaded, images, step = tiny_loaded(RESNET), tiny_images(2), 1e-2
  found = analysis.receptive_field(loaded, images, layers=('stage 1',), num_probes=400)
  moved = []
  for y in range(6, 12):
    for c in range(3):
      for sign in (1, -1):
        moved.append(images.copy())
        moved[-1][:, y, 8, c] += sign * step
  maps = next(analysis.mapped(loaded, np.concatenate(moved), batch_size=100))['stage 1']
  centres = maps[:, 4, 4].astype(np.float64).reshape(6, 3, 2, 2, -1)
  slopes = (centres[:, :, 0] - centres[:, :, 1]) / (2 * step)
  expected = np.sqrt((slopes**2).sum(axis=(1, 3)).mean(axis=1))
  ratio = found.maps[0, 6:12, 8] / expected
  # 400 random signs leave several per cent.
  np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.25)
  assert found.centre[0].tolist() == [9, 9]


def test_a_convolution_sees_near_and_attention_sees_all():
  images = tiny_images(2)
  resnet = analysis.receptive_field(tiny_loaded(RESNET), images, layers=('stage 1', 'stage 3'), num_probes=1)
  # GroupNorm couples all pixels weakly; most of what the first stage sees is near.
  assert resnet.radius_50[0] < resnet.radius_50[1]
  assert resnet.maps.sum(axis=(1, 2)) == pytest.approx([1, 1])
  vit = analysis.receptive_field(tiny_loaded(), images, layers=('block 1',), num_probes=1)
  assert (vit.maps[0] > 0).all()
  assert vit.centre[0].tolist() == [10, 10]
  with pytest.raises(ConfigError, match='stage 1, stage 2'):
    analysis.receptive_field(tiny_loaded(RESNET), images, layers=('block 9',))


def test_windows_show_real_pixels():
  image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
  views = shifted(Preprocess((16, 16)), image, (0, 1, 4))
  np.testing.assert_array_equal(views[0], image[4:20, 4:20])
  np.testing.assert_array_equal(views[2], image[4:20, 8:24])


def test_shuffling_keeps_tiles_whole():
  image = np.arange(8 * 8 * 3).reshape(8, 8, 3)
  mixed = shuffled(image, 4, np.random.default_rng(0))
  tiles = lambda x: {x[y : y + 2, u : u + 2].tobytes() for y in range(0, 8, 2) for u in range(0, 8, 2)}  # noqa: E731
  assert tiles(mixed) == tiles(image)
  assert not np.array_equal(mixed, image)
  np.testing.assert_array_equal(shuffled(image, 1, np.random.default_rng(0)), image)
  with pytest.raises(ConfigError, match='a divisor of 8 and 8'):
    shuffled(image, 3, np.random.default_rng(0))


def test_a_vit_without_positions_does_not_notice_shuffled_patches():
  """The bag of patches, exactly: with the mean of tokens, order cannot matter; with positions it does."""
  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(3)]
  labels = np.array([0, 1, 2])
  blind = analysis.shuffle_probe(tiny_loaded(position='none', pool='gap'), images, (2, 4), labels=labels)
  assert blind.strengths == (1, 2, 4)
  np.testing.assert_allclose(blind.cosine, 1, atol=1e-5)
  np.testing.assert_allclose(blind.movement, 0, atol=1e-4)
  np.testing.assert_array_equal(blind.agreement, 1)
  assert set(blind.accuracy) == {blind.accuracy[0]}
  sighted = analysis.shuffle_probe(tiny_loaded(pool='gap'), images, (4,))
  assert 1 - sighted.cosine[1] > 20 * np.abs(1 - blind.cosine).max()
  assert sighted.accuracy is None


def test_translation_without_a_head_compares_features():
  images = [np.full((20, 20, 3), 90, np.uint8)]
  found = analysis.translation_probe(tiny_loaded(num_classes=0), images, (1, 2))
  np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
  assert found.agreement is None
