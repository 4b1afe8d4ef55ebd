"""vitjax.load and vitjax.export: any source, changed on the way, and back."""

import json

import numpy as np
import PIL.Image
import pytest
import tiny

import vitjax
from vitjax.errors import CheckpointError, ConfigError
from vitjax.models import resized_model
from vitjax.training import build, train


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('loading') / 'run'
  train(build(tiny.tiny_recipe()), path)
  return path


@pytest.fixture(scope='module')
def loaded(workdir):
  return vitjax.load(workdir)


@pytest.fixture
def photo():
  return np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def test_a_workdir_says_where_it_comes_from_and_passes_the_golden_test(loaded):
  assert loaded.format == 'vitjax'
  assert loaded.class_names == ('class 0', 'class 1', 'class 2', 'class 3')
  assert 'step 20, digests verified' in loaded.report
  assert 'golden self-test: logits as saved' in loaded.report
  assert loaded.recipe.total.value == 20


def test_other_patches_on_images_as_stored(workdir, loaded, photo):
  coarse = vitjax.load(workdir, patch_size=8)
  assert coarse.config.patch_size == 8
  assert coarse.preprocess == loaded.preprocess
  assert 'resized for patches of 8 pixels' in coarse.report
  assert coarse.features(photo, tokens=True).shape == (1, 1 + 4, 32)
  resized = resized_model(loaded.model, image_size=(16, 16), patch_size=8)
  (x,) = loaded.inputs(photo, 1)
  expected = resized.apply({'params': loaded.params}, x)
  np.testing.assert_allclose(coarse.predict(photo), expected, atol=1e-5)
  with pytest.raises(ConfigError, match='Nearest: 4 or 8'):
    vitjax.load(workdir, patch_size=5)


def test_predict_takes_paths_pil_images_and_arrays(loaded, photo, tmp_path):
  path = tmp_path / 'ein Bild ü.png'
  PIL.Image.fromarray(photo).save(path)
  logits = loaded.predict(path)
  assert logits.shape == (1, 4)
  assert logits.dtype == np.float32
  for same in (photo, PIL.Image.fromarray(photo), [str(path)], photo[None], path.read_bytes()):
    np.testing.assert_array_equal(loaded.predict(same), logits)
  prepared = (loaded.preprocess(photo) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
  np.testing.assert_allclose(loaded.predict(prepared[None]), logits, atol=1e-6)


def test_batches_of_prediction_do_not_show(loaded):
  images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), np.uint8)
  np.testing.assert_allclose(loaded.predict(images, batch_size=2), loaded.predict(images), atol=1e-6)


def test_features_of_the_head_of_a_layer_and_of_all_tokens(loaded, photo):
  pooled = loaded.features(photo)
  tokens = loaded.features(photo, tokens=True)
  assert pooled.shape == (1, 32)
  assert tokens.shape == (1, 17, 32)
  np.testing.assert_allclose(pooled[0], tokens[0, 0], atol=1e-6)
  first = loaded.features(photo, layer=0, tokens=True)
  np.testing.assert_array_equal(loaded.features(photo, layer=-2), first[:, 0])
  with pytest.raises(ConfigError, match=r'layer = 2: expected -2 to 1'):
    loaded.features(photo, layer=2)
  head = {name: np.asarray(value) for name, value in loaded.params['head'].items()}
  np.testing.assert_allclose(pooled @ head['kernel'] + head['bias'], loaded.predict(photo), atol=1e-5)


def test_attention_rows_sum_to_one_and_change_no_number(loaded, photo):
  before = loaded.predict(photo)
  attention = loaded.attention(photo)
  assert attention.shape == (1, 2, 4, 17, 17)
  np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
  np.testing.assert_array_equal(loaded.predict(photo), before)


