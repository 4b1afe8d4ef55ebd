import dataclasses
from collections import Counter

import cv2
import numpy as np
import pytest
from scipy.stats import kstest, uniform

from vitjax.config.schema import DataConfig
from vitjax.data.transforms import (
  Augment,
  example_rng,
  resize,
  sample_crop,
  sample_resized_crop,
  shift_image,
)


def crops(count, size, **ranges):
  knobs = {'area': (0.05, 1.0), 'ratio': (0.75, 4 / 3)} | ranges
  rng = np.random.default_rng(0)
  return np.array([sample_crop(rng, size, **knobs) for _ in range(count)])


@pytest.mark.parametrize('size', [(300, 400), (28, 28), (9, 200)])
def test_crops_stay_inside_and_in_range(size):
  boxes = crops(2000, size, area=(0.1, 0.9))
  top, left, height, width = boxes.T
  assert (boxes >= 0).all()
  assert (top + height <= size[0]).all()
  assert (left + width <= size[1]).all()
  whole = (height == size[0]) & (width == size[1])
  share = height * width / (size[0] * size[1])
  if size == (9, 200):  # no box of such a strip has the right shape and 10 % of the area: the whole image
    assert whole.all()
    return
  assert not whole.any()
  assert share.min() >= 0.1
  assert share.max() <= 0.9
  # Rounding the width moves the ratio by at most half a pixel.
  assert ((width + 0.5) / height >= 0.75).all()
  assert ((width - 0.5) / height <= 4 / 3).all()


def test_crop_statistics_are_those_of_the_definition():
  boxes = crops(20_000, (1000, 1000), area=(0.05, 0.5), ratio=(0.75, 4 / 3))
  top, left, height, width = boxes.T
  ratio = width / height
  # Linear, not log-uniform: the mean is the middle of the range. (All heights fit, so no try is rejected.)
  np.testing.assert_allclose(ratio.mean(), (0.75 + 4 / 3) / 2, atol=0.005)
  # Given the ratio, the height is uniform between the areas' heights.
  low, high = np.sqrt(0.05e6 / ratio), np.sqrt(0.5e6 / ratio)
  place = (height - low) / (high - low)
  np.testing.assert_allclose(np.histogram(place, bins=10, range=(0, 1))[0] / len(place), 0.1, atol=0.01)
  # The place is uniform, both edges included.
  for start, side in ((top, height), (left, width)):
    shares = start / (1000 - side)
    assert (shares.min(), shares.max()) == (0.0, 1.0)
    np.testing.assert_allclose(np.histogram(shares, bins=10, range=(0, 1))[0] / len(place), 0.1, atol=0.01)


def test_crops_pass_a_kolmogorov_smirnov_test():
  _, _, height, width = crops(5000, (1000, 1000), area=(0.05, 0.5)).T
  ratio = width / height
  assert kstest(ratio, uniform(0.75, 4 / 3 - 0.75).cdf).pvalue > 0.01
  low, high = np.sqrt(0.05e6 / ratio), np.sqrt(0.5e6 / ratio)
  assert kstest((height - low) / (high - low), uniform.cdf).pvalue > 0.01


def test_torchvisions_crop_is_another_distribution():
  rng = np.random.default_rng(1)
  draw = {'area': (0.08, 0.5), 'ratio': (0.75, 4 / 3)}
  boxes = np.array([sample_resized_crop(rng, (1000, 1000), **draw) for _ in range(5000)])
  top, _, height, width = boxes.T
  assert kstest(height * width / 1e6, uniform(0.08, 0.42).cdf).pvalue > 0.01
  log_ratio = np.log(width / height)
  assert kstest(log_ratio, uniform(-np.log(4 / 3), 2 * np.log(4 / 3)).cdf).pvalue > 0.01
  assert kstest(top / (1000 - height), uniform.cdf).pvalue > 0.01
  assert kstest(width / height, uniform(0.75, 4 / 3 - 0.75).cdf).pvalue < 1e-6, 'the Inception crop is linear'


@pytest.mark.parametrize(
  ('size', 'box'), [((9, 200), (0, 94, 9, 12)), ((200, 9), (94, 0, 12, 9)), ((30, 30), (0, 0, 30, 30))]
)
def test_torchvisions_crop_falls_back_to_the_middle(size, box):
  found = sample_resized_crop(np.random.default_rng(0), size, area=(2.0, 2.0), ratio=(0.75, 4 / 3))
  assert found == box


def test_crops_of_tiny_images():
  assert (crops(50, (1, 1)) == [0, 0, 1, 1]).all()
  boxes = crops(500, (2, 3))
  assert (boxes[:, 2:] >= 1).all()
  assert len(np.unique(boxes, axis=0)) > 3


