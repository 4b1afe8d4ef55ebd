"""RandAugment and its neighbours: sixteen operations on photographs, what they are by definition, and their draws."""

import io

import numpy as np
import pytest
from photographs import crops
from PIL import Image, ImageEnhance, ImageOps
from pillow_operations import by_pillow

from vitjax.config.augmentation import FILL, RANDAUGMENT_OPERATIONS
from vitjax.data.randaugment import OPERATIONS, color_jitter, randaugment, random_erasing, three_augment
from vitjax.data.transforms import Augment, example_rng

SIDE = 96


def by_definition(name, x, level):
  """Returns what an operation makes of uint8 pixels x, by loops and formulas; None where Pillow alone defines it."""
  share = level / 10
  if name == 'invert':
    return 255 - x
  if name == 'posterize':
    return x // 2 ** (8 - int(4 * share)) * 2 ** (8 - int(4 * share))
  if name == 'solarize':
    return np.where(x < int(256 * share), x, 255 - x)
  if name == 'solarize_add':
    return np.where(x < 128, np.minimum(x.astype(int) + int(110 * share), 255), x)
  if name == 'brightness':
    return np.clip(x * (share * 1.8 + 0.1), 0, 255)
  grey = np.asarray(Image.fromarray(x).convert('L'), float)
  if name == 'contrast':
    mean = int(grey.mean() + 0.5)
    return np.clip(mean + (x.astype(float) - mean) * (share * 1.8 + 0.1), 0, 255)
  if name == 'color':
    return np.clip(grey[..., None] + (x - grey[..., None]) * (share * 1.8 + 0.1), 0, 255)
  if name == 'autocontrast':
    low, high = x.min((0, 1)).astype(float), x.max((0, 1)).astype(float)
    return np.clip((x - low) * 255 / (high - low), 0, 255)
  if name == 'shift_x':  # to the left: grey comes in on the right
    moved = np.full_like(x, FILL)
    moved[:, : x.shape[1] - round(100 * share)] = x[:, round(100 * share) :]
    return moved
  return None


@pytest.mark.parametrize('level', [3.0, 9.0])
@pytest.mark.parametrize('name', OPERATIONS)
def test_operations_are_within_a_grey_level_of_their_definition(name, level):
  compared = 0
  for x in crops(20, SIDE, SIDE):
    found = by_pillow(name, x, level)
    assert found.shape == x.shape
    assert found.dtype == np.uint8
    expected = by_definition(name, x, level)
    if expected is not None:
      assert np.abs(found.astype(float) - expected).max() <= 1.0, name
      compared += 1
  assert compared == (20 if name in DEFINED else 0)


DEFINED = {
  'invert', 'posterize', 'solarize', 'solarize_add', 'brightness', 'contrast', 'color', 'autocontrast', 'shift_x'
}  # fmt: skip


@pytest.mark.parametrize('x', [*crops(4, SIDE, SIDE)], ids=str)
def test_the_others_are_pillows_own(x):
  image, grey = Image.fromarray(x), (FILL, FILL, FILL)

  def same(name, expected):
    np.testing.assert_array_equal(by_pillow(name, x, 6.0), np.asarray(expected))

  same('equalize', ImageOps.equalize(image))
  same('sharpness', ImageEnhance.Sharpness(image).enhance(0.6 * 1.8 + 0.1))
  same('rotate', image.rotate(18, fillcolor=grey))
  same('shear_x', image.transform(image.size, Image.Transform.AFFINE, (1, 0.18, 0, 0, 1, 0), fillcolor=grey))
  same('shear_y', image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, 0.18, 1, 0), fillcolor=grey))
  same('shift_y', image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, 60), fillcolor=grey))


def test_level_0_is_a_level():
  x = crops(1, SIDE, SIDE)[0]
  for name in OPERATIONS:
    assert by_pillow(name, x, 0.0).shape == x.shape, name
  assert not by_pillow('posterize', x, 0.0).any(), 'no bit is kept'


