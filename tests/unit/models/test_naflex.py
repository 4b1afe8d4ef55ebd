"""Batches of images at their own aspect ratios: the same numbers as the images one by one, padding or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.naflex import NativePatches
from vitjax.config.schema import DataConfig, ModelConfig
from vitjax.data.naflex import resize_and_cut
from vitjax.data.transforms import resize
from vitjax.models import build_model, computed_size, forward_flops, resized_model, train_flops
from vitjax.ops.naflex import NativeImages, model_inputs

SIZE = (24, 24)
HALF = (0.5,) * 3
SMALL = {'width': 16, 'depth': 1, 'mlp_dim': 32, 'num_heads': 2}
FORMS = [
  {'pool': 'gap', 'num_registers': 2, 'layers': 'scan', 'layer_scale_init': 0.5},
  *(
    pytest.param(knobs, marks=pytest.mark.slow)
    for knobs in (
      {'depth': 2},
      {'pool': 'map', 'position': 'learned_2d', 'qk_norm': True},
      {'position': 'sincos_2d', 'position_at': 'every_layer_shared', 'layers': 'scan', 'remat': 'full'},
      {'pool': 'gap', 'position': 'none', 'parallel_blocks': True, 'final_norm': 'pooled'},
    )
  ),
]


def photos(sizes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def native_inputs(images, max_tokens):
  native = NativePatches(max_tokens, 8)
  return model_inputs(np.stack([resize_and_cut(image, native, 'bilinear') for image in images]), HALF, HALF)


def make(random_params, **knobs):
  model = build_model(ModelConfig('Ti/8', **(SMALL | knobs)), num_classes=3)
  return model, random_params(model, (1, *SIZE, 3))


def run(model, params, x, **keywords):
  return jax.jit(lambda p: model.apply({'params': p}, x, **keywords))(params)


@pytest.mark.parametrize('knobs', FORMS)
def test_a_mixed_batch_equals_its_images_one_by_one_on_the_ordinary_path(knobs, random_params):
  """The reference knows nothing of patches on the wire, of padding or of masks."""
  model, params = make(random_params, **knobs)
  model = resized_model(model, image_size=SIZE)
  images = photos([(40, 40), (30, 70), (96, 20)])
  inputs = native_inputs(images, 12)
  logits, out = run(model, params, inputs, return_features=True)
  assert len({tuple(x) for x in np.asarray([inputs.places.rows[:, 0], inputs.places.columns[:, 0]]).T}) == 3
  native = NativePatches(12, 8)
  whole = [resize(image, native.resized(*image.shape[:2]), 'bilinear')[None] for image in images]
  one_by_one = jax.jit(
    lambda p: [model.apply({'params': p}, model_inputs(x, HALF, HALF), return_features=True) for x in whole]
  )
  for i, (expected, expected_out) in enumerate(one_by_one(params)):
    np.testing.assert_allclose(logits[i], expected[0], rtol=1e-5, atol=2e-6)
    length = expected_out['tokens'].shape[1]
    np.testing.assert_allclose(out['tokens'][i, :length], expected_out['tokens'][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('knobs', FORMS)
def test_an_image_of_the_models_own_grid_gets_the_ordinary_logits(knobs, random_params):
  model, params = make(random_params, **knobs)
  images = photos([SIZE, SIZE])
  expected = run(model, params, model_inputs(np.stack(images), HALF, HALF))
  for max_tokens in (9, 11):
    found = run(resized_model(model, image_size=SIZE), params, native_inputs(images, max_tokens))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('knobs', FORMS[:3])
def test_what_stands_in_padding_changes_nothing(knobs, random_params):
  model, params = make(random_params, **knobs)
  model = resized_model(model, image_size=SIZE)
  inputs = native_inputs(photos([(30, 70), (96, 20)]), 12)
  padding = np.repeat(np.asarray(inputs.places.rows == 0), 8, axis=1)[..., None, None]
  assert padding.any()
  noise = np.random.default_rng(1).normal(scale=100, size=inputs.strips.shape).astype(np.float32)
  other = NativeImages(jnp.where(padding, noise, inputs.strips), inputs.places)

  def loss(params, inputs):
    return (model.apply({'params': params}, inputs, train=True) ** 2).sum()

  step = jax.jit(jax.value_and_grad(loss))
  (value, gradient), (same, same_gradient) = step(params, inputs), step(params, other)
  np.testing.assert_allclose(value, same, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, same_gradient)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(same_gradient))


def test_parameters_are_those_of_the_model_of_one_size(random_params):
  model, params = make(random_params)
  sized = resized_model(model, image_size=SIZE)
  inputs = native_inputs(photos([SIZE, (10, 80)]), 9)
  shapes = jax.eval_shape(sized.init, jax.random.key(0), inputs)['params']
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)


@pytest.mark.slow
def test_dropout_and_stochastic_depth_train_and_probabilities_leave_padding_out(random_params):
  model, params = make(
    random_params, dropout_rate=0.1, attention_dropout_rate=0.1, stochastic_depth_rate=0.5, num_registers=1
  )
  model = resized_model(model, image_size=SIZE)
  inputs = native_inputs(photos([(30, 70), (96, 20)]), 12)
  train = lambda key: model.apply({'params': params}, inputs, train=True, rngs={'dropout': key})  # noqa: E731
  assert np.isfinite(jax.jit(train)(jax.random.key(0))).all()
  _, kept = jax.jit(lambda p: model.apply({'params': p}, inputs, mutable=['intermediates']))(params)
  for probabilities in jax.tree.leaves(kept['intermediates']):
    hidden = np.broadcast_to(
      (np.asarray(inputs.places.rows) == 0)[:, None, None], probabilities[..., 2:].shape
    )
    assert not probabilities[..., 2:][hidden].any()
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_flops_are_those_of_max_tokens_patches():
  model, data = ModelConfig('S/16'), DataConfig(max_tokens=196)
  size = computed_size(model, data)
  assert computed_size(model, DataConfig()) == (224, 224)
  expected = forward_flops(model, image_size=(224, 224), num_classes=10)
  assert forward_flops(model, image_size=size, num_classes=10) == expected
  assert train_flops(model, image_size=size, num_classes=10) == 3 * expected
