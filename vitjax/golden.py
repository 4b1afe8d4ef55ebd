"""The golden self-test: a checkpoint holds its model's logits for a seeded input, and loading repeats them.

It catches what digests of arrays cannot: a change of code, libraries or hardware that changes what a model says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.data import Preprocess
from vitjax.errors import CheckpointError, Problem
from vitjax.ops.normalize import normalize

_SEED = 0
_NUM_IMAGES = 2
_NUM_LOGITS = 16
# Allowed |difference| / max |logit|, by compute dtype. float32 covers accelerators that multiply in TF32.
_TOLERANCE = {'float32': 5e-3, 'bfloat16': 5e-2}


def images(image_size: tuple[int, int]) -> np.ndarray:
  """Returns the seeded input, uint8 [2, h, w, 3]: the raw bits of a counter-based generator, which never change."""
  shape = (_NUM_IMAGES, *image_size, 3)
  size = math.prod(shape)
  raw = np.random.Philox(key=_SEED).random_raw(-(-size // 8))
  return raw.astype('<u8').view(np.uint8)[:size].reshape(shape)


def record(
  predict: Callable[[Any, Any], jax.Array], params: Any, image_size: tuple[int, int]
) -> dict[str, Any]:
  """Returns what a checkpoint's meta stores: the first logits of the seeded input, as JSON. Called by all processes.

  Args:
    predict: (params, uint8 images) -> float32 scores [n, v], jitted, with a replicated result.
    params: the weights that evaluation uses.
    image_size: (h, w) in pixels.
  """
  logits = np.asarray(predict(params, images(image_size)))
  return {'logits': logits[:, :_NUM_LOGITS].tolist(), 'scale': float(np.abs(logits).max())}


def check(
  stored: dict[str, Any], model: Any, params: Any, preprocess: Preprocess, *, dtype: str, where: str
) -> str:
  """Returns a sentence that says how well the stored logits were met.

  Args:
    stored: what `record` returned when the checkpoint was written.
    model: Linen module, float [n, h, w, 3] -> float32 [n, v].
    params: its parameters.
    preprocess: image size and normalisation.
    dtype: the model's compute dtype, which sets the tolerance.
    where: the checkpoint, for the error.

  Raises:
    CheckpointError: this machine's logits are not those that were stored.
  """
  pixels = normalize(jnp.asarray(images(preprocess.image_size)), preprocess.mean, preprocess.std)
  logits = np.asarray(jax.jit(lambda p, x: model.apply({'params': p}, x, train=False))(params, pixels))
  expected = np.asarray(stored['logits'], np.float32)
  difference = float(np.abs(logits[:, :_NUM_LOGITS] - expected).max()) / max(stored['scale'], 1e-6)
  if not difference <= _TOLERANCE[dtype]:
    problem = Problem(
      'golden self-test',
      f'logits differ by {difference:.2g} of the largest one',
      f'at most {_TOLERANCE[dtype]:g} in {dtype}',
      'The weights are as they were saved, but this model, these libraries or this device compute something else: '
      'compare the versions in the checkpoint with `vitjax doctor`',
    )  # fmt: skip
    raise CheckpointError(f'{where}: the model does not say what it said when it was saved', [problem])
  return f'golden self-test: logits as saved, within {difference:.1g} of the largest one'
