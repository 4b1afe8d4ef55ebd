"""Closed-form ridge regression against scikit-learn, plain normal equations, and its own two forms."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier

from vitjax.config.schema import EvalConfig, SourceConfig
from vitjax.data import open_source
from vitjax.errors import DataError
from vitjax.evaluators import make_features
from vitjax.evaluators.fewshot import FewShot, draw_support, fit_ridge

PENALTIES = [2.0**exponent for exponent in (-10, 0, 10, 19)]


def blobs(num, dim, num_classes=3, seed=0, spread=2.0):
  """Returns float32 features in overlapping blobs, on scales that differ by feature, and labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(num_classes, size=num)
  labels[:num_classes] = np.arange(num_classes)
  centres = np.random.default_rng(99).standard_normal((num_classes, dim))
  values = centres[labels] + spread * rng.standard_normal((num, dim))
  return (values * np.logspace(-2, 2, dim) + 5).astype(np.float32), labels


def by_normal_equations(values, labels, num_classes, l2):
  """Returns the weights of vit_facts' recipe, by solving (x'x + l2) w = x'y."""
  x = values.astype(np.float64)
  x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-5)
  x = np.hstack([x, np.full((len(x), 1), 100.0)])
  y = 2 * np.eye(num_classes)[labels] - 1
  return np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)


@pytest.mark.parametrize('num', [7, 12, 13, 60], ids=lambda n: f'{n}-examples-of-13-dimensions')
@pytest.mark.parametrize('l2', PENALTIES)
def test_weights_are_those_of_the_normal_equations_in_both_forms(num, l2):
  values, labels = blobs(num, 12)
  expected = by_normal_equations(values, labels, 3, l2)
  weights = fit_ridge(values, labels, num_classes=3).weights(l2)
  np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize(('num', 'solver'), [(40, 'svd'), (8, 'svd'), (40, 'cholesky')])
def test_weights_are_those_of_scikit_learn_with_the_constant_as_a_column(num, solver):
  values, labels = blobs(num, 12)
  x = (values.astype(np.float64) - values.mean(axis=0, dtype=np.float64)) / (
    values.std(axis=0, dtype=np.float64) + 1e-5
  )
  x = np.hstack([x, np.full((num, 1), 100.0)])
  targets = np.where(labels[:, None] == np.arange(3), 1.0, -1.0)
  ridge = fit_ridge(values, labels, num_classes=3)
  for l2 in PENALTIES[1:]:
    peer = Ridge(alpha=l2, fit_intercept=False, solver=solver).fit(x, targets)
    np.testing.assert_allclose(ridge.weights(l2), peer.coef_.T, rtol=1e-6, atol=1e-9)


def test_predictions_are_those_of_ridge_classifier():
  values, labels = blobs(50, 12)
  queries, _ = blobs(400, 12, seed=1)
  mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64) + 1e-5
  x, q = (np.hstack([(v - mean) / std, np.full((len(v), 1), 100.0)]) for v in (values, queries))
  peer = RidgeClassifier(alpha=3.0, fit_intercept=False).fit(x, labels)
  predicted = fit_ridge(values, labels, num_classes=3).predict(queries, 3.0)
  np.testing.assert_array_equal(predicted, peer.predict(q))
  assert len(np.unique(predicted)) == 3


def test_a_feature_that_never_varies_in_the_support_set_does_no_harm():
  values, labels = blobs(30, 6)
  queries, truth = blobs(300, 6, seed=1)
  before = fit_ridge(values, labels, num_classes=3).predict(queries, 1.0)
  constant = np.hstack([values, np.full((30, 1), 3.0, np.float32)])
  surprise = np.hstack([queries, np.full((300, 1), 7.0, np.float32)])
  after = fit_ridge(constant, labels, num_classes=3).predict(surprise, 1.0)
  np.testing.assert_array_equal(before, after)
  assert (after == truth).mean() > 0.4


