"""Pillow makes the same: RandAugment on 21 different photographs, most of which come with scikit-image."""

from __future__ import annotations

import numpy as np
import photographs
import pillow_operations
import pytest


@pytest.mark.parametrize('level', [3.0, 9.0, 15.0])
def test_randaugment_is_within_a_grey_level_on_photographs(level):
  images = photographs.different(96, 128)
  if images is None:
    pytest.skip('scikit-image, whose photographs these are, is not installed')
  assert len({image.tobytes() for image in images}) == len(images) >= 20
  compared = set()
  for name, negative, ours, pillows in pillow_operations.both_ways(images, level):
    assert np.abs(ours - pillows).max() <= 1, (name, negative)
    compared.add(name)
  assert len(compared) == 16
