"""Analytic operation counts: published figures, and every product and convolution that a trace holds."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from vitjax.config.schema import ModelConfig
from vitjax.models import build_model, forward_flops


@pytest.mark.parametrize(
  ('variant', 'image_size', 'giga'),
  [
    ('Ti/16', 224, 2.507),
    ('S/16', 224, 9.198),
    ('B/32', 224, 8.818),
    ('B/16', 224, 35.128),
    ('L/16', 224, 123.109),
    ('H/14', 224, 334.590),
    ('g/14', 224, 534.063),
    ('G/14', 224, 967.495),
    ('Ti/16', 384, 28.093 / 3),
    ('S/16', 384, 92.942 / 3),
    ('B/32', 384, 78.261 / 3),
    ('B/16', 384, 332.906 / 3),
    ('L/16', 384, 1146.398 / 3),
    ('H/14', 378, 3020.888 / 3),
    ('g/14', 378, 4784.319 / 3),
    ('G/14', 378, 8575.354 / 3),
    (
      'R50x1',
      224,
      8.178,
    ),  # twice the 4.09 G multiply-adds of a ResNet-50 whose 3x3 convolution takes the stride
  ],
)
def test_published_table(variant, image_size, giga):
  flops = forward_flops(ModelConfig(variant=variant), image_size=(image_size, image_size), num_classes=1000)
  assert flops / 1e9 == pytest.approx(giga, abs=6e-4)


def traced_flops(jaxpr):
  """Returns 2 per multiply-add over all matrix products and convolutions of a jaxpr."""
  total = 0
  for equation in jaxpr.eqns:
    out = equation.outvars[0].aval.shape
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      total += 2 * math.prod(out) * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    elif equation.primitive.name == 'conv_general_dilated':
      total += 2 * math.prod(out) * math.prod(equation.invars[1].aval.shape[:3])
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += traced_flops(inner)
  return total


@pytest.mark.parametrize(
  ('config', 'image_size', 'num_classes'),
  [
    (ModelConfig('B/32'), (64, 96), 10),
    (ModelConfig('Ti/16', pool='map', num_registers=3, representation_size=50), (48, 32), 10),
    (ModelConfig('Ti/16', pool='gap', position='relative'), (32, 32), 0),
    (ModelConfig('22B/14', depth=1, width=32, num_heads=4), (28, 28), 3),
    (ModelConfig('R50+B/16', depth=2), (100, 64), 7),
    (ModelConfig('R50+L/32', depth=1), (72, 200), 7),
    (ModelConfig('R50x1'), (65, 90), 11),
    (ModelConfig('R-tiny'), (28, 29), 10),
  ],
)
def test_count_is_that_of_the_trace(config, image_size, num_classes):
  model = build_model(config, num_classes=num_classes)
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  traced = traced_flops(jax.make_jaxpr(model.apply)(variables, images).jaxpr)
  assert forward_flops(config, image_size=image_size, num_classes=num_classes) == traced
