import numpy as np
import pytest

from vitjax.data.splits import few_per_class, parse_split, stratified_order
from vitjax.errors import ConfigError


@pytest.mark.parametrize(
  ('text', 'size', 'expected'),
  [
    ('train', 50, (0, 50)),
    ('train[:90%]', 50, (0, 45)),
    ('train[90%:]', 50, (45, 50)),
    ('all[4000:]', 5000, (4000, 5000)),
    ('all[10:20]', 15, (10, 15)),
    ('x[-10%:]', 50, (45, 50)),
    ('x[:-5]', 50, (0, 45)),
    ('x[33.3%:66.6%]', 1000, (333, 666)),
    ('x[ 1 : 2 ]', 50, (1, 2)),
    ('x[30:20]', 50, (30, 30)),
    ('train_full-v1.2[:5]', 9, (0, 5)),
  ],
)
def test_bounds(text, size, expected):
  (part,) = parse_split(text, where='s')
  assert part.bounds(size) == expected


@pytest.mark.parametrize('size', [7, 99, 1000])
def test_neighbouring_percentages_meet_without_overlap(size):
  parts = parse_split('t[:33%]+t[33%:66%]+t[66%:]', where='s')
  covered = np.concatenate([np.arange(*part.bounds(size)) for part in parts])
  np.testing.assert_array_equal(covered, np.arange(size))


@pytest.mark.parametrize(
  'text', ['', 'train[', 'train[1]', 'train[a:b]', 'train[::2]', 'train[1.5:]', 'a b', 'a+', '[1:2]']
)
def test_unreadable_splits_are_refused(text):
  with pytest.raises(ConfigError, match=r'evals\.v\.split = .*expected a split such as'):
    parse_split(text, where='evals.v.split')


def test_stratified_order_balances_every_slice():
  labels = np.repeat(np.arange(10), 50)
  order = stratified_order(labels, seed=3)
  np.testing.assert_array_equal(np.sort(order), np.arange(500))
  for start in range(0, 500, 10):
    assert sorted(labels[order[start : start + 10]]) == list(range(10))
  # Not the same class order each time, nor the stored order within a class.
  assert len({tuple(labels[order[start : start + 10]]) for start in range(0, 500, 10)}) > 40
  zeros = order[labels[order] == 0]
  assert not np.array_equal(zeros, np.sort(zeros))
  assert not np.array_equal(order, stratified_order(labels, seed=4))


def test_stratified_order_is_proportional_for_unequal_classes():
  labels = np.repeat([0, 1, 2], [1000, 100, 10])
  head = labels[stratified_order(labels, seed=0)[:555]]
  np.testing.assert_allclose(np.bincount(head), [500, 50, 5], atol=1)


def test_order_is_frozen():
  # Published train/test numbers of mnist5k and digits rest on this stream.
  assert stratified_order(np.arange(12) % 3, seed=20_201_022)[:6].tolist() == [11, 4, 0, 10, 2, 6]


def test_few_per_class():
  labels = np.array([0, 1, 2] * 20)
  chosen, missing = few_per_class(labels, per_class=5, num_classes=3, seed=0)
  assert not missing
  assert np.bincount(labels[chosen]).tolist() == [5, 5, 5]
  assert len(np.unique(chosen)) == 15
  smaller, _ = few_per_class(labels, per_class=3, num_classes=3, seed=0)
  assert set(smaller) < set(chosen)
  other, _ = few_per_class(labels, per_class=5, num_classes=3, seed=1)
  assert set(other) != set(chosen)
  _, missing = few_per_class(labels, per_class=21, num_classes=4, seed=0)
  assert missing == {0: 20, 1: 20, 2: 20, 3: 0}
