"""A run on images at their own aspect ratios: trained, judged, resumed, loaded and handed on."""

import itertools

import numpy as np
import PIL.Image
import pytest
import tiny

import vitjax
from vitjax.config import evaluator, evaluators, parse_recipe, source_config
from vitjax.config.naflex import NativePatches
from vitjax.config.schema import SourceConfig
from vitjax.data import open_source
from vitjax.errors import ConfigError
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics

SIZES = ((24, 40), (48, 16), (20, 20), (18, 60))
KNOBS = {'data__max_tokens': 18, 'model__depth': 1, 'total': '6 steps', 'checkpoint__every': '3 steps'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Returns photographs of two classes, the colours tell them apart, in four aspect ratios."""
  root = tmp_path_factory.mktemp('native') / 'photos'
  rng = np.random.default_rng(0)
  for label, i in itertools.product(range(2), range(10)):
    pixels = rng.integers(0, 100, (*SIZES[i % 4], 3), dtype=np.uint8)
    pixels[..., label] += 120
    path = root / f'class {label}' / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
  return root


def recipe(folder, **edits):
  source = source_config(kind='image_folder', path=str(folder), split='all')
  config = tiny.tiny_config(**(KNOBS | edits))
  config.data.source = source
  if 'evals' not in edits:
    judged = {'source': source, 'batch_size': 16, 'every': '6 steps'}
    neighbours = evaluator(kind='knn', train_source=source_config(source, split='all[:10]'), **judged)
    neighbours.num_neighbours = (3,)
    config.evals = evaluators(val=evaluator(**judged), knn=neighbours)
  return config


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp('native') / 'run'
  train(build(parse_recipe(recipe(folder, data__crop='inception', data__crop_area=(0.5, 1.0)))), path)
  return path


@pytest.fixture(scope='module')
def images(folder):
  source = open_source(SourceConfig(kind='image_folder', path=str(folder), split='all'))
  return [source.load(i) for i in range(len(source))]


def test_evaluators_count_each_example_once(trained):
  last = read_metrics(trained)[-1]
  assert last['val/num_examples'] == 20
  assert {'val/accuracy_top1', 'knn/accuracy_3nn'} <= last.keys()


def test_a_loaded_model_predicts_as_the_evaluator_did(trained, images):
  loaded = vitjax.load(trained)
  assert loaded.preprocess.native == NativePatches(18, 4)
  assert 'golden self-test: logits as saved' in loaded.report
  logits = loaded.predict([image for image, _ in images], batch_size=7)
  labels = np.array([label for _, label in images])
  accuracy = (logits.argmax(axis=-1) == labels).mean()
  assert accuracy == pytest.approx(read_metrics(trained)[-1]['val/accuracy_top1'])
  np.testing.assert_allclose(loaded.predict(images[3][0]), logits[3:4], rtol=1e-4, atol=1e-5)
  assert loaded.features([image for image, _ in images[:3]]).shape == (3, 32)


def test_square_images_of_the_stored_size_are_the_ordinary_ones(trained):
  loaded = vitjax.load(trained)
  square = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  plain = vitjax.load(trained, image_size=16)
  assert plain.preprocess.native is None
  np.testing.assert_allclose(loaded.predict(square), plain.predict(square), rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(loaded.at_one_size().predict(square), plain.predict(square))
  with pytest.raises(ConfigError, match='at_one_size'):
    loaded.attention(square)
  assert loaded.at_one_size().attention(square).shape == (2, 1, 4, 17, 17)


@pytest.mark.slow
def test_a_fixed_run_starts_from_a_native_one_and_the_other_way_round(trained, folder, tmp_path):
  """Parameters are the same tree; heads are kept, and one step at rate 0 changes nothing."""
  still = {'init__head': 'keep', 'optim__peak_lr': 0.0, 'total': '1 steps', 'optim__warmup': '0 steps'}
  fixed = tmp_path / 'fixed'
  train(
    build(parse_recipe(recipe(folder, init__checkpoint=str(trained), data__max_tokens=None, **still))), fixed
  )
  back = tmp_path / 'back'
  train(build(parse_recipe(recipe(folder, init__checkpoint=str(fixed), **still))), back)
  before, after = (read_metrics(path)[-1]['val/loss'] for path in (trained, back))
  assert after == pytest.approx(before, rel=1e-5)


@pytest.mark.slow
def test_a_native_run_starts_from_a_probed_head(trained, folder, tmp_path):
  started = recipe(
    folder, init__checkpoint=str(trained), init__head='probe', total='1 steps', optim__warmup='0 steps'
  )
  train(build(parse_recipe(started)), tmp_path)
  assert 'the linear probe of 20 training images' in (tmp_path / 'init_report.txt').read_text()


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(folder, tmp_path):
  augmented = {'data__crop': 'random_resized', 'data__crop_area': (0.4, 1.0), 'data__randaugment_layers': 1}
  more = {'evals': evaluators(), 'optim__accumulation_steps': 2, 'model__dropout_rate': 0.1, **augmented}
  train(build(parse_recipe(recipe(folder, **more))), tmp_path / 'whole')
  train(build(parse_recipe(recipe(folder, stop_after='4 steps', **more))), tmp_path / 'halves')
  train(build(parse_recipe(recipe(folder, **more))), tmp_path / 'halves')
  whole, halves = tiny.restore_arrays(tmp_path / 'whole'), tiny.restore_arrays(tmp_path / 'halves')
  assert whole.keys() == halves.keys()
  for path, array in whole.items():
    np.testing.assert_array_equal(array, halves[path], err_msg=path)
