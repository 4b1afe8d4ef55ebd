"""ModelConfig -> sizes: overrides land, and configs that cannot work are told apart, all problems at once."""

from __future__ import annotations

import re

import pytest

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import VIT_SIZES, ViTSize
from vitjax.errors import ConfigError
from vitjax.models.sizes import num_prefix_tokens, resolve_variant


def test_overrides_land():
  variant = resolve_variant(
    ModelConfig(variant='B/16', width=96, depth=3, mlp_dim=10, num_heads=4, qk_norm=True, patch_size=8)
  )
  assert variant.size == ViTSize(96, 3, 10, 4, qk_norm=True)
  assert (variant.patch_size, variant.downsample, variant.stem_units) == (8, 8, ())


def test_variant_keeps_what_is_not_overridden():
  assert resolve_variant(ModelConfig(variant='22B/14')).size == VIT_SIZES['22B']
  assert not resolve_variant(ModelConfig(variant='22B/14', qk_norm=False)).size.qk_norm


def test_hybrid_downsample_counts_the_stem():
  variant = resolve_variant(ModelConfig(variant='R50+B/16', patch_size=2))
  assert (variant.patch_size, variant.downsample, variant.stem_units) == (2, 32, (3, 4, 9))


@pytest.mark.parametrize(
  ('pool', 'registers', 'expected'), [('token', 0, 1), ('token', 4, 5), ('gap', 4, 4), ('map', 0, 0)]
)
def test_prefix_tokens(pool, registers, expected):
  assert num_prefix_tokens(ModelConfig(pool=pool, num_registers=registers)) == expected


@pytest.mark.parametrize(
  ('settings', 'problems'),
  [
    ({'variant': 'B16'}, [r"model.variant = 'B16'.*Did you mean 'B/16'"]),
    ({'variant': 'H/0'}, ['model.variant']),
    ({'num_heads': 7}, ['model.num_heads = 7: expected a divisor of the width, 768. Nearest: 6 or 8']),
    ({'width': 18, 'num_heads': 3, 'position': 'sincos_2d'}, ['model.width = 18: expected a multiple of 4']),
    ({'width': 9, 'num_heads': 3, 'position': 'learned_2d'}, ['model.width = 9: expected a multiple of 2']),
    ({'position': 'none', 'position_at': 'every_layer'}, ["model.position_at = 'every_layer'.*'stem'"]),
    ({'position': 'sincos_2d', 'position_at': 'every_layer'}, ['every_layer_shared.*table is fixed']),
    ({'pool': 'cls'}, ["model.pool = 'cls': expected one of 'token', 'gap', 'map'"]),
    ({'depth': 0}, ['model.depth = 0: expected an integer >= 1']),
    ({'dropout_rate': 1.0}, ['model.dropout_rate = 1.0.*largest allowed value is 0.99']),
    ({'dropout_rate': None}, ['model.dropout_rate = None: expected a number']),
    ({'width': '64'}, ["model.width = '64': expected an integer"]),
    ({'pool': 'cls', 'depth': 0}, ['model.depth = 0', "model.pool = 'cls'"]),
    (
      {'width': 6, 'num_heads': 4, 'position': 'sincos_2d', 'position_at': 'every_layer'},
      ['model.num_heads', 'model.width', 'model.position_at'],
    ),
    (
      {'variant': 'R50x1', 'width': 64, 'pool': 'gap'},
      ['model.width = 64: .*only transformer variants', "model.pool = 'gap'"],
    ),
  ],
)
def test_problems(settings, problems):
  with pytest.raises(ConfigError) as error:
    resolve_variant(ModelConfig(**settings))
  assert len(error.value.problems) == len(problems)
  for problem, pattern in zip(error.value.problems, problems, strict=True):
    assert re.search(pattern, str(problem)), problem