def test_full_area_and_square_ratio_is_the_whole_square():
  assert (crops(20, (32, 32), area=(1.0, 1.0), ratio=(1.0, 1.0)) == [0, 0, 32, 32]).all()


def test_resize_methods():
  image = np.zeros((64, 64, 3), np.uint8)
  image[::2] = 255  # stripes that alias unless averaged
  assert np.unique(resize(image, (16, 16), 'area')).tolist() == [128]
  assert resize(image, (16, 32), 'nearest').shape == (16, 32, 3)
  assert resize(image, (64, 64), 'bicubic') is image
  ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(8, axis=0)
  enlarged = resize(ramp, (8, 16), 'bilinear')[0, :, 0]
  # Half-pixel centres: the first output pixel lies a quarter pixel left of the first input pixel's centre.
  np.testing.assert_allclose(enlarged[:4], [0, 2.5, 7.5, 12.5], atol=0.51)
  np.testing.assert_array_equal(resize(ramp, (8, 16), 'area'), resize(ramp, (8, 16), 'bilinear'))
  np.testing.assert_array_equal(resize(ramp, (4, 16), 'area'), resize(ramp, (4, 16), 'bilinear'))


def test_shift_fills_with_black():
  image = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)
  assert shift_image(image, 0, 0).tolist() == image.tolist()
  assert shift_image(image, 1, 0)[1].tolist() == image[0].tolist()
  assert shift_image(image, 1, 0)[0].max() == 0
  assert shift_image(image, -1, 1)[0, 1].tolist() == image[1, 0].tolist()
  assert shift_image(image, 5, -9).max() == 0


BASE = Augment.from_config(DataConfig(image_size=(32, 24), precrop_size=34))


@pytest.mark.parametrize('crop', ['inception', 'random_resized', 'random', 'shift', 'resize'])
def test_augment_shapes_and_determinism(tools, crop):
  augment = dataclasses.replace(BASE, crop=crop)
  for size in ((24, 32), (1, 1), (200, 3), (32, 24)):
    image = tools.photo(1, size)
    kept = image.copy()
    first = augment(image, example_rng(0, 5))
    assert first.shape == (32, 24, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    np.testing.assert_array_equal(first, augment(image, example_rng(0, 5)))
    np.testing.assert_array_equal(image, kept)


def test_augment_differs_between_positions_and_seeds(tools):
  image = tools.photo(1, (50, 50))
  results = {
    BASE(image, example_rng(seed, position)).tobytes() for seed in range(3) for position in range(10)
  }
  assert len(results) == 30


def test_flip_is_half_of_the_time_and_a_mirror(tools):
  augment = dataclasses.replace(BASE, crop='resize', flip=True)
  image = tools.photo(4, (32, 24))
  outcomes = [augment(image, example_rng(1, position)) for position in range(400)]
  plain = sum(np.array_equal(each, image) for each in outcomes)
  mirrored = sum(np.array_equal(each, image[:, ::-1]) for each in outcomes)
  assert plain + mirrored == 400
  assert 160 < plain < 240
  still = dataclasses.replace(augment, flip=False)
  assert all(np.array_equal(still(image, example_rng(1, position)), image) for position in range(20))


def test_shift_crop_uses_its_range(tools):
  augment = dataclasses.replace(BASE, crop='shift', shift=2, flip=False)
  image = np.full((32, 24, 3), 255, np.uint8)
  outcomes = [augment(image, example_rng(1, position)) for position in range(300)]
  black = {
    (int((each.max(axis=(1, 2)) == 0).sum()), int((each.max(axis=(0, 2)) == 0).sum())) for each in outcomes
  }
  assert black == {(rows, columns) for rows in range(3) for columns in range(3)}
  assert len({each.tobytes() for each in outcomes}) == 25


def test_random_crop_takes_every_place_of_the_resized_image_equally_often():
  augment = dataclasses.replace(BASE, crop='random', image_size=(32, 32), flip=False)
  rows, columns = np.mgrid[:34, :34].astype(np.uint8)
  image = np.stack([rows, columns, rows], -1)
  outcomes = [augment(image, example_rng(1, position)) for position in range(900)]
  places = Counter((int(each[0, 0, 0]), int(each[0, 0, 1])) for each in outcomes)
  assert set(places) == {(top, left) for top in range(3) for left in range(3)}
  assert max(abs(count - 100) for count in places.values()) < 40
  top, left = outcomes[0][0, 0, :2]
  np.testing.assert_array_equal(outcomes[0], image[top : top + 32, left : left + 32])


def test_opencv_runs_one_thread():
  assert cv2.getNumThreads() == 1
