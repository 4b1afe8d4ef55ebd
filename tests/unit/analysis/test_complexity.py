"""Formulas against arrays, brute force and XLA's counts; fits and crossings against planted ones."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.analysis import scaling
from vitjax.analysis.complexity import LAYERS
from vitjax.cli.main import main


@pytest.mark.parametrize('name', LAYERS)
def test_parameters_are_exact(name):
  for d, k in ((8, 3), (12, 5)):
    params = LAYERS[name].init(jax.random.key(0), d, k)
    assert sum(p.size for p in params.values()) == LAYERS[name].num_params(d, k)


def count_multiply_adds(jaxpr):
  """Walks a jaxpr: output entries times contracted entries of every product; bodies of scans times their length."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'dot_general':
      (contracted, _), _ = eqn.params['dimension_numbers']
      shape = eqn.invars[0].aval.shape
      total += eqn.outvars[0].aval.size * int(np.prod([shape[i] for i in contracted]))
    elif eqn.primitive.name == 'conv_general_dilated':
      width, channels, _ = eqn.invars[1].aval.shape
      total += eqn.outvars[0].aval.size * width * channels
    repeats = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for value in eqn.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        total += repeats * count_multiply_adds(inner)
  return total


@pytest.mark.parametrize('name', LAYERS)
def test_operations_are_those_of_the_code(name):
  layer, t, d, k = LAYERS[name], 6, 8, 3
  params = layer.init(jax.random.key(0), d, k)
  jaxpr = jax.make_jaxpr(layer.apply)(params, jnp.zeros((2, t, d))).jaxpr
  assert count_multiply_adds(jaxpr) == 2 * layer.num_operations(t, d, k)


@pytest.mark.parametrize(('name', 'k'), [('convolution', 3), ('convolution', 5), ('self-attention', 3)])
def test_the_path_is_as_long_as_it_takes_to_connect_the_ends(name, k):
  layer, t, d = LAYERS[name], 7, 2
  params = layer.init(jax.random.key(0), d, k)
  x = jax.random.normal(jax.random.key(1), (1, t, d))

  def last(first, depth):
    y = x.at[:, 0].set(first)
    for _ in range(depth):
      y = layer.apply(params, y)
    return y[0, -1].sum()

  depth = next(n for n in range(1, t + 1) if np.abs(jax.grad(last)(x[:, 0], n)).max() > 0)
  assert depth == layer.path(t, k)


def test_a_recurrence_is_the_loop_it_stands_for():
  layer = LAYERS['recurrence']
  params = {name: np.asarray(p) for name, p in layer.init(jax.random.key(0), 4, 3).items()}
  x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
  h = np.zeros((2, 4))
  for t in range(5):
    h = np.tanh(x[:, t] @ params['input'] + h @ params['state'] + params['bias'][None])
    np.testing.assert_allclose(layer.apply(params, x)[:, t], h, rtol=1e-4, atol=1e-6)


def test_exponents_and_crossings_of_planted_curves():
  sizes = [16, 32, 64, 128]
  assert scaling.fitted_exponent(sizes, [3 * s**1.7 for s in sizes]) == pytest.approx(1.7)
  quadratic, linear = [s**2 for s in sizes], [50 * s for s in sizes]
  assert scaling.crossing(sizes, quadratic, linear) == pytest.approx(50)
  assert scaling.crossing(sizes, linear, [10 * s for s in sizes]) is None


@pytest.mark.slow
def test_the_command_writes_tables_plot_and_csv(tmp_path, capsys):
  assert main(['complexity', '--smoke', '--repeats=1', f'--out={tmp_path}']) == 0
  printed = capsys.readouterr().out
  assert '4 d² + 4 d' in printed
  assert 'T = 197' in printed
  with (tmp_path / 'exponents.csv').open() as file:
    rows = {(row['layer'], row['vary']): row for row in csv.DictReader(file)}
  assert len(rows) == 8
  # Counts of XLA are exact up to the elementwise work beside the products.
  assert float(rows['attention projections', 'T']['xla']) == pytest.approx(1, abs=0.05)
  assert (tmp_path / 'complexity.png').stat().st_size > 10_000
  page = (tmp_path / 'results.md').read_text()
  assert '| attention projections | T | 16 to 32 | 1 | ' in page
  assert 'of 8 exponents of time' in page
  assert main(['complexity', '--kernel=1', '--repeats=0']) == 2
  assert '--repeats = 0' in capsys.readouterr().err