def test_unequal_classes_and_one_without_examples():
  values, labels = blobs(40, 12)
  keep = np.concatenate([np.flatnonzero(labels == 0), np.flatnonzero(labels == 2)[:2]])
  ridge = fit_ridge(values[keep], labels[keep], num_classes=4)
  assert set(ridge.predict(values, 1.0).tolist()) <= {0, 2}


NAMES = ('ant', 'bee', 'cat')


def test_draws_hold_the_shots_of_each_class_and_nest_within_a_seed():
  labels = np.repeat([0, 1, 2], [30, 9, 5])
  draws = draw_support(labels, shots=(1, 5), num_draws=3, class_names=NAMES, where='x.shots')
  assert [(d.shots, d.seed) for d in draws] == [(s, seed) for s in (1, 5) for seed in (0, 1, 2)]
  for draw in draws:
    assert np.bincount(labels[draw.examples]).tolist() == [draw.shots] * 3
  for small, large in zip(draws[:3], draws[3:], strict=True):
    assert set(small.examples) < set(large.examples)
  assert len({tuple(draw.examples) for draw in draws}) == 6
  again = draw_support(labels, shots=(1, 5), num_draws=3, class_names=NAMES, where='x.shots')
  assert all((a.examples == b.examples).all() for a, b in zip(draws, again, strict=True))


def test_classes_with_fewer_examples_than_shots_are_named():
  labels = np.repeat([0, 1, 2], [30, 9, 4])
  with pytest.raises(DataError) as caught:
    draw_support(labels, shots=(1, 5, 10), num_draws=2, class_names=NAMES, where='evals.val.shots')
  texts = [str(problem) for problem in caught.value.problems]
  assert len(texts) == 2
  assert "evals.val.shots = 10: expected at most 9: class 'bee'" in texts[0]
  assert "at most 4: class 'cat'" in texts[1]


def score_pixels(config):
  """Returns the metrics of few-shot regression on the pixels of scikit-learn's digits."""
  train, test = (open_source(SourceConfig(kind='digits', split=split)) for split in ('train', 'test'))
  probe = FewShot.from_source(config, train, prefix='evals.val.')
  features = []
  for source in (probe.support, test):
    values = np.stack([source.load(i)[0][..., 0].ravel() for i in range(len(source))])
    features.append(make_features(values, source.labels(), np.arange(len(source)), where='x'))
  return probe.score(*features), len(probe.support)


def test_digits_by_their_pixels_get_better_with_shots_and_the_same_each_time():
  config = EvalConfig(kind='fewshot', shots=(1, 10), num_draws=2, ridge_l2=(1.0, 1024.0))
  result, num_support = score_pixels(config)
  names = [
    f'accuracy_{shots}shot_l2_{l2}{end}' for shots in (1, 10) for l2 in (1, 1024) for end in ('', '_std')
  ]
  assert list(result) == names
  assert 0.3 < result['accuracy_1shot_l2_1'] < result['accuracy_10shot_l2_1'] - 0.1
  assert result['accuracy_10shot_l2_1'] > 0.8
  assert result['accuracy_1shot_l2_1_std'] > 0
  assert 100 < num_support <= 200, 'only the images of some draw are needed'
  assert score_pixels(config)[0] == result


def test_scores_do_not_depend_on_the_other_sizes_that_are_asked_for():
  alone, _ = score_pixels(EvalConfig(kind='fewshot', shots=(5,), num_draws=1))
  among, _ = score_pixels(EvalConfig(kind='fewshot', shots=(10, 5, 1), num_draws=1))
  assert list(alone) == ['accuracy_5shot']
  assert alone['accuracy_5shot'] == among['accuracy_5shot']


def test_damaged_support_images_are_left_out():
  values, labels = blobs(20, 4)
  features = make_features(values[1:], labels[1:], np.arange(1, 20), where='x')
  rows = features.at(np.array([3, 0, 19, 7]))
  assert rows.index.tolist() == [3, 19, 7]
  np.testing.assert_array_equal(rows.values, values[[3, 19, 7]])
