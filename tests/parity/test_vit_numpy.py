"""VisionTransformer against an own float64 forward pass in numpy: one image, head, query at a time."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import trees
from vitjax.models import create_model

SIZES = {'patch_size': 4, 'width': 16, 'depth': 2, 'mlp_dim': 24, 'num_heads': 2}
IMAGES = (2, 8, 12, 3)  # a grid of 2 x 3 patches


def dense(x, p):
  y = x @ p['kernel']
  return y + p['bias'] if 'bias' in p else y


def layer_norm(x, p):
  centred = x - x.mean(axis=-1, keepdims=True)
  y = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6) * p['scale']
  return y + p['bias'] if 'bias' in p else y


def gelu(x, form):
  if form == 'exact':
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(x, p, form):
  return dense(gelu(dense(x, p['Dense_0']), form), p['Dense_1'])


def relative_row(query, key, num_prefix, num_patches):
  """The documented rows: offsets first, then 'to prefix token', then 'from prefix token'."""
  num_offsets = 2 * num_patches - 1
  if key < num_prefix:
    return num_offsets + key
  if query < num_prefix:
    return num_offsets + num_prefix + query
  return query - key + num_patches - 1


def attention(queries, tokens, p, relative=None, num_prefix=0):
  num_heads, head_dim, width = p['out']['kernel'].shape
  out = np.zeros((len(queries), width)) + p['out']['bias']
  for k in range(num_heads):

    def head(x, name, k=k):
      kernel, bias = p[name]['kernel'][:, k], p[name]['bias'][k] if 'bias' in p[name] else 0
      return x @ kernel + bias

    q, key, value = head(queries, 'query'), head(tokens, 'key'), head(tokens, 'value')
    if 'query_ln' in p:
      q, key = layer_norm(q, p['query_ln']), layer_norm(key, p['key_ln'])
    for i in range(len(queries)):
      logits = np.zeros(len(tokens))
      for j in range(len(tokens)):
        logits[j] = q[i] @ key[j]
        if relative is not None:
          logits[j] += q[i] @ relative[relative_row(i, j, num_prefix, len(tokens) - num_prefix)]
      weights = np.exp((logits - logits.max()) / math.sqrt(head_dim))
      gathered = (weights / weights.sum()) @ value
      out[i] += gathered @ p['out']['kernel'][k]
  return out


def sincos(h, w, d):
  rows = []
  for y in range(h):
    for x in range(w):
      angles = [[place / 1e4 ** (i / (d // 4 - 1)) for i in range(d // 4)] for place in (x, y)]
      rows.append(
        np.concatenate([np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])])
      )
  return np.stack(rows)


def additive_positions(config, params, grid, d):
  """Returns [l, d] in the order class token, registers, patches."""
  h, w = grid
  has_cls = config.pool == 'token'
  if config.position == 'learned_1d':
    table = params['posembed_input']['pos_embedding'][0]
    first, cells = table[: int(has_cls)], table[int(has_cls) :]
  elif config.position == 'learned_2d':
    tables = params['posembed_input']
    cells = [
      np.concatenate([tables['pos_embedding_x'][0, x], tables['pos_embedding_y'][0, y]])
      for y in range(h)
      for x in range(w)
    ]
    cells = np.stack(cells)
    first = tables['pos_embedding_cls'][0] if has_cls else np.zeros((0, d))
  else:
    first, cells = np.zeros((int(has_cls), d)), sincos(h, w, d)
  return np.concatenate([first, np.zeros((config.num_registers, d)), cells])


def encoder(x, params, config, grid, parallel):
  num_prefix = len(x) - grid[0] * grid[1]
  additive = config.position not in ('none', 'relative')
  if additive and config.position_at == 'stem':
    x = x + additive_positions(config, params, grid, x.shape[-1])
  for i in range(sum(name.startswith('encoderblock_') for name in params)):
    p = params[f'encoderblock_{i}']
    place = params if config.position_at == 'every_layer_shared' else p
    if additive and config.position_at != 'stem':
      x = x + additive_positions(config, place, grid, x.shape[-1])
    relative = place['posembed_input']['relative_keys'] if config.position == 'relative' else None
    gains = [p[f'LayerScale_{j}']['scale'] if config.layer_scale_init is not None else 1.0 for j in range(2)]
    y = layer_norm(x, p['LayerNorm_0'])
    attended = gains[0] * attention(y, y, p['MultiHeadDotProductAttention_0'], relative, num_prefix)
    if parallel:
      x = x + attended + gains[1] * mlp(y, p['MlpBlock_0'], config.gelu)
    else:
      x = x + attended
      x = x + gains[1] * mlp(layer_norm(x, p['LayerNorm_1']), p['MlpBlock_0'], config.gelu)
  return layer_norm(x, params['encoder_norm'])


def forward(image, params, config, parallel):
  """Returns the logits [v] of one image [h, w, c]."""
  kernel = params['embedding']['kernel']
  size = kernel.shape[0]
  grid = (image.shape[0] // size, image.shape[1] // size)
  tokens = [params[name][0] for name in ('cls', 'registers') if name in params]
  num_prefix = sum(len(t) for t in tokens)
  for row in range(grid[0]):
    for column in range(grid[1]):
      patch = image[row * size : (row + 1) * size, column * size : (column + 1) * size]
      tokens.append((np.tensordot(patch, kernel, axes=3) + params['embedding']['bias'])[None])
  x = encoder(np.concatenate(tokens), params['Transformer'], config, grid, parallel)
  if config.pool == 'token':
    pooled = x[0]
  elif config.pool == 'gap':
    pooled = x[num_prefix:].mean(axis=0)
  else:
    p = params['MAPHead_0']
    y = attention(p['probe'][0], x[num_prefix:], p['MultiHeadDotProductAttention_0'])
    pooled = (y + mlp(layer_norm(y, p['LayerNorm_0']), p['MlpBlock_0'], config.gelu))[0]
  if 'pre_logits' in params:
    pooled = np.tanh(dense(pooled, params['pre_logits']))
  return dense(pooled, params['head']) if 'head' in params else pooled


CASES = {
  'paper': {},
  'pre_logits': {'representation_size': 9},
  'gap': {'pool': 'gap'},
  'map': {'pool': 'map', 'position': 'sincos_2d', 'representation_size': 9},
  'no_head': {'num_classes': 0, 'pool': 'gap'},
  'no_positions': {'position': 'none'},
  'learned_1d_every_layer': {'position_at': 'every_layer', 'num_registers': 2},
  'learned_1d_shared': {'position_at': 'every_layer_shared', 'pool': 'gap'},
  'learned_2d': {'position': 'learned_2d'},
  'learned_2d_every_layer': {'position': 'learned_2d', 'position_at': 'every_layer', 'num_registers': 1},
  'learned_2d_shared_gap': {'position': 'learned_2d', 'position_at': 'every_layer_shared', 'pool': 'gap'},
  'sincos': {'position': 'sincos_2d', 'num_registers': 1},
  'sincos_shared': {'position': 'sincos_2d', 'position_at': 'every_layer_shared'},
  'relative': {'position': 'relative'},
  'relative_every_layer': {
    'position': 'relative',
    'position_at': 'every_layer',
    'pool': 'gap',
    'num_registers': 3,
  },
  'relative_shared': {
    'position': 'relative',
    'position_at': 'every_layer_shared',
    'num_registers': 1,
    'qk_norm': True,
  },
  'registers': {'num_registers': 3, 'pool': 'map'},
  'layer_scale': {'layer_scale_init': 0.1},
  'qk_norm': {'qk_norm': True, 'gelu': 'exact'},
  'parallel': {'parallel_blocks': True, 'layer_scale_init': 0.1},
  '22B': {'variant': '22B/14', 'gelu': 'exact'},
}


def assert_matches_numpy(overrides, shrink='(?!)'):
  """Compares logits for random parameters; paths that `shrink` matches are 100 times smaller."""
  model = create_model(**{'variant': 'B/16', 'num_classes': 5, **SIZES, **overrides})
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(IMAGES, jnp.float32))['params']

  def draw(path, leaf):
    scale = 0.004 if re.fullmatch(shrink, path) else 0.4
    return rng.normal(scale=scale, size=leaf.shape).astype(np.float32)

  params = trees.map_with_path(draw, shapes)
  images = rng.normal(size=IMAGES).astype(np.float32)
  logits = np.asarray(jax.jit(model.apply)({'params': params}, images))
  exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
  parallel = model.variant.size.parallel_blocks
  expected = np.stack([forward(image, exact, model.config, parallel) for image in images.astype(np.float64)])
  assert logits.shape == expected.shape
  assert logits.dtype == np.float32
  assert np.abs(expected[0] - expected[1]).max() > 1e-2  # the images matter
  assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize('case', CASES)
def test_logits_match_numpy(case):
  assert_matches_numpy(CASES[case])


@pytest.mark.parametrize(
  ('overrides', 'shrink'),
  [
    ({'qk_norm': True}, r'.*/(query|key)/.*'),
    ({'pool': 'map'}, r'MAPHead_0/(probe|.*/(value|out)/.*)'),
    ({'pool': 'gap', 'position': 'none'}, r'embedding/.*'),
  ],
)
def test_epsilons_of_the_norms(overrides, shrink):
  assert_matches_numpy(overrides, shrink)


def test_exact_and_tanh_gelu_differ():
  x = np.linspace(-3, 3, 50)
  difference = np.abs(gelu(x, 'exact') - gelu(x, 'tanh')).max()
  assert 1e-4 < difference < 1e-3
