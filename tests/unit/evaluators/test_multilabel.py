"""Average precision against scikit-learn, and the tables of mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.metrics import confusion_matrix as reference_matrix
from tiny import tiny_config

from vitjax.config import evaluator, evaluators, parse_recipe, source_config
from vitjax.errors import DataError
from vitjax.evaluators.confusion import confusion_matrix, probabilities, worst_mistakes
from vitjax.evaluators.multilabel import average_precisions, sigmoid_losses
from vitjax.training import build


def test_average_precision_is_scikit_learns_with_ties_too():
  rng = np.random.default_rng(0)
  labels = (rng.random((60, 5)) < 0.3).astype(np.int64)
  labels[:, 4] = 0
  for scores in (rng.normal(size=(60, 5)), rng.integers(0, 4, (60, 5)).astype(np.float64)):
    found = average_precisions(scores, labels)
    for i in range(4):
      np.testing.assert_allclose(found[i], average_precision_score(labels[:, i], scores[:, i]), rtol=1e-12)
    assert np.isnan(found[4])


def test_losses_are_binary_cross_entropy_and_finite_for_large_scores():
  losses = sigmoid_losses(np.array([[800.0, -800.0, 0.0]]), np.array([[1, 1, 0]]))
  np.testing.assert_allclose(losses, [[0, 800, np.log(2)]], atol=1e-12)


def test_confusion_counts_and_the_surest_mistake_comes_first():
  labels, predicted = np.array([0, 1, 1, 2]), np.array([0, 2, 1, 0])
  np.testing.assert_array_equal(confusion_matrix(labels, predicted, 3), reference_matrix(labels, predicted))
  probs = probabilities(np.array([[2.0, 0, 0], [0, 0, 1], [0, 3, 0], [9, 0, 0]]), 'softmax')
  assert worst_mistakes(probs, labels, 10).tolist() == [3, 1]
  assert worst_mistakes(probs, labels, 1).tolist() == [3]


def test_images_with_several_classes_are_judged_by_the_classes_of_training(tmp_path):
  Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / 'x.png')
  sources = {}
  for name, classes in (('train', ['red', 'tall']), ('same', ['tall', 'red']), ('other', ['red', 'small'])):
    rows = [json.dumps({'image': 'x.png', 'label': label}) for label in ([], classes)] * 8
    (tmp_path / f'{name}.jsonl').write_text('\n'.join(rows))
    path = str(tmp_path / f'{name}.jsonl')
    sources[name] = source_config(kind='manifest', path=path, split='all', multi_label=True)
  for name in ('same', 'other'):
    val = evaluator(kind='multilabel', source=sources[name], batch_size=16)
    config = tiny_config(data__source=sources['train'], evals=evaluators(val=val), objective__loss='sigmoid')
    if name == 'same':
      assert build(parse_recipe(config)).source.class_names == ('red', 'tall')
    else:
      with pytest.raises(DataError, match=r"class 1 = 'small': expected 'tall'"):
        build(parse_recipe(config))
