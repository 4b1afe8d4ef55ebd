"""The ResNets against a slow numpy model in float64, written layer by layer with loops and without jax."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.config.variants import ResNetVariant
from vitjax.models import resnet


def same_pad(size, window, stride):
  """(before, after) of SAME padding: the odd one goes after."""
  total = max((-(-size // stride) - 1) * stride + window - size, 0)
  return total // 2, total - total // 2


def windows(x, window, stride, pad, fill):
  """Yields (row, column, patch [n, window, window, c]) of a padded batch, one output place at a time."""
  if pad == 'SAME':
    spec = [same_pad(x.shape[1], window, stride), same_pad(x.shape[2], window, stride)]
  else:
    spec = [(pad, pad), (pad, pad)]
  x = np.pad(x, [(0, 0), *spec, (0, 0)], constant_values=fill)
  for i in range((x.shape[1] - window) // stride + 1):
    for j in range((x.shape[2] - window) // stride + 1):
      yield i, j, x[:, i * stride : i * stride + window, j * stride : j * stride + window]


def gather(places):
  """Assembles {(row, column): [n, c]} into [n, h, w, c]."""
  h, w = (max(place[axis] for place in places) + 1 for axis in (0, 1))
  return np.stack([np.stack([places[i, j] for j in range(w)], 1) for i in range(h)], 1)


def conv(x, kernel, stride=1, pad: str | int = 'SAME'):
  size, _, c_in, c_out = kernel.shape
  places = {}
  for i, j, patch in windows(x, size, stride, pad, 0.0):
    value = np.zeros((x.shape[0], c_out))
    for a in range(size):
      for b in range(size):
        for c in range(c_in):
          value += patch[:, a, b, c, None] * kernel[a, b, c][None]
    places[i, j] = value
  return gather(places)


def max_pool(x, pad, fill):
  return gather({(i, j): patch.max((1, 2)) for i, j, patch in windows(x, 3, 2, pad, fill)})


def group_norm(x, p, groups, eps):
  out = np.empty_like(x)
  size = x.shape[-1] // groups
  for n in range(x.shape[0]):
    for g in range(groups):
      part = x[n, :, :, g * size : (g + 1) * size]
      out[n, :, :, g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + eps)
  return out * p['scale'] + p['bias']


def by_std(p):
  out = np.empty_like(p['kernel'])
  for o in range(out.shape[-1]):
    w = p['kernel'][..., o]
    out[..., o] = (w - w.mean()) / (np.sqrt(((w - w.mean()) ** 2).mean()) + 1e-5)
  return out


def by_variance(p):
  out = np.empty_like(p['kernel'])
  for o in range(out.shape[-1]):
    w = p['kernel'][..., o]
    out[..., o] = (w - w.mean()) / np.sqrt(((w - w.mean()) ** 2).mean() + 1e-10)
  return out


def relu(x):
  return np.where(x > 0, x, 0.0)


def hybrid_stem(x, p, units, groups):
  def norm(x, p):
    return group_norm(x, p, groups, 1e-6)

  x = max_pool(relu(norm(conv(x, by_std(p['conv_root']), 2), p['gn_root'])), 'SAME', -np.inf)
  for b, num_units in enumerate(units, start=1):
    for u in range(1, num_units + 1):
      q = p[f'block{b}'][f'unit{u}']
      stride = 2 if (b > 1 and u == 1) else 1
      y = relu(norm(conv(x, by_std(q['conv1'])), q['gn1']))
      y = relu(norm(conv(y, by_std(q['conv2']), stride), q['gn2']))
      y = norm(conv(y, by_std(q['conv3'])), q['gn3'])
      if u == 1:
        x = norm(conv(x, by_std(q['conv_proj']), stride), q['gn_proj'])
      x = relu(x + y)
  return x


def bit(x, p, units, groups, small_root):
  def norm(x, p):
    return group_norm(x, p, groups, 1e-5)

  root = by_variance(p['root_block']['conv_root'])
  x = conv(x, root, 2, 1) if small_root else max_pool(conv(x, root, 2, 3), 1, 0.0)
  for b, num_units in enumerate(units, start=1):
    for u in range(1, num_units + 1):
      q = p[f'block{b}'][f'unit{u:02d}']
      stride = 2 if (b > 1 and u == 1) else 1
      y = relu(norm(x, q['gn1']))
      shortcut = conv(y, by_variance(q['conv_proj']), stride, 0) if u == 1 else x
      y = relu(norm(conv(y, by_variance(q['conv1']), 1, 0), q['gn2']))
      y = relu(norm(conv(y, by_variance(q['conv2']), stride, 1), q['gn3']))
      x = shortcut + conv(y, by_variance(q['conv3']), 1, 0)
  x = relu(norm(x, p['norm-pre-head']))
  pooled = x.mean((1, 2))
  return x, pooled, pooled @ p['head']['kernel'] + p['head']['bias']


def random_params(variables, seed, tiny):
  """Parameters in float64 and float32; tiny ones make every epsilon count."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    scale = 1.0 if path.startswith('head') or not tiny else 1e-5 if path.endswith('kernel') else 1e-3
    return scale * rng.normal(0.3, 0.5, leaf.shape)

  params = trees.map_with_path(draw, variables['params'])
  return params, jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)


class Stem(nn.Module):
  units: tuple[int, ...]

  @nn.compact
  def __call__(self, x):
    return resnet.apply_hybrid_stem(x, self.units, width=4, groups=2)


@pytest.mark.parametrize(
  ('units', 'size', 'tiny'), [((1,), (16, 16), False), ((2, 1), (24, 19), False), ((1, 1), (16, 16), True)]
)
def test_hybrid_stem(units, size, tiny):
  x = np.random.default_rng(0).normal(0, 1e-3 if tiny else 1, (2, *size, 3))
  model = Stem(units)
  shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
  params64, params = random_params(jax.eval_shape(model.init, jax.random.key(0), shape), 1, tiny)
  ours = jax.jit(model.apply)({'params': params}, jnp.asarray(x, jnp.float32))
  wanted = hybrid_stem(x, params64, units, groups=2)
  assert ours.shape == wanted.shape
  np.testing.assert_allclose(ours, wanted, atol=2e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
  ('units', 'small_root', 'size', 'tiny'),
  [
    ((1,), False, (16, 16), False),
    ((1, 2), True, (8, 7), False),
    ((2, 1), False, (22, 17), False),
    ((1, 1), True, (8, 8), True),
  ],
)
def test_bit(units, small_root, size, tiny):
  x = np.random.default_rng(0).normal(0, 1e-3 if tiny else 1, (2, *size, 3))
  model = resnet.BiTResNet(ResNetVariant(units, 4, 2, small_root), 5)
  shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
  params64, params = random_params(jax.eval_shape(model.init, jax.random.key(0), shape), 1, tiny)
  apply = jax.jit(lambda p, x: model.apply({'params': p}, x, return_features=True))
  logits, out = apply(params, jnp.asarray(x, jnp.float32))
  maps, pooled, wanted = bit(x, params64, units, 2, small_root)
  tokens = maps.reshape(2, -1, maps.shape[-1])
  np.testing.assert_allclose(out['tokens'], tokens, atol=2e-4 * np.abs(tokens).max())
  np.testing.assert_allclose(out['pooled'], pooled, atol=2e-4 * np.abs(pooled).max())
  np.testing.assert_allclose(logits, wanted, atol=2e-4 * np.abs(wanted).max())
