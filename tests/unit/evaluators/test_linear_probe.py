"""Logistic regression against scikit-learn, and the choice of its penalty."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vitjax.errors import DataError
from vitjax.evaluators import linear_probe
from vitjax.evaluators.linear_probe import choose_l2, fit_logistic, hold_out


def blobs(num, dim=10, num_classes=4, seed=0, spread=2.0):
  """Returns features in overlapping blobs of unequal sizes, on scales that differ by feature."""
  rng = np.random.default_rng(seed)
  labels = rng.choice(num_classes, size=num, p=np.arange(1, num_classes + 1) / sum(range(1, num_classes + 1)))
  centres = np.random.default_rng(99).standard_normal((num_classes, dim))
  values = centres[labels] + spread * rng.standard_normal((num, dim))
  return (values * np.logspace(-2, 2, dim) + 5).astype(np.float32), labels


def standardised(values, like):
  like = like.astype(np.float64)
  return (values - like.mean(axis=0)) / (like.std(axis=0) + 1e-5)


@pytest.mark.parametrize('l2', [1e-4, 1e-2, 1.0])
def test_probabilities_are_those_of_scikit_learn(l2):
  values, labels = blobs(300)
  queries, _ = blobs(200, seed=1)
  (fit,) = fit_logistic(values, labels, num_classes=4, l2=(l2,))
  peer = LogisticRegression(C=1 / (l2 * len(values)), tol=1e-9, max_iter=10_000)
  peer.fit(standardised(values, values), labels)
  expected = peer.predict_log_proba(standardised(queries, values))
  np.testing.assert_allclose(fit.log_probabilities(queries), expected, atol=2e-4)
  np.testing.assert_allclose(fit.kernel - fit.kernel.mean(1, keepdims=True), peer.coef_.T, atol=1e-4)


def test_two_classes_are_those_of_scikit_learn_with_a_penalty_on_both_columns():
  values, labels = blobs(300, num_classes=2)
  (fit,) = fit_logistic(values, labels, num_classes=2, l2=(1e-2,))
  # One column w of scikit-learn is the difference of two columns w/2 and -w/2, which cost half as much.
  peer = LogisticRegression(C=2 / (1e-2 * len(values)), tol=1e-9, max_iter=10_000)
  peer.fit(standardised(values, values), labels)
  np.testing.assert_allclose(fit.kernel[:, 1] - fit.kernel[:, 0], peer.coef_[0], atol=1e-4)


def test_more_features_than_examples_some_of_them_constant_or_repeated():
  values, labels = blobs(60, dim=100)
  values[:, 7] = 3.0
  values[:, 8] = values[:, 9]
  queries, _ = blobs(50, dim=100, seed=1)
  for l2 in (1e-3, 1e-1):
    (fit,) = fit_logistic(values, labels, num_classes=4, l2=(l2,))
    peer = LogisticRegression(C=1 / (l2 * len(values)), tol=1e-9, max_iter=10_000)
    peer.fit(standardised(values, values), labels)
    np.testing.assert_allclose(fit.kernel - fit.kernel.mean(1, keepdims=True), peer.coef_.T, atol=1e-4)
    np.testing.assert_array_equal(
      fit.log_probabilities(queries).argmax(1), peer.predict(standardised(queries, values))
    )


def test_correlated_features_converge(caplog):
  rng = np.random.default_rng(0)
  labels = rng.integers(4, size=200)
  # Like neighbouring pixels: a few smooth patterns carry nearly all of the variance.
  patterns = rng.standard_normal((200, 300)).cumsum(axis=1)
  values = (patterns + 0.5 * labels[:, None]).astype(np.float32)
  with caplog.at_level(logging.WARNING, 'vitjax'):
    fits = fit_logistic(values, labels, num_classes=4, l2=(1e-6, 1e-3, 1.0))
  assert not caplog.text
  assert fits[0].evaluate(values, labels)[0] == 1.0


def test_chunks_and_padding_change_nothing(monkeypatch):
  values, labels = blobs(300)
  (whole,) = fit_logistic(values, labels, num_classes=4, l2=(1e-3,))
  monkeypatch.setattr(linear_probe, '_CHUNK_SIZE', 64)
  (chunked,) = fit_logistic(values, labels, num_classes=4, l2=(1e-3,))
  np.testing.assert_allclose(chunked.kernel, whole.kernel, atol=1e-5)
  assert chunked.evaluate(values, labels) == pytest.approx(whole.evaluate(values, labels), rel=1e-6)


def test_a_path_of_penalties_ends_where_each_alone_ends_and_keeps_their_order():
  values, labels = blobs(300)
  penalties = (1e-3, 1.0, 1e-2)
  path = fit_logistic(values, labels, num_classes=4, l2=penalties)
  assert tuple(fit.l2 for fit in path) == penalties
  for fit, l2 in zip(path, penalties, strict=True):
    (alone,) = fit_logistic(values, labels, num_classes=4, l2=(l2,))
    np.testing.assert_allclose(fit.kernel, alone.kernel, atol=1e-4)


def test_the_same_numbers_each_time():
  values, labels = blobs(100)
  first, second = (fit_logistic(values, labels, num_classes=4, l2=(1e-3,))[0] for _ in range(2))
  np.testing.assert_array_equal(first.kernel, second.kernel)


def test_evaluation_is_accuracy_and_mean_cross_entropy(monkeypatch):
  monkeypatch.setattr(linear_probe, '_CHUNK_SIZE', 7)
  values, labels = blobs(50)
  (fit,) = fit_logistic(values, labels, num_classes=4, l2=(1e-2,))
  accuracy, loss = fit.evaluate(values, labels)
  logits = standardised(values, values) @ fit.kernel + fit.bias
  assert accuracy == (logits.argmax(1) == labels).mean()
  assert loss == pytest.approx(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(50), labels]))


def test_a_class_without_training_examples_has_a_finite_loss_and_is_never_named():
  values, labels = blobs(200)
  (fit,) = fit_logistic(values[labels != 2], labels[labels != 2], num_classes=4, l2=(1e-2,))
  assert np.isfinite(fit.evaluate(values, labels)[1])
  assert 2 not in fit.log_probabilities(values).argmax(1)


def test_a_part_of_each_class_is_held_out():
  labels = np.repeat([0, 1, 2, 3], [100, 10, 9, 1])
  held = hold_out(labels, 0.29)
  assert np.bincount(labels[held], minlength=4).tolist() == [29, 2, 2, 0]
  np.testing.assert_array_equal(held, hold_out(labels, 0.29))
  assert (held != hold_out(labels, 0.29, seed=1)).any()
  assert np.bincount(labels[hold_out(labels, 0.05, at_least=1)]).tolist() == [5, 1, 1, 1]


def test_the_penalty_with_the_best_held_out_accuracy_is_chosen():
  # More features than examples, most of them noise: a weak penalty fits the noise.
  rng = np.random.default_rng(0)
  labels = rng.integers(2, size=120)
  values = rng.standard_normal((120, 200)).astype(np.float32)
  values[:, :5] += 0.8 * (2 * labels[:, None] - 1)
  penalties = (1e-6, 1e-4, 1e-2, 1.0, 100.0)
  chosen = choose_l2(values, labels, num_classes=2, l2=penalties, held_out=0.3, prefix='')
  held = hold_out(labels, 0.3)
  fits = fit_logistic(values[~held], labels[~held], num_classes=2, l2=penalties)
  accuracies = {fit.l2: fit.evaluate(values[held], labels[held])[0] for fit in fits}
  assert accuracies[chosen] == max(accuracies.values())
  assert chosen > 1e-4


def test_equal_penalties_are_told_apart_by_loss_then_by_size(monkeypatch):
  outcomes = {0.1: (0.5, 1.0), 1.0: (0.5, 0.9), 10.0: (0.5, 0.9), 100.0: (0.4, 0.1)}

  class Fit:
    def __init__(self, l2):
      self.l2 = l2

    def evaluate(self, values, labels):
      return outcomes[self.l2]

  monkeypatch.setattr(linear_probe, 'fit_logistic', lambda *_, l2, **__: [Fit(penalty) for penalty in l2])
  values, labels = blobs(50)
  assert choose_l2(values, labels, num_classes=4, l2=tuple(outcomes), held_out=0.2, prefix='') == 10.0


def test_one_penalty_needs_nothing_held_out_but_several_do():
  values, _ = blobs(8)
  few = np.array([0, 1, 2, 3, 0, 1, 2, 3])
  assert choose_l2(values, few, num_classes=4, l2=(0.5,), held_out=0.2, prefix='evals.val.') == 0.5
  with pytest.raises(DataError, match=r'evals\.val\.held_out = 0\.2: .* the largest class has 2\. Raise'):
    choose_l2(values, few, num_classes=4, l2=(0.5, 1.0), held_out=0.2, prefix='evals.val.')


def test_a_fit_that_has_not_converged_says_so(monkeypatch, caplog):
  monkeypatch.setattr(linear_probe, '_MAX_ITERATIONS', 2)
  values, labels = blobs(100)
  with caplog.at_level(logging.WARNING, 'vitjax'):
    fit_logistic(values, labels, num_classes=4, l2=(1e-6,))
  assert 'has not converged in 2 iterations' in caplog.text
