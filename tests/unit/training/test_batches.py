"""What reaches the devices: uint8 pixels, made and sent by a thread that ends with the stream."""

import contextlib
import threading

import numpy as np
import tiny

from vitjax.data import train_batches
from vitjax.training import build


def test_batches_are_uint8_of_a_thread_that_ends_with_them():
  run = build(tiny.tiny_recipe())
  with (
    contextlib.closing(run.batches(3)) as batches,
    train_batches(run.recipe.data, run.source, seed=run.recipe.seed, start_step=3) as expected,
  ):
    for batch, rows in zip([next(batches), next(batches)], expected, strict=False):
      assert {name: array.dtype for name, array in batch.items()} == {'image': np.uint8, 'label': np.int32}
      np.testing.assert_array_equal(np.asarray(batch['image']), rows['image'])
    assert 'device-prefetch' in {thread.name for thread in threading.enumerate()}
  assert 'device-prefetch' not in {thread.name for thread in threading.enumerate()}