def test_another_image_size_resamples_the_positions(workdir, photo):
  larger = vitjax.load(workdir, image_size=(24, 32))
  assert larger.params['Transformer']['posembed_input']['pos_embedding'].shape == (1, 1 + 6 * 8, 32)
  assert larger.preprocess.image_size == (24, 32)
  assert '1 resized' in larger.report
  assert larger.predict(photo).shape == (1, 4)


def test_a_new_head_is_zero(workdir, photo):
  fresh = vitjax.load(workdir, num_classes=7, head='reset')
  assert fresh.class_names[-1] == 'class 6'
  assert not fresh.predict(photo).any()


def test_a_removed_head_leaves_the_features(workdir, loaded, photo):
  headless = vitjax.load(workdir, num_classes=0)
  np.testing.assert_array_equal(headless.features(photo), loaded.features(photo))
  with pytest.raises(CheckpointError, match='no head'):
    headless.predict(photo)


def test_bfloat16_is_close(workdir, loaded, photo):
  half = vitjax.load(workdir, dtype='bfloat16')
  assert half.params['embedding']['kernel'].dtype == 'bfloat16'
  scale = np.abs(loaded.predict(photo)).max()
  np.testing.assert_allclose(half.predict(photo), loaded.predict(photo), atol=0.1 * scale)


def test_arguments_that_make_no_sense_are_refused_together(workdir):
  with pytest.raises(ConfigError) as caught:
    vitjax.load(workdir, num_classes=3, dtype='float16', head='keep')
  assert [p.where for p in caught.value.problems] == ['dtype', 'num_classes']


def test_a_model_that_says_something_else_is_refused(workdir, monkeypatch):
  from vitjax import golden

  honest = golden.images
  monkeypatch.setattr(golden, 'images', lambda size: 255 - honest(size))
  with pytest.raises(CheckpointError, match='does not say what it said'):
    vitjax.load(workdir)


@pytest.mark.parametrize('format', ['npz', 'timm', 'huggingface'])
def test_export_and_load_again_gives_the_same_arrays_and_logits(format, workdir, photo, tmp_path):
  loaded = vitjax.load(workdir)
  target = tmp_path / ('model.npz' if format == 'npz' else 'model')
  lost = vitjax.export(loaded, target, format)
  back = vitjax.load(target)
  # Already of the right size, so that no resize filter plays a part: only .npz readers resize without antialiasing.
  small = photo[:16, :16]
  np.testing.assert_allclose(back.predict(small), loaded.predict(small), atol=1e-5)
  if format != 'npz':
    assert any('interpolation' in sentence for sentence in lost)
  ours, theirs = vitjax_flat(loaded), vitjax_flat(back)
  assert ours.keys() == theirs.keys()
  for path, array in ours.items():
    np.testing.assert_array_equal(array, theirs[path], err_msg=path)
  card = (tmp_path / 'model.npz.md' if format == 'npz' else target / 'README.md').read_text()
  assert 'Ti/4' in card
  assert 'mean (0.5, 0.5, 0.5)' in card
  if format == 'huggingface':
    assert json.loads((target / 'config.json').read_text())['id2label']['3'] == 'class 3'


def vitjax_flat(loaded):
  from vitjax.trees import flatten

  return {path: np.asarray(leaf) for path, leaf in flatten(loaded.params).items()}


def test_export_overwrites_nothing_and_knows_its_formats(loaded, tmp_path):
  with pytest.raises(ConfigError) as caught:
    vitjax.export(loaded, tmp_path, 'torch')
  assert [p.where for p in caught.value.problems] == ['format', 'path']


def test_what_a_format_cannot_express_is_named(tmp_path):
  run = build(tiny.tiny_recipe(model__position='relative', stop_after='5 steps'))
  train(run, tmp_path / 'run')
  relative = vitjax.load(tmp_path / 'run')
  for format, target in (('npz', 'm.npz'), ('timm', 'm'), ('huggingface', 'm')):
    with pytest.raises(CheckpointError, match=r'model\.position'):
      vitjax.export(relative, tmp_path / target, format)
    assert not (tmp_path / target).exists()
