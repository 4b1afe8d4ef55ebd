"""A head to start fine-tuning from: the linear probe of the training images' features under the loaded weights."""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from vitjax.config.schema import EvalConfig
from vitjax.data import eval_batches
from vitjax.data.readers import spread
from vitjax.evaluators import FeatureExtractor
from vitjax.evaluators.features import Features
from vitjax.evaluators.linear_probe import Logistic, fit_logistic, hold_out
from vitjax.parallel.mesh import local_share
from vitjax.training.build import Run
from vitjax.training.teacher import place

log = logging.getLogger('vitjax')

# Images that the head is fitted to; of more, an even sample. The fit runs on one device of each host.
MAX_IMAGES = 50_000
# Taken where no class has images enough to choose a penalty with.
_UNCHOSEN_L2 = 0.1


@dataclasses.dataclass(frozen=True)
class ProbedHead:
  """The head of a linear probe, on features as the model gives them.

  Attributes:
    kernel: float32 [d, v].
    bias: float32 [v].
    num_images: training images that it was fitted to.
    l2: its penalty, see `fit_logistic`.
    chosen: whether the penalty was chosen on held-out images, or too few of them were there.
  """

  kernel: np.ndarray
  bias: np.ndarray
  num_images: int
  l2: float
  chosen: bool

  def __str__(self) -> str:
    how = 'chosen on held-out ones' if self.chosen else 'there are too few to choose one'
    return f'the linear probe of {self.num_images:,} training images, l2 {self.l2:g} ({how})'


def probed_params(run: Run, params: Any) -> tuple[Any, str]:
  """Returns the parameters with the linear probe as their head, and a line that says what was fitted.

  One pass over the training images without augmentation, then the fit of evaluators/linear_probe.py. The penalty is
  the one with the lowest loss on a held-out fifth of each class, never on images of an evaluator: not the most
  accurate one, since a head with large weights, sure of itself, sends large gradients into the features. Host-side;
  called by every process.

  Args:
    run: gives images, objective and shardings.
    params: loaded parameters, placed on the devices.

  Raises:
    TrainingError: a feature is not finite.
    DataError: more damaged records than the source tolerates.

  Source: LP-FT, "Fine-tuning can distort pretrained features", arXiv 2202.10054: with a head that fits them, the
    first steps leave good features as they are.
  Differs from source: logistic regression by L-BFGS with a chosen penalty, instead of SGD with early stopping.
  """
  num_classes = run.recipe.model.num_classes
  assert num_classes, 'checked with the recipe'
  head = fit_head(_features(run, params), num_classes)
  # The fit runs on every host; the weights of one of them count, to the last bit.
  kernel, bias = multihost_utils.broadcast_one_to_all((head.kernel, head.bias))
  like = run.abstract_state.params['head']
  values = {'kernel': np.asarray(kernel, like['kernel'].dtype), 'bias': np.asarray(bias, like['bias'].dtype)}
  return {**params, 'head': jax.tree.map(place, values, like)}, f'head: {head}'


def fit_head(features: Features, num_classes: int) -> ProbedHead:
  """Returns the linear probe of some features as a head.

  Args:
    features: of the training images.
    num_classes: v; classes without images get a low bias.
  """
  config = EvalConfig()
  values, labels = features.values, features.labels
  fit = functools.partial(fit_logistic, num_classes=num_classes)
  held, l2 = hold_out(labels, config.held_out), _UNCHOSEN_L2
  if held.any():
    fits = fit(values[~held], labels[~held], l2=config.probe_l2)
    l2 = min(fits, key=lambda fitted: fitted.evaluate(values[held], labels[held])[1]).l2
  (logistic,) = fit(values, labels, l2=(l2,))
  return ProbedHead(*_unwhitened(logistic), len(labels), l2, chosen=bool(held.any()))


def _unwhitened(fit: Logistic) -> tuple[np.ndarray, np.ndarray]:
  """Returns kernel and bias, float32, that give a fit's scores from features that are not standardised."""
  kernel = fit.kernel / fit.whitening.std[:, None]
  bias = fit.bias - fit.whitening.mean @ kernel
  return kernel.astype(np.float32), bias.astype(np.float32)


def _features(run: Run, params: Any) -> Features:
  """Returns the features of the training images, preprocessed as for evaluation."""
  data, source = run.recipe.data, run.source
  if len(source) > MAX_IMAGES:
    source = source.subset(spread(len(source), MAX_IMAGES))
  preprocess = run.preprocess()
  config = EvalConfig(source=data.source, batch_size=data.batch_size, resize_short=preprocess.resize_short)
  index, count = local_share(run.mesh, data.batch_size)
  batches = eval_batches(
    config, data, source, process_index=index, process_count=count, native=preprocess.native
  )
  return FeatureExtractor(run.objective.features, run.mesh).collect(params, batches, where='data.source')
