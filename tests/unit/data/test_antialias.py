"""Antialiased resizing: Pillow's pixels in torchvision's geometry, as released PyTorch models were evaluated."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from vitjax.data import Preprocess
from vitjax.data.transforms import resize

FILTERS = {'bilinear_antialias': Image.Resampling.BILINEAR, 'bicubic_antialias': Image.Resampling.BICUBIC}


@pytest.fixture(scope='module')
def photo():
  return load_sample_image('china.jpg')


def by_torchvision_rules(image, short, size, method):
  """Returns the short side resized to `short`, the other rounded down, then the centre of `size`."""
  height, width = image.shape[:2]
  if width <= height:
    new = (short, int(short * height / width))
  else:
    new = (int(short * width / height), short)
  resized = np.asarray(Image.fromarray(image).resize(new, FILTERS[method]))
  top, left = (round((side - size) / 2.0) for side in resized.shape[:2])
  return resized[top : top + size, left : left + size]


@pytest.mark.parametrize('method', FILTERS)
def test_pixels_are_pillows(photo, method):
  for size in ((100, 80), (500, 700)):
    expected = np.asarray(Image.fromarray(photo).resize(size[::-1], FILTERS[method]))
    np.testing.assert_array_equal(resize(photo, size, method), expected)


def test_a_fine_pattern_becomes_grey():
  stripes = np.zeros((64, 64, 3), np.uint8)
  stripes[:, ::2] = 255
  for method in FILTERS:
    assert np.abs(resize(stripes, (16, 16), method)[:, 2:-2].astype(int) - 127).max() <= 2
  assert np.abs(resize(stripes[:, :-1], (16, 16), 'bicubic').astype(int) - 127).max() > 30


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize(('size', 'short'), [(224, 248), (224, 256), (384, 384), (240, 253), (37, 40)])
@pytest.mark.parametrize('method', FILTERS)
def test_geometry_is_torchvisions(photo, size, short, method, turned):
  image = np.ascontiguousarray(photo.transpose(1, 0, 2)) if turned else photo
  preprocess = Preprocess((size, size), interpolation=method, resize_short=short)
  np.testing.assert_array_equal(preprocess(image), by_torchvision_rules(image, short, size, method))
