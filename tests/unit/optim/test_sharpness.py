"""SAM and GSAM on a function whose gradients are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.schema import OptimConfig
from vitjax.optim.sharpness import sharpness_aware

W = {'a': np.array([1.0, -2.0, 0.5]), 'b': np.array([0.3])}
SCALE = {'a': np.array([1.0, 3.0, -2.0]), 'b': np.array([5.0])}
KEY = jax.random.key(0)


def gradients(params, batch, key):
  """Of the sum of scale * w^4 / 4; the loss says where it was evaluated."""
  del batch, key
  return params['b'][0], {name: jnp.asarray(SCALE[name]) * w**3 for name, w in params.items()}


def found(rate=0.0, **knobs):
  config = OptimConfig(peak_lr=0.1, end_lr=0.01, **knobs)
  params = {name: jnp.asarray(w, jnp.float32) for name, w in W.items()}
  return sharpness_aware(gradients, config)(params, None, KEY, jnp.float32(rate))


def wanted(rho, alpha=0.0, names=('a', 'b')):
  flat = np.concatenate([W[name] for name in names])
  scale = np.concatenate([SCALE[name] for name in names])
  g = scale * flat**3
  s = scale * (flat + rho * g / np.linalg.norm(g)) ** 3
  return s - alpha * (g - (g @ s) / (s @ s) * s)


def flat(grads):
  return np.concatenate([grads['a'], grads['b']])


def test_off_it_is_the_gradient_itself():
  np.testing.assert_array_equal(
    flat(found()[1]), flat(gradients({n: jnp.asarray(w, jnp.float32) for n, w in W.items()}, None, KEY)[1])
  )


@pytest.mark.parametrize('alpha', [0.0, 0.6])
def test_gradient_is_that_of_the_paper_and_the_loss_is_the_clean_one(alpha):
  loss, grads = found(sam_rho=0.3, gsam_alpha=alpha)
  np.testing.assert_allclose(flat(grads), wanted(0.3, alpha), rtol=1e-5)
  np.testing.assert_allclose(loss, W['b'][0], rtol=1e-6)


@pytest.mark.parametrize(('rate', 'rho'), [(0.1, 0.6), (0.01, 0.1), (0.055, 0.35), (0.0, 0.1 - 0.5 / 9)])
def test_distance_follows_the_rate(rate, rho):
  _, grads = found(rate, sam_rho=0.6, sam_rho_end=0.1)
  np.testing.assert_allclose(flat(grads), wanted(rho), rtol=1e-5)


def test_frozen_parameters_neither_move_nor_count():
  _, grads = found(sam_rho=0.3, gsam_alpha=0.6, freeze=('b',))
  np.testing.assert_allclose(grads['a'], wanted(0.3, 0.6, names=('a',)), rtol=1e-5)
  assert float(grads['b'][0]) == 0


def test_zero_gradients_stay_zero():
  config = OptimConfig(sam_rho=0.3, gsam_alpha=0.6)
  params = {'a': jnp.zeros(3), 'b': jnp.zeros(1)}
  _, grads = sharpness_aware(gradients, config)(params, None, KEY, jnp.float32(0.1))
  assert not flat(grads).any()