def test_signs_turn_the_other_way():
  x = crops(1, SIDE, SIDE)[0]
  for name in ('rotate', 'shear_x', 'shear_y', 'shift_x', 'shift_y'):
    one, other = (by_pillow(name, x, 6.0, negative=negative) for negative in (False, True))
    assert (one != other).any(), name


def test_cutout_is_one_grey_square_inside_the_image():
  x = np.zeros((60, 80, 3), np.uint8)
  areas = set()
  for seed in range(50):
    cut = np.asarray(OPERATIONS['cutout'](Image.fromarray(x), 3.0, np.random.default_rng(seed)))
    rows, columns = np.nonzero((cut == FILL).all(-1))
    assert (cut == FILL).any(-1).sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    areas.add(len(rows))
  assert max(areas) == 24 * 24, 'twice int(0.3 * 40) a side'
  assert min(areas) < 24 * 24, 'squares at the border are cut off'


def test_each_operation_is_drawn_as_often(monkeypatch):
  counts = dict.fromkeys(OPERATIONS, 0)
  for name in OPERATIONS:

    def count(image, level, rng, name=name):
      counts[name] += 1
      return image

    monkeypatch.setitem(OPERATIONS, name, count)
  x = np.zeros((2, 2, 3), np.uint8)
  for position in range(2000):
    randaugment(x, example_rng(0, position), layers=2, magnitude=10)
  assert tuple(counts) == RANDAUGMENT_OPERATIONS
  assert len(counts) == 16
  # 4,000 draws: 250 each, standard deviation 15.3.
  assert max(abs(count - 250) for count in counts.values()) < 62, counts


def test_three_augment_takes_one_of_three():
  x = crops(1, SIDE, SIDE)[0]
  greys = sum(np.ptp(three_augment(x, example_rng(1, i)).astype(int), axis=-1).max() <= 1 for i in range(300))
  assert 70 < greys < 130  # 100 expected, standard deviation 8.2


def test_color_jitter_moves_the_mean_both_ways_and_keeps_its_bounds():
  x = np.full((4, 4, 3), 100, np.uint8)
  means = [color_jitter(x, example_rng(2, i), strength=0.4).mean() for i in range(200)]
  assert 59 <= min(means) < 70
  assert 130 < max(means) <= 141


def test_random_erasing_has_its_rate_and_area():
  x = np.full((64, 64, 3), 7, np.uint8)
  shares = []
  for i in range(1000):
    changed = (random_erasing(x, example_rng(3, i), rate=0.25) != x).any(-1)
    shares += [changed.mean()] if changed.any() else []
  assert 195 < len(shares) < 305  # 250 expected, standard deviation 13.7
  assert min(shares) > 0.015
  assert max(shares) < 0.35
  assert (x == 7).all(), 'the input was changed'


def test_knobs_reach_the_transform_and_the_example_number_decides():
  x = crops(1, SIDE, SIDE)[0]
  base = {
    'image_size': (32, 32), 'crop': 'resize', 'crop_area': (0.05, 1.0), 'crop_ratio': (0.75, 1.33), 'shift': 0,
    'flip': False, 'interpolation': 'bilinear',
  }  # fmt: skip
  plain = Augment(**base)(x, example_rng(0, 0))
  for knob in (
    {'three_augment': True},
    {'randaugment_layers': 2},
    {'color_jitter': 0.4},
    {'erasing_rate': 1.0},
  ):
    augment = Augment(**base, **knob)
    first, again = (augment(x, example_rng(0, 5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert any((augment(x, example_rng(0, i)) != plain).any() for i in range(4)), knob


def test_jpegs_pass_through(tmp_path):
  data = io.BytesIO()
  Image.fromarray(crops(1, SIDE, SIDE)[0]).save(data, 'JPEG')
  assert randaugment(np.asarray(Image.open(data)), example_rng(0, 0), layers=3, magnitude=15).shape == (
    96,
    96,
    3,
  )
