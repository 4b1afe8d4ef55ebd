"""Classification against slow definitions: smoothed targets, and the loss on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config import default_config, parse_recipe
from vitjax.objectives.classification import Classification

KEY = jax.random.key(0)
NUM_CLASSES = 5
LABELS = np.array([0, 4, 2])
SEVERAL = np.array([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], np.uint8)


class FixedLogits:
  """A model whose parameters are its logits."""

  def apply(self, variables, images, **_):
    return variables['params']


def objective(**knobs):
  recipe = parse_recipe(default_config())
  data = dataclasses.replace(recipe.data, image_size=(4, 4))
  return Classification(FixedLogits(), NUM_CLASSES, dataclasses.replace(recipe.objective, **knobs), data)


def batch_of(labels):
  return {'image': jnp.zeros((len(labels), 4, 4, 3), jnp.uint8), 'label': jnp.asarray(labels)}


def slow_targets(labels, smoothing):
  """Returns what each class of each example is worth: the share `smoothing` is spread over all classes."""
  rows = []
  for label in labels:
    ones = label if np.ndim(label) else [int(j == label) for j in range(NUM_CLASSES)]
    rows.append([(1 - smoothing) * float(one) + smoothing / NUM_CLASSES for one in ones])
  return np.array(rows)


def slow_loss(logits, targets, kind):
  losses = []
  for row, target in zip(logits, targets, strict=True):
    total = 0.0
    for j in range(NUM_CLASSES):
      if kind == 'softmax':
        total -= target[j] * (row[j] - np.log(np.exp(row).sum()))
      else:
        right, wrong = 1 / (1 + np.exp(-row[j])), 1 / (1 + np.exp(row[j]))
        total -= target[j] * np.log(right) + (1 - target[j]) * np.log(wrong)
    losses.append(total)
  return np.mean(losses)


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.9])
@pytest.mark.parametrize('labels', [LABELS, SEVERAL], ids=['one label', 'several'])
def test_label_smoothing_spreads_its_share_over_all_classes(labels, smoothing):
  found = objective(label_smoothing=smoothing).augment(KEY, batch_of(labels))['targets']
  np.testing.assert_allclose(found, slow_targets(labels, smoothing), atol=1e-6)


@pytest.mark.parametrize('kind', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_the_loss_is_that_of_smoothed_targets_and_the_accuracy_that_of_the_labels(kind, smoothing):
  logits = np.random.default_rng(0).normal(size=(3, NUM_CLASSES))
  ours = objective(loss=kind, label_smoothing=smoothing)
  output = ours.loss(jnp.asarray(logits, jnp.float32), ours.augment(KEY, batch_of(LABELS)), KEY)
  expected = slow_loss(logits, slow_targets(LABELS, smoothing), kind)
  np.testing.assert_allclose(output.loss, expected, rtol=1e-5)
  correct, weight = output.metrics['accuracy_top1']
  assert (float(correct), float(weight)) == ((logits.argmax(1) == LABELS).sum(), 3)
