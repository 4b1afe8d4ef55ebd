"""The grid of an image at its own aspect ratio, against its definition."""

import math

import pytest

from vitjax.config.naflex import NativePatches, largest_grid


def by_bisection(height, width, max_tokens):
  """Returns the grid as SigLIP 2 defines it: the largest scale whose sides in patches, rounded up, fit."""
  low, high = 0.0, float(max_tokens)
  for _ in range(100):
    middle = (low + high) / 2
    fits = math.ceil(height * middle - 1e-9) * math.ceil(width * middle - 1e-9) <= max_tokens
    low, high = (middle, high) if fits else (low, middle)
  return max(math.ceil(height * low - 1e-9), 1), max(math.ceil(width * low - 1e-9), 1)


@pytest.mark.parametrize('max_tokens', [1, 2, 7, 49, 196, 256])
def test_the_largest_grid_that_fits(max_tokens):
  for height, width in [(1, 1), (28, 28), (28, 11), (375, 500), (500, 375), (97, 331), (640, 31)]:
    grid = largest_grid(height, width, max_tokens)
    assert grid == by_bisection(height, width, max_tokens), (height, width)
    assert grid == largest_grid(width, height, max_tokens)[::-1]
    assert grid == largest_grid(3 * height, 3 * width, max_tokens), 'the size of an image does not matter'


def test_ratios_that_divide_the_tokens_are_kept_exactly():
  assert largest_grid(224, 224, 196) == (14, 14)
  assert largest_grid(30, 120, 196) == (7, 28)
  assert largest_grid(375, 500, 192) == (12, 16)
  assert largest_grid(240, 240, 100) == (10, 10)


def test_no_image_is_too_long():
  assert largest_grid(1, 100_000, 196) == (1, 196)
  assert largest_grid(100_000, 1, 196) == (196, 1)
  assert largest_grid(1, 100_000, 1000) == (1, 255), 'a side is a byte on its way to the device'


def test_sizes_in_pixels_and_shapes():
  native = NativePatches(max_tokens=12, patch_size=4)
  assert native.resized(10, 30) == (8, 24)
  assert native.shape == (12, 4 * 4 * 3 + 4)
  assert native.strip_size == (48, 4)
