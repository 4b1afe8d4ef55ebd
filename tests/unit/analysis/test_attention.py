"""Attention distances, maps and gradients against slow loops and cases with known answers."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_loaded import RESNET, tiny_images, tiny_loaded

from vitjax import analysis
from vitjax.analysis import TokenLayout
from vitjax.errors import ConfigError

LAYOUT = TokenLayout(grid=(2, 3), stride=4, num_prefix=1, has_class_token=True)


def random_attention(n=2, depth=3, k=2, l=7, seed=0):  # noqa: E741
  logits = np.random.default_rng(seed).normal(0, 1, (n, depth, k, l, l))
  weights = np.exp(logits)
  return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


def slow_distance(attention, layout, renormalize):
  """The definition in loops: [depth, k] means over images and patch queries."""
  n, depth, k, l, _ = attention.shape  # noqa: E741
  p = layout.num_prefix
  result = np.zeros((depth, k))
  for b, h in itertools.product(range(depth), range(k)):
    found = []
    for i, q in itertools.product(range(n), range(p, l)):
      total = kept = 0.0
      for j in range(p, l):
        yq, xq = divmod(q - p, layout.grid[1])
        yj, xj = divmod(j - p, layout.grid[1])
        a = float(attention[i, b, h, q, j])
        total += a * layout.stride * math.sqrt((yq - yj) ** 2 + (xq - xj) ** 2)
        kept += a
      found.append(total / kept if renormalize else total)
    result[b, h] = sum(found) / len(found)
  return result


@pytest.mark.parametrize('renormalize', [True, False])
def test_distance_is_the_definition(renormalize):
  attention = random_attention()
  found = np.asarray(analysis.query_distances(attention, LAYOUT, renormalize=renormalize))
  np.testing.assert_allclose(
    found.mean(axis=(0, 3)), slow_distance(attention, LAYOUT, renormalize), rtol=1e-5
  )


def test_identity_attention_has_distance_zero():
  eye = np.broadcast_to(np.eye(7, dtype=np.float32), (1, 1, 1, 7, 7))
  assert not np.asarray(analysis.query_distances(eye, LAYOUT)).any()


def test_a_row_that_sees_only_the_class_token_has_distance_zero_and_no_nan():
  only = np.zeros((1, 1, 1, 7, 7), np.float32)
  only[..., 0] = 1
  assert not np.asarray(analysis.query_distances(only, LAYOUT)).any()


def test_uniform_attention_has_the_analytic_distance():
  two = TokenLayout((2, 2), 10, 0, False)
  uniform = np.full((1, 1, 1, 4, 4), 0.25, np.float32)
  expected = 10 * (0 + 1 + 1 + math.sqrt(2)) / 4
  np.testing.assert_allclose(analysis.query_distances(uniform, two), expected, rtol=1e-6)
  # In a fine grid: the mean distance of two random points of the unit square.
  square = (2 + math.sqrt(2) + 5 * math.asinh(1)) / 15
  np.testing.assert_allclose(analysis.patch_distances((40, 40), 1).mean() / 40, square, rtol=1e-3)


def test_the_class_token_does_not_dilute_unless_asked():
  row = np.zeros((1, 1, 1, 5, 5), np.float32)
  row[..., 0], row[..., 4] = 0.9, 0.1
  layout = TokenLayout((2, 2), 10, 1, True)
  looks_at_last = [10 * math.sqrt(2), 10, 10, 0]
  np.testing.assert_allclose(analysis.query_distances(row, layout)[0, 0, 0], looks_at_last, rtol=1e-5)
  diluted = analysis.query_distances(row, layout, renormalize=False)[0, 0, 0]
  np.testing.assert_allclose(diluted, np.multiply(0.1, looks_at_last), rtol=1e-5)


def test_distance_of_a_model_over_batches():
  loaded, images = tiny_loaded(num_registers=1), tiny_images(5)
  found = analysis.attention_distance(loaded, images, batch_size=2)
  layout = analysis.token_layout(loaded)
  assert layout == TokenLayout((4, 4), 4, 2, True)
  np.testing.assert_allclose(found.mean, slow_distance(loaded.attention(images), layout, True), rtol=1e-5)
  np.testing.assert_allclose(found.share, found.mean / 16)
  assert (found.spread > 0).all()


def test_a_resnet_has_no_attention_distance():
  with pytest.raises(ConfigError, match='a ViT or a hybrid'):
    analysis.attention_distance(tiny_loaded(RESNET), tiny_images())


def test_receptive_field_of_convolutions():
  assert analysis.conv_receptive_field(60) == 121
  assert analysis.conv_receptive_field(58) < 120 <= analysis.conv_receptive_field(60)
  assert analysis.conv_layers_needed(120) == 60
  assert analysis.conv_layers_needed(1) == 0


@pytest.mark.parametrize(('pool', 'layers'), [('token', 'loop'), ('gap', 'scan'), ('map', 'loop')])
def test_capture_changes_no_number(pool, layers):
  """Logits with capture are bitwise those without; zero perturbations change them by rounding alone."""
  loaded, images = tiny_loaded(pool=pool, layers=layers), tiny_images()
  variables = {'params': loaded.params}
  apply = functools.partial(loaded.model.apply, train=False)
  plain = jax.jit(apply)(variables, images)
  captured, kept = jax.jit(functools.partial(apply, mutable=['intermediates']))(variables, images)
  assert plain.tobytes() == captured.tobytes()
  is_kept = lambda x: isinstance(x, tuple)  # noqa: E731
  zeros = jax.tree.map(lambda x: jnp.zeros_like(x[0]), kept['intermediates'], is_leaf=is_kept)
  shifted = jax.jit(apply)({**variables, 'perturbations': zeros}, images)
  np.testing.assert_allclose(plain, shifted, rtol=1e-5, atol=1e-6)
  found = analysis.attention_with_gradient(loaded, images)
  np.testing.assert_allclose(found.scores, np.asarray(plain).max(axis=-1), rtol=1e-5)
  np.testing.assert_allclose(found.attention, loaded.attention(images), atol=1e-6)


@pytest.mark.parametrize('layers', ['loop', 'scan'])
def test_attention_gradient_is_the_finite_difference(layers):
  loaded, image = tiny_loaded(layers=layers), tiny_images(1)
  found = analysis.attention_with_gradient(loaded, image, classes=np.array([2]))
  _, kept = loaded.model.apply({'params': loaded.params}, image, train=False, mutable=['intermediates'])
  zeros = jax.tree.map(
    lambda x: np.zeros(x[0].shape, np.float32), kept['intermediates'], is_leaf=lambda x: isinstance(x, tuple)
  )
  block, head, query, key = 0, 1, 3, 5
  values = []
  for step in (-0.01, 0.01):
    shift = jax.tree.map(np.copy, zeros)
    inner = shift['Transformer']
    if layers == 'scan':
      target = inner['encoderblock']['MultiHeadDotProductAttention_0']['attention'][block]
    else:
      target = inner[f'encoderblock_{block}']['MultiHeadDotProductAttention_0']['attention']
    target[0, head, query, key] = step
    out = loaded.model.apply({'params': loaded.params, 'perturbations': shift}, image, train=False)
    values.append(float(out[0, 2]))
  slope = (values[1] - values[0]) / 0.02
  # Differences of float32 logits of about 1, divided by 0.02.
  assert found.gradient[0, block, head, query, key] == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_a_model_without_a_head_is_scored_by_its_features():
  loaded, images = tiny_loaded(num_classes=0), tiny_images()
  found = analysis.attention_with_gradient(loaded, images)
  assert found.classes is None
  np.testing.assert_allclose(found.scores, 0.5 * (loaded.features(images) ** 2).sum(axis=1), rtol=1e-4)
  assert np.abs(found.gradient).max() > 0
  with pytest.raises(ConfigError, match='no head'):
    analysis.attention_with_gradient(loaded, images, classes=np.zeros(3, int))


def slow_rollout(attention):
  n, depth, k, l, _ = attention.shape  # noqa: E741
  result = []
  for i in range(n):
    total = None
    for b in range(depth):
      mixed = np.zeros((l, l))
      for q, j in itertools.product(range(l), range(l)):
        mixed[q, j] = sum(float(attention[i, b, h, q, j]) for h in range(k)) / k + (q == j)
      for q in range(l):
        mixed[q] = mixed[q] / sum(mixed[q])
      if total is None:
        total = mixed
        continue
      product = np.zeros((l, l))
      for q, j in itertools.product(range(l), range(l)):
        product[q, j] = sum(mixed[q, m] * total[m, j] for m in range(l))
      total = product
    result.append(total)
  return np.stack(result)


def test_rollout_is_the_definition():
  attention = random_attention()
  expected = slow_rollout(attention)
  np.testing.assert_allclose(
    analysis.rollout(attention, LAYOUT), expected[:, 0, 1:].reshape(2, 2, 3), rtol=1e-5
  )
  gap = TokenLayout((1, 7), 4, 0, False)
  np.testing.assert_allclose(analysis.rollout(attention, gap)[:, 0], expected.mean(axis=1), rtol=1e-5)


def test_rollout_of_identity_attention_is_identity():
  eye = np.broadcast_to(np.eye(7, dtype=np.float32), (1, 4, 2, 7, 7))
  np.testing.assert_allclose(analysis.rollout(eye, LAYOUT), 0)


def test_gradient_weighted_is_the_definition():
  attention = random_attention()
  gradient = np.random.default_rng(5).normal(0, 1, attention.shape).astype(np.float32)
  found = analysis.AttentionWithGradient(attention, gradient, np.zeros(2), None)
  n, depth, k, l, _ = attention.shape  # noqa: E741
  for i in range(n):
    total = np.eye(l)
    for b in range(depth):
      mixed = np.zeros((l, l))
      for h, q, j in itertools.product(range(k), range(l), range(l)):
        mixed[q, j] += max(0.0, float(gradient[i, b, h, q, j]) * float(attention[i, b, h, q, j])) / k
      total = total + np.array(
        [[sum(mixed[q, m] * total[m, j] for m in range(l)) for j in range(l)] for q in range(l)]
      )
    expected = total[0, 1:].reshape(2, 3)
    np.testing.assert_allclose(analysis.gradient_weighted(found, LAYOUT)[i], expected, rtol=1e-4)


def test_head_maps_are_rows_of_the_class_token():
  attention = random_attention()
  maps = analysis.head_maps(attention, LAYOUT)
  assert maps.shape == (2, 3, 2, 2, 3)
  np.testing.assert_array_equal(maps[1, 2, 0, 1, 2], attention[1, 2, 0, 0, 6])
  without = TokenLayout((2, 3), 4, 1, False)
  np.testing.assert_allclose(
    analysis.head_maps(attention, without)[0, 0, 0, 0, 1], attention[0, 0, 0, 1:, 2].mean(), rtol=1e-6
  )
