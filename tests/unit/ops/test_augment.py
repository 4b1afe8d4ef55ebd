"""The batched augmentations: operations beside Pillow's, draws beside their definition, and no talk of devices."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pillow_operations
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from photographs import crops
from PIL import Image, ImageFilter

from vitjax.config import default_config, parse_recipe
from vitjax.config.augmentation import RANDAUGMENT_OPERATIONS
from vitjax.objectives.classification import Classification
from vitjax.ops.augment import (
  _blur,
  augmented,
  color_jitter,
  operation,
  randaugment,
  random_erasing,
  three_augment,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize('level', [0.0, 3.0, 9.0, 15.0])
def test_operations_are_within_a_grey_level_of_pillows(level):
  compared = set()
  for name, negative, ours, pillows in pillow_operations.both_ways(crops(20, 56, 72), level):
    assert np.abs(ours - pillows).max() <= 1, (name, negative)
    # All but the truncation of sums is exact.
    if name not in ('autocontrast', 'color', 'contrast', 'sharpness', 'brightness'):
      np.testing.assert_array_equal(ours, pillows, err_msg=name)
    compared.add((name, negative))
  assert len(compared) == 32


def test_flat_images_have_no_contrast_to_stretch():
  flat = jnp.full((8, 8, 3), 77, jnp.uint8)
  apply = jax.jit(functools.partial(operation, level=9.0, negative=False, centre=(0, 0)))
  for name in ('autocontrast', 'equalize', 'contrast', 'color', 'sharpness'):
    found = apply(flat, RANDAUGMENT_OPERATIONS.index(name))
    np.testing.assert_array_equal(found, flat, err_msg=name)


def test_every_operation_is_drawn_as_often_by_every_image_for_itself():
  photo = crops(1, 24, 24)[0]
  n = 480
  found = np.asarray(
    jax.jit(functools.partial(randaugment, layers=1, magnitude=2.0))(
      KEY, jnp.broadcast_to(photo, (n, *photo.shape))
    )
  )
  apply = jax.jit(functools.partial(operation, level=2.0, centre=(0, 0)))
  counts = {}
  for number, name in enumerate(RANDAUGMENT_OPERATIONS):
    outcomes = {np.asarray(apply(photo, number, negative=sign)).tobytes() for sign in (False, True)}
    counts[name] = 0 if name == 'cutout' else sum(image.tobytes() in outcomes for image in found)
  counts['cutout'] = n - sum(counts.values())  # a square of its own place each time
  # 30 each, standard deviation 5.3.
  assert max(abs(count - 30) for count in counts.values()) < 24, counts


def test_three_augment_takes_one_of_three():
  photo = crops(1, 56, 72)[0]
  found = np.asarray(jax.jit(three_augment)(KEY, jnp.broadcast_to(photo, (300, *photo.shape))))
  greys = sum(np.ptp(image.astype(int), axis=-1).max() <= 1 for image in found)
  assert 70 < greys < 130  # 100 expected, standard deviation 8.2


def test_blur_is_close_to_pillows():
  photo = crops(1, 56, 72)[0]
  for radius in (0.4, 1.0, 2.0):
    found = np.asarray(_blur(jnp.asarray(photo, jnp.int32), radius)).astype(int)
    pillows = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius))).astype(int)
    # Pillow rounds to whole grey levels after each of its six passes.
    difference = np.abs(found - pillows)
    assert difference.max() <= 3, radius
    assert difference.mean() < 1, radius


def test_color_jitter_moves_the_mean_both_ways_and_keeps_its_bounds():
  images = jnp.full((200, 4, 4, 3), 100, jnp.uint8)
  means = np.asarray(color_jitter(KEY, images, strength=0.4)).mean((1, 2, 3))
  assert 59 <= means.min() < 70
  assert 130 < means.max() <= 141


def test_random_erasing_has_its_rate_and_area():
  images = jnp.full((1000, 32, 32, 3), 7, jnp.uint8)
  changed = (np.asarray(random_erasing(KEY, images, rate=0.25)) != 7).any(-1)
  shares = changed.mean((1, 2))
  shares = shares[shares > 0]
  assert 195 < len(shares) < 305  # 250 expected, standard deviation 13.7
  assert shares.max() < 0.36
  rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
  np.testing.assert_array_less(0.98 * rows * columns, changed.sum((1, 2)) + 1)  # boxes


def test_devices_do_not_talk():
  config = dataclasses.replace(
    parse_recipe(default_config()).data, augment_on='device', randaugment_layers=1, erasing_rate=0.5
  )
  mesh = Mesh(np.array(jax.devices()), ('data',))
  rows = NamedSharding(mesh, PartitionSpec('data'))
  batch = jnp.asarray(crops(16, 16, 16))
  step = jax.jit(
    lambda key, images: augmented(key, images, config), in_shardings=(None, rows), out_shardings=rows
  )
  compiled = step.lower(KEY, batch).compile()
  talk = re.findall(r'all-gather|all-reduce|all-to-all|collective-permute', compiled.as_text())
  assert not talk
  np.testing.assert_array_equal(step(KEY, batch), jax.jit(augmented, static_argnums=2)(KEY, batch, config))


def test_recipes_reach_the_device():
  data = parse_recipe(default_config()).data
  batch = {'image': jnp.asarray(crops(2, 32, 32)), 'label': jnp.arange(2)}

  def images(**knobs):
    objective = Classification(
      None, 10, parse_recipe(default_config()).objective, dataclasses.replace(data, **knobs)
    )
    return np.asarray(jax.jit(objective.augment)(KEY, batch)['images'])

  plain = images()
  np.testing.assert_array_equal(plain, images(randaugment_layers=1))  # the workers do it
  assert (images(color_jitter=0.4, augment_on='device') != plain).any()
  assert images(erasing_rate=1.0, augment_on='device').min() >= -1
