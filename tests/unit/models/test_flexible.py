"""One set of parameters run at other patch and image sizes; tokens left out of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.schema import ModelConfig
from vitjax.errors import ConfigError
from vitjax.models import build_model, forward_flops, resized_model, train_flops, with_patch_size

SIZE = (24, 24)
SMALL = {'width': 16, 'depth': 1, 'mlp_dim': 32, 'num_heads': 2}


def small(variant='Ti/8', **knobs):
  return build_model(ModelConfig(variant, **SMALL, **knobs), num_classes=3)


def images(size=SIZE, n=2):
  return jnp.asarray(np.random.default_rng(5).normal(size=(n, *size, 3)), jnp.float32)


def run(model, params, x, **keywords):
  return jax.jit(lambda p: model.apply({'params': p}, x, **keywords))(params)


@pytest.mark.parametrize(
  'knobs', [{}, {'position': 'learned_2d', 'pool': 'gap', 'position_at': 'every_layer', 'layers': 'scan'}]
)
def test_its_own_sizes_change_nothing_and_others_take_the_same_parameters(knobs, random_params):
  model = small(**knobs)
  params = random_params(model, (1, *SIZE, 3))
  same = resized_model(model, image_size=SIZE, patch_size=8)
  np.testing.assert_array_equal(run(same, params, images()), run(model, params, images()))
  finer = resized_model(model, image_size=SIZE, patch_size=4)
  logits, out = run(finer, params, images((32, 24)), return_features=True)
  assert out['tokens'].shape[1] == 8 * 6 + (model.config.pool == 'token')
  assert np.isfinite(logits).all()


@pytest.mark.parametrize('patch', [4, 12])
@pytest.mark.parametrize(
  'knobs', [{}, {'position': 'learned_2d', 'pool': 'gap', 'position_at': 'every_layer', 'layers': 'scan'}]
)
def test_parameters_resized_for_good_compute_the_same(knobs, patch, random_params):
  model = small(**knobs)
  params = jax.device_get(random_params(model, (1, *SIZE, 3)))
  config, resized = with_patch_size(model.config, params, image_size=SIZE, patch_size=patch)
  assert config.patch_size == patch
  plain = build_model(config, num_classes=3)
  shapes = jax.eval_shape(plain.init, jax.random.key(0), images())['params']
  assert jax.tree.map(lambda x: x.shape, resized) == jax.tree.map(lambda x: x.shape, shapes)
  on_the_fly = resized_model(model, image_size=SIZE, patch_size=patch)
  expected = run(on_the_fly, params, images())
  np.testing.assert_allclose(
    run(plain, resized, images()), expected, atol=1e-5 * float(jnp.abs(expected).max())
  )


@pytest.mark.parametrize(
  ('variant', 'knobs', 'patch', 'told'),
  [
    ('R-tiny', {}, 8, 'A ResNet has no patches'),
    ('Ti/8', SMALL, 5, 'Nearest: 4 or 6'),
    ('Ti/8', {**SMALL, 'position': 'relative'}, 4, 'Offsets along the raster'),
  ],
)
def test_patches_that_cannot_be_resized_are_refused(variant, knobs, patch, told):
  with pytest.raises(ConfigError, match=told):
    with_patch_size(ModelConfig(variant, **knobs), {}, image_size=SIZE, patch_size=patch)


def test_a_doubled_image_with_doubled_patches_gives_the_same_embeddings(random_params):
  """With bilinear images, PI-resizing is exact: what the embedding makes of a patch and of its enlargement agrees."""
  model = small(position='none', pool='gap')
  params = random_params(model, (1, *SIZE, 3))
  blocks = images(n=1).reshape(1, 3, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(9, 8, 8, 3)
  doubled = jax.image.resize(blocks, (9, 16, 16, 3), 'linear', antialias=False)
  doubled = doubled.reshape(1, 3, 3, 16, 16, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 48, 48, 3)
  coarse = resized_model(model, image_size=SIZE, patch_size=16)
  expected = run(model, params, images(n=1))
  np.testing.assert_allclose(
    run(coarse, params, doubled), expected, atol=1e-4 * float(jnp.abs(expected).max())
  )


def test_gradients_reach_the_stored_kernel_and_positions(random_params):
  model = small()
  params = random_params(model, (1, *SIZE, 3))
  other = resized_model(model, image_size=SIZE, patch_size=4)
  gradients = jax.jit(jax.grad(lambda p: (other.apply({'params': p}, images()) ** 2).sum()))(params)
  assert jax.tree.structure(gradients) == jax.tree.structure(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    # A key's bias moves all logits of a query alike.
    assert np.abs(leaf).max() > 0 or 'key' in jax.tree_util.keystr(path), path


def test_token_dropping_shortens_training_alone(random_params):
  model, plain = small('Ti/4', token_drop_rate=0.5, num_registers=1), small('Ti/4', num_registers=1)
  params = random_params(model, (1, *SIZE, 3))

  @jax.jit
  def trained(key):
    return model.apply({'params': params}, images(), train=True, return_features=True, rngs={'dropout': key})

  logits, out = trained(jax.random.key(0))
  assert out['tokens'].shape == (2, 2 + 18, 16)
  assert not np.allclose(logits, trained(jax.random.key(1))[0])
  np.testing.assert_array_equal(run(model, params, images()), run(plain, params, images()))


def test_position_rows_of_dropped_patches_get_no_gradient(random_params):
  model = small('Ti/4', token_drop_rate=0.75, layers='scan')
  params = random_params(model, (1, *SIZE, 3))
  rngs = {'dropout': jax.random.key(0)}
  loss = lambda p: (model.apply({'params': p}, images(n=1), train=True, rngs=rngs) ** 2).sum()  # noqa: E731
  table = np.asarray(jax.jit(jax.grad(loss))(params)['Transformer']['posembed_input']['pos_embedding'])[0]
  assert table.any(axis=1).sum() == 1 + 9
  assert table[0].any(), 'the class token is always kept'


def test_flops_count_kept_tokens_and_drawn_patches():
  config = ModelConfig('S/16', token_drop_rate=0.5)
  plain = ModelConfig('S/16')
  sizes = {'image_size': (224, 224), 'num_classes': 10}
  assert forward_flops(config, **sizes) == forward_flops(plain, **sizes)
  shorter = forward_flops(config, **sizes, train=True)
  d, tokens = 384, 98 + 1
  blocks = 12 * (8 * tokens * d * d + 4 * tokens**2 * d + 4 * tokens * d * 4 * d)
  assert shorter == blocks + 2 * 196 * 16 * 16 * 3 * d + 2 * d * 10
  assert train_flops(plain, **sizes) == 3 * forward_flops(plain, **sizes)
  flexible = ModelConfig('S/16', patch_sizes=(8, 16, 32))
  each = [forward_flops(ModelConfig('S/16', patch_size=p), **sizes) for p in (8, 16, 32)]
  assert train_flops(flexible, **sizes) == pytest.approx(sum(each), rel=1e-12)
