"""The order of training: every example once per epoch, mixed, and anew each time."""

import numpy as np
import pytest

from vitjax.data.order import source_index


def test_order_mixes_well():
  order = np.array([source_index(p, 1000, seed=1, shuffle=True) for p in range(1000)])
  assert abs(np.corrcoef(np.arange(1000), order)[0, 1]) < 0.1
  assert (np.diff(order) == 1).mean() < 0.02
  first = [source_index(0, 1000, seed=seed, shuffle=True) for seed in range(200)]
  assert len(set(first)) > 150


@pytest.mark.parametrize('num_examples', [2, 7, 1 << 14, (1 << 14) + 1])
def test_small_and_large_sources_are_shuffled_anew_each_epoch(num_examples):
  epochs = [
    [source_index(epoch * num_examples + i, num_examples, seed=3, shuffle=True) for i in range(num_examples)]
    for epoch in range(3)
  ]
  for order in epochs:
    assert sorted(order) == list(range(num_examples))
  if num_examples > 2:
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != list(range(num_examples))
