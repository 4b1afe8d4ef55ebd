"""Metrics of the head against scikit-learn and slow definitions, on one and on eight devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from vitjax.config.schema import ParallelConfig
from vitjax.data.pipeline import Batches
from vitjax.evaluators import ClassificationEvaluator
from vitjax.parallel import make_mesh

NUM, CLASSES, BATCH = 203, 7, 16
RNG = np.random.default_rng(0)
LABELS = RNG.choice(CLASSES - 1, NUM, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])  # the last class has no example
LOGITS = RNG.normal(size=(NUM, CLASSES)).astype(np.float32) * 2
LOGITS[np.arange(NUM), LABELS] += 1.5


@dataclasses.dataclass(frozen=True)
class Table:
  """An objective whose scores stand in a table: an image holds the number of its row."""

  def predict(self, params, images):
    row = images[:, 0, 0, 0].astype(jnp.int32) + 256 * images[:, 0, 0, 1]
    return params[row]


class Rows(Batches):
  """Padded batches of the table, in an order of their own, with rubbish in the padding."""

  def __init__(self):
    self._next = 0
    self._order = np.random.default_rng(1).permutation(NUM)

  def __iter__(self):
    return self

  def __next__(self):
    index = self._order[self._next * BATCH : (self._next + 1) * BATCH]
    if not len(index):
      raise StopIteration
    self._next += 1
    real = len(index)
    index = np.concatenate([index, np.full(BATCH - real, -1)])
    images = np.zeros((BATCH, 1, 1, 3), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.maximum(index, 0) % 256, np.maximum(index, 0) // 256
    weight = (np.arange(BATCH) < real).astype(np.float32)
    return {'image': images, 'label': LABELS[index].astype(np.int32), 'weight': weight, 'index': index}

  def close(self):
    pass


def evaluate(num_devices=1, loss='softmax', logits=LOGITS, real_labels=None):
  mesh = make_mesh(ParallelConfig(), jax.devices()[:num_devices])
  evaluator = ClassificationEvaluator(Table(), loss, mesh, Rows, real_labels)
  return evaluator.run(jnp.asarray(logits)), evaluator.totals(jnp.asarray(logits))


def test_metrics_are_those_of_scikit_learn_on_one_and_eight_devices():
  found, totals = evaluate()
  probabilities = np.asarray(jax.nn.softmax(LOGITS), np.float64)
  probabilities /= probabilities.sum(axis=1, keepdims=True)
  guesses, known = LOGITS.argmax(axis=1), np.arange(CLASSES)
  assert found['num_examples'] == NUM
  assert found['accuracy_top1'] == pytest.approx(metrics.accuracy_score(LABELS, guesses), abs=1e-12)
  top5 = metrics.top_k_accuracy_score(LABELS, LOGITS, k=5, labels=known)
  assert found['accuracy_top5'] == pytest.approx(top5, abs=1e-12)
  assert found['loss'] == pytest.approx(metrics.log_loss(LABELS, probabilities, labels=known), rel=1e-5)
  table = metrics.confusion_matrix(LABELS, guesses, labels=known)
  np.testing.assert_array_equal(totals['class_examples'], table.sum(axis=1))
  np.testing.assert_array_equal(totals['class_correct'], table.diagonal())
  recalls = metrics.recall_score(LABELS, guesses, labels=known[:-1], average='macro')
  assert found['accuracy_per_class'] == pytest.approx(recalls, abs=1e-12)

  confidence, right = probabilities.max(axis=1), guesses == LABELS
  accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy='uniform')
  counts = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
  expected = (np.abs(accuracy - mean) * counts[counts > 0] / NUM).sum()
  assert found['calibration_error'] == pytest.approx(expected, abs=1e-6)
  assert expected > 0.02

  eight, eight_totals = evaluate(8)
  assert eight == pytest.approx(found, rel=1e-6)
  for name in ('top1', 'top5', 'examples', 'class_examples', 'class_correct', 'bin_correct'):
    np.testing.assert_array_equal(eight_totals[name], totals[name])


def test_calibration_error_of_extremes():
  sure = np.full((NUM, CLASSES), -100, np.float32)
  sure[np.arange(NUM), LABELS] = 100
  assert evaluate(logits=sure)[0]['calibration_error'] == pytest.approx(0, abs=1e-6)
  wrong = np.roll(sure, 1, axis=1)
  assert evaluate(logits=wrong)[0]['calibration_error'] == pytest.approx(1, abs=1e-6)
  share = (LABELS == 0).mean()
  even = evaluate(logits=np.zeros((NUM, CLASSES), np.float32))[0]
  assert even['calibration_error'] == pytest.approx(abs(share - 1 / CLASSES), abs=1e-6)
  sigmoid = evaluate(loss='sigmoid', logits=np.zeros((NUM, CLASSES), np.float32))[0]
  assert sigmoid['calibration_error'] == pytest.approx(abs(share - 0.5), abs=1e-6)


def test_real_labels_count_any_of_them_and_leave_out_images_without():
  rng = np.random.default_rng(3)
  sets = [rng.choice(CLASSES, rng.integers(0, 4), replace=False).tolist() for _ in range(NUM)]
  table = np.full((NUM, 3), -1, np.int32)
  for row, labels in zip(table, sets, strict=True):
    row[: len(labels)] = labels
  found, _ = evaluate(8, real_labels=table)
  asked = [(guess, labels) for guess, labels in zip(LOGITS.argmax(axis=1), sets, strict=True) if labels]
  assert found['num_examples_real'] == len(asked) < NUM
  assert found['accuracy_real'] == np.mean([guess in labels for guess, labels in asked])


def test_scores_that_are_no_numbers_are_wrong():
  broken = LOGITS.copy()
  broken[:, 3] = np.nan
  found, _ = evaluate(logits=broken, real_labels=np.tile(np.arange(CLASSES, dtype=np.int32), (NUM, 1)))
  assert found['accuracy_top1'] == found['accuracy_per_class'] == found['accuracy_real'] == 0
