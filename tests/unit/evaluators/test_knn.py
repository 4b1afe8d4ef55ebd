"""Nearest neighbours against scikit-learn and a slow loop."""

import math

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vitjax.evaluators import knn
from vitjax.evaluators.knn import knn_predict, nearest, vote


def random_features(num, dim=16, seed=0):
  return np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32) + 0.3


def unequal_labels(num, seed=0):
  return np.random.default_rng(seed).choice(4, size=num, p=[0.6, 0.25, 0.1, 0.05])


def slow_vote(bank, labels, query, k, temperature, num_classes):
  """Returns the class of one query as the DINO paper words it."""
  cosines = [float(query @ row / math.sqrt((query @ query) * (row @ row))) for row in bank.astype(np.float64)]
  order = sorted(range(len(bank)), key=lambda i: (-cosines[i], i))[:k]
  totals = [0.0] * num_classes
  for i in order:
    totals[labels[i]] += math.exp(cosines[i] / temperature)
  return totals.index(max(totals))


@pytest.mark.parametrize('k', [1, 5, 20])
def test_votes_are_those_of_scikit_learn_with_the_same_weights(k):
  bank, labels, queries = random_features(200), unequal_labels(200), random_features(150, seed=1)

  def weights(distances):
    return np.exp((1 - distances) / 0.07)

  peer = KNeighborsClassifier(k, metric='cosine', algorithm='brute', weights=weights).fit(bank, labels)
  predicted = knn_predict(bank, labels, queries, num_neighbours=(k,), temperature=0.07, num_classes=4)
  np.testing.assert_array_equal(predicted[k], peer.predict(queries))
  assert len(np.unique(predicted[k])) > 2


@pytest.mark.parametrize('temperature', [0.02, 0.5])
def test_votes_are_those_of_a_slow_loop(temperature):
  bank, labels, queries = random_features(60), unequal_labels(60), random_features(40, seed=1)
  expected = [slow_vote(bank, labels, q.astype(np.float64), 10, temperature, 4) for q in queries]
  predicted = knn_predict(bank, labels, queries, num_neighbours=(10,), temperature=temperature, num_classes=4)
  assert predicted[10].tolist() == expected


def test_several_k_at_once_are_each_of_them_alone():
  bank, labels, queries = random_features(60), unequal_labels(60), random_features(40, seed=1)
  together = knn_predict(bank, labels, queries, num_neighbours=(20, 1, 5), temperature=0.07, num_classes=4)
  for k in (20, 1, 5):
    alone = knn_predict(bank, labels, queries, num_neighbours=(k,), temperature=0.07, num_classes=4)
    np.testing.assert_array_equal(together[k], alone[k])


def test_with_fewer_than_k_neighbours_all_of_them_vote():
  bank, labels, queries = random_features(7), np.array([0, 0, 0, 1, 1, 2, 3]), random_features(30, seed=1)
  predicted = knn_predict(bank, labels, queries, num_neighbours=(20, 7), temperature=0.07, num_classes=4)
  np.testing.assert_array_equal(predicted[20], predicted[7])
  assert predicted[20].tolist() == [slow_vote(bank, labels, q.astype(float), 20, 0.07, 4) for q in queries]


def test_blocks_of_the_bank_and_of_the_queries_change_nothing(monkeypatch):
  bank, queries = random_features(101), random_features(37, seed=1)
  bank[90] = bank[3]  # an exact tie across blocks
  expected = nearest(bank, queries, 12)
  monkeypatch.setattr(knn, '_BANK_ROWS', 8)
  monkeypatch.setattr(knn, '_QUERY_ROWS', 10)
  similarity, rows = nearest(bank, queries, 12)
  np.testing.assert_array_equal(rows, expected[1])
  np.testing.assert_allclose(similarity, expected[0], atol=1e-6)
  assert (np.diff(similarity, axis=1) <= 0).all()


def test_rows_that_fill_up_a_block_are_no_neighbours(monkeypatch):
  monkeypatch.setattr(knn, '_BANK_ROWS', 4)
  bank = np.abs(random_features(5))
  similarity, rows = nearest(bank, -bank[:2], 5)
  assert np.sort(rows, axis=1).tolist() == [[0, 1, 2, 3, 4]] * 2
  assert (similarity < 0).all()


def test_of_equal_rows_the_lower_one_is_nearer_and_of_equal_votes_the_lower_class_wins():
  bank = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]
  _, rows = nearest(bank, np.eye(3, dtype=np.float32)[:1], 2)
  assert rows.tolist() == [[0, 1]]
  assert vote(np.ones((1, 2)), np.array([[3, 1]]), temperature=0.07, num_classes=4).tolist() == [1]


def test_a_row_of_zeros_is_equally_far_from_everything():
  similarity, rows = nearest(random_features(5), np.zeros((1, 16), np.float32), 5)
  assert similarity.tolist() == [[0.0] * 5]
  assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_a_small_temperature_does_not_overflow():
  assert vote(np.array([[1.0, 0.9]]), np.array([[2, 0]]), temperature=1e-3, num_classes=3).tolist() == [2]
