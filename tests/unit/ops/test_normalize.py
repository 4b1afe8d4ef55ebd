import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.normalize import normalize


def test_half_and_half_maps_bytes_to_minus_one_to_one():
  images = jnp.array([0, 51, 255], jnp.uint8).reshape(1, 1, 1, 3)
  result = normalize(images, (0.5,) * 3, (0.5,) * 3)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result.ravel(), [-1.0, -0.6, 1.0], atol=1e-6)


def test_channels_have_their_own_numbers():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  expected = (images / 255 - np.array(mean)) / np.array(std)
  result = jax.jit(lambda x: normalize(x, mean, std))(images)
  np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_dtype_of_the_result():
  images = jnp.zeros((1, 2, 2, 3), jnp.uint8)
  assert normalize(images, (0.0,) * 3, (1.0,) * 3, jnp.bfloat16).dtype == jnp.bfloat16
