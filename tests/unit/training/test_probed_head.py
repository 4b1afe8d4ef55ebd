"""A head that starts as the linear probe: it is the probe's classifier, on the images that train, on any devices."""

import jax
import numpy as np
import pytest
import tiny
from sklearn.linear_model import LogisticRegression

from vitjax.checkpoint import Store
from vitjax.config import evaluator, evaluators, source_config
from vitjax.evaluators.features import Features
from vitjax.training import build, train
from vitjax.training.probed_head import fit_head
from vitjax.training.resume import restore_or_init


def features(per_class=40, num_classes=3, dim=6):
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(num_classes), per_class)
  values = rng.normal(size=(num_classes, dim))[labels] * 3 + rng.normal(size=(len(labels), dim)) + 5
  return Features((values * np.geomspace(0.1, 10, dim)).astype(np.float32), labels, np.arange(len(labels)))


def test_the_head_scores_raw_features_as_scikit_learn_scores_standardised_ones():
  found = features()
  head = fit_head(found, 4)  # no image of the last class
  assert head.chosen
  assert head.kernel.shape == (6, 4)
  scores = found.values @ head.kernel + head.bias
  x = (found.values - found.values.mean(axis=0)) / found.values.std(axis=0)
  peer = LogisticRegression(C=1 / (len(x) * head.l2), tol=1e-8, max_iter=2000).fit(x, found.labels)
  shares = np.exp(scores - scores.max(axis=1, keepdims=True))
  shares /= shares.sum(axis=1, keepdims=True)
  # The fourth class, which scikit-learn does not know, takes next to nothing.
  np.testing.assert_allclose(shares[:, :3], peer.predict_proba(x), atol=2e-3)
  assert shares[:, 3].max() < 2e-3


def test_classes_too_small_to_choose_a_penalty_still_get_a_head():
  head = fit_head(features(per_class=3), 3)
  assert not head.chosen
  assert 'too few' in str(head)


def recipe(start, **edits):
  images = source_config(kind='digits', split='train[:160]')
  judged = source_config(kind='digits', split='train[:200]')
  return tiny.tiny_recipe(
    model__num_classes=None,
    data__source=images,
    evals=evaluators(
      val=evaluator(source=judged, batch_size=16, every='20 steps'),
      probe=evaluator(
        kind='linear_probe',
        source=judged,
        train_source=images,
        every='20 steps',
        batch_size=16,
        probe_l2=(0.1,),
      ),
    ),
    init__checkpoint=str(start),
    **edits,
  )


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('start')
  train(build(tiny.tiny_recipe(stop_after='5 steps', evals=evaluators())), workdir)
  return workdir


def first_state(run, workdir):
  with Store(workdir, run.recipe.checkpoint) as store:
    return restore_or_init(run, store)[0]


def test_before_the_first_step_the_head_is_as_good_as_a_linear_probe(start, tmp_path):
  run = build(recipe(start, init__head='probe'))
  state = first_state(run, tmp_path)
  scores = {name: run.evaluators[name].run(state.params)['accuracy_top1'] for name in ('val', 'probe')}
  assert scores['val'] > 0.5  # of ten digits, by features that have never seen one
  assert scores['val'] == pytest.approx(scores['probe'], abs=1.5 / 200)  # float32, float64
  assert 'linear probe of 160 training images, l2 0.1 (chosen' in (tmp_path / 'init_report.txt').read_text()
  block = state.params['Transformer']['encoderblock_1']['MlpBlock_0']['Dense_0']['kernel']
  old = tiny.restore_arrays(start)['params/Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel']
  np.testing.assert_array_equal(block, old)


@pytest.mark.slow
def test_the_head_does_not_depend_on_how_many_devices_see_the_images(start, tmp_path):
  heads = [
    jax.device_get(
      first_state(build(recipe(start, init__head='probe'), devices=some), tmp_path / str(i)).params['head']
    )
    for i, some in enumerate((jax.devices()[:1], jax.devices()))
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3), *heads)
