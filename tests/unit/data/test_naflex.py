"""Images at their own aspect ratio, on the host: what a patch holds, and a stream that is a function of the seed."""

import dataclasses
import itertools

import numpy as np
import pytest

from vitjax.config.naflex import NativePatches
from vitjax.config.schema import DataConfig, EvalConfig, SourceConfig
from vitjax.data import (
  Augment,
  Preprocess,
  contact_sheet,
  decode_image,
  eval_batches,
  example_rng,
  open_source,
  train_batches,
)
from vitjax.data.naflex import cut, resize_and_cut, training_transform
from vitjax.data.transforms import resize
from vitjax.errors import ConfigError

NATIVE = NativePatches(max_tokens=12, patch_size=4)
SIZES = ((24, 32), (40, 10), (9, 9), (64, 20))


def put_together(patches, native=NATIVE):
  """Returns the image that patches were cut of, by their places alone."""
  p = native.patch_size
  rows, columns = patches[0, -2:]
  image = np.zeros((rows * p, columns * p, 3), np.uint8)
  for patch in patches:
    row, column, *size = (int(n) for n in patch[-4:])
    if size != [0, 0]:
      assert size == [rows, columns]
      image[row * p : (row + 1) * p, column * p : (column + 1) * p] = patch[:-4].reshape(p, p, 3)
  return image


@pytest.fixture
def folder(tmp_path, tools):
  for label, seed in itertools.product(range(2), range(8)):
    path = tmp_path / 'photos' / f'class {label}' / f'{seed}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tools.encode(tools.photo(8 * label + seed, SIZES[seed % 4])))
  return tmp_path / 'photos'


@pytest.fixture
def source(folder):
  return open_source(SourceConfig(kind='image_folder', path=str(folder), split='all'))


def knobs(**changes):
  fixed = {'batch_size': 8, 'image_size': (16, 16), 'num_threads': 2, 'max_tokens': 12}
  return DataConfig(**(fixed | changes))


def take(source, count, config, **options):
  with train_batches(config, source, seed=0, native=NATIVE, **options) as batches:
    return [next(batches) for _ in range(count)]


@pytest.mark.parametrize('size', SIZES)
def test_patches_put_together_are_the_resized_image(tools, size):
  image = tools.photo(1, size)
  patches = resize_and_cut(image, NATIVE, 'bilinear')
  expected = resize(image, NATIVE.resized(*size), 'bilinear')
  np.testing.assert_array_equal(put_together(patches), expected)
  filled = expected.size // (16 * 3)
  assert filled <= 12
  assert not patches[filled:].any(), 'padding is zero, whatever the memory held'
  used = np.full(NATIVE.shape, 255, np.uint8)
  np.testing.assert_array_equal(cut(expected, NATIVE, out=used), patches)


def test_an_image_of_the_right_size_is_not_resized(tools):
  image = tools.photo(2, (12, 16))
  np.testing.assert_array_equal(put_together(Preprocess((16, 16), native=NATIVE)(image)), image)


def test_training_without_a_crop_is_evaluation_up_to_the_flip(tools):
  config = knobs(crop='resize')
  transform = training_transform(config, NATIVE)
  seen = set()
  for position in range(12):
    image = tools.photo(position, SIZES[position % 4])
    plain = put_together(Preprocess.from_config(config, native=NATIVE)(image))
    made = put_together(transform(image, example_rng(0, position)))
    seen.add(
      next(name for name, other in (('as is', plain), ('flipped', plain[:, ::-1])) if (other == made).all())
    )
  assert seen == {'as is', 'flipped'}


def test_boxes_vary_around_the_ratio_of_the_image(tools):
  config = knobs(crop='random_resized', crop_area=(0.3, 0.6), crop_ratio=(0.8, 1.25), max_tokens=240)
  transform = training_transform(config, NativePatches(240, 4))
  image = tools.photo(0, (200, 50))
  ratios = []
  for position in range(40):
    crop = transform.augment.crop_of(image, example_rng(0, position))
    ratios.append(crop.shape[1] / crop.shape[0])
    patches = transform(image, example_rng(0, position))
    assert tuple(patches[0, -2:]) == NativePatches(240, 4).grid(*crop.shape[:2])
  assert 0.19 < min(ratios) < 0.22 < 0.28 < max(ratios) < 0.33
  encoded = tools.encode(image, 'JPEG', quality=95)
  a, b = (transform(x, example_rng(0, 3)) for x in (encoded, decode_image(encoded)))
  np.testing.assert_array_equal(a, b)


def test_worker_augmentations_run_on_the_whole_image(tools):
  image = tools.photo(4, (24, 64))
  config = knobs(crop='shift', shift=2, randaugment_layers=2, color_jitter=0.3, erasing_rate=0.5)
  transform = training_transform(config, NATIVE)
  plain = dataclasses.replace(Augment.from_config(config), image_size=NATIVE.resized(24, 64))
  for position in range(5):
    made = put_together(transform(image, example_rng(1, position)))
    np.testing.assert_array_equal(made, plain(image, example_rng(1, position)))


def test_the_stream_does_not_depend_on_processes_threads_or_restarts(source):
  config = knobs(crop='inception', crop_area=(0.3, 1.0), randaugment_layers=1)
  whole = take(source, 4, config)
  assert whole[0]['image'].shape == (8, *NATIVE.shape)
  assert len({tuple(row[0, -2:]) for batch in whole for row in batch['image']}) > 2, 'grids differ'
  parts = [take(source, 4, knobs(crop='inception', crop_area=(0.3, 1.0), randaugment_layers=1, num_threads=1),
    process_index=i, process_count=2) for i in range(2)]  # fmt: skip
  resumed = take(source, 2, config, start_step=2)
  for step in range(4):
    for name in ('image', 'label', 'index'):
      joined = np.concatenate([part[step][name] for part in parts])
      np.testing.assert_array_equal(whole[step][name], joined)
      if step >= 2:
        np.testing.assert_array_equal(whole[step][name], resumed[step - 2][name])


def test_evaluation_holds_each_example_once(source):
  config = knobs(crop='resize')
  with eval_batches(EvalConfig(batch_size=6), config, source, native=NATIVE) as batches:
    rows = list(batches)
  assert [batch['image'].shape for batch in rows] == [(6, *NATIVE.shape)] * 3
  index = np.concatenate([batch['index'] for batch in rows])
  weight = np.concatenate([batch['weight'] for batch in rows])
  assert sorted(index[weight > 0]) == list(range(16))
  image, _ = source.load(int(index[5]))
  expected = Preprocess.from_config(config, native=NATIVE)(image)
  np.testing.assert_array_equal(rows[0]['image'][5], expected)
  assert not rows[-1]['image'][weight[12:] == 0].any()


def test_preprocessing_travels_as_json_and_reads_what_earlier_versions_wrote():
  native = Preprocess((16, 16), native=NATIVE)
  assert Preprocess.from_json(native.to_json()) == native
  assert native.at_one_size() == Preprocess((16, 16))
  assert 'native' not in Preprocess((16, 16)).to_json()
  assert Preprocess.from_json(Preprocess((16, 16)).to_json()) == Preprocess((16, 16))
  with pytest.raises(ConfigError, match='preprocessing cannot be read'):
    Preprocess.from_json(native.to_json().replace('max_tokens', 'tokens'))


def test_what_knows_images_of_one_size_alone_says_so(source, tmp_path):
  for call in (
    lambda: train_batches(knobs(), source, seed=0),
    lambda: eval_batches(EvalConfig(batch_size=6), knobs(), source),
    lambda: contact_sheet(knobs(), source, tmp_path / 'sheet.png'),
  ):
    with pytest.raises(ConfigError, match=r'data\.max_tokens = 12'):
      call()
