"""Distillation: the targets are the teacher's own predictions, its weights stay what they were and are never saved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vitjax
from vitjax.checkpoint import open_checkpoint, read_meta
from vitjax.config import evaluators, parse_recipe
from vitjax.errors import CheckpointError, ConfigError
from vitjax.objectives import Distillation, build_objective
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics
from vitjax.trees import flatten

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
RAW = {'image': jnp.asarray(IMAGES), 'label': jnp.arange(16, dtype=jnp.int32) % 4}


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  """A ResNet of three steps, in a normalisation of its own."""
  config = tiny.tiny_config(
    total='3 steps',
    optim__peak_lr=0.03,
    data__mean=(0.4, 0.5, 0.6),
    data__std=(0.2, 0.3, 0.4),
    evals=evaluators(),
  )
  config.model = tiny.default_config().model
  config.model.variant = 'R-tiny'
  workdir = tmp_path_factory.mktemp('teacher')
  train(build(parse_recipe(config)), workdir)
  return workdir


def student(teacher, **edits):
  base = {'objective__name': 'distillation', 'distill__checkpoint': str(teacher), 'distill__temperature': 2.0}
  return tiny.tiny_recipe(**{**base, 'model__depth': 1, 'total': '6 steps', 'evals': evaluators(), **edits})


@pytest.mark.slow
def test_targets_are_what_the_teacher_says_of_the_same_images(teacher):
  run = build(student(teacher))
  frozen = run.teacher.params
  expected = jax.nn.softmax(vitjax.load(teacher).predict(IMAGES) / 2)
  assert np.ptp(expected) > 0.05, 'this teacher says nothing'
  batch = jax.jit(run.objective.augment)(jax.random.key(0), RAW, frozen)
  np.testing.assert_allclose(batch['targets'], expected, atol=2e-6)
  chunked = dataclasses.replace(run.objective, num_chunks=4)
  again = jax.jit(chunked.augment)(jax.random.key(0), RAW, frozen)
  np.testing.assert_allclose(again['targets'], expected, atol=2e-6)

  mixing = dataclasses.replace(
    run.objective, data=dataclasses.replace(run.objective.data, mixup_alpha=1.0), temperature=1.0
  )
  mixed = jax.jit(mixing.augment)(jax.random.key(3), RAW, frozen)
  pixels = np.asarray(mixed['images']) * 0.5 + 0.5
  assert np.abs(pixels * 255 - IMAGES).max() > 10
  seen = ((pixels - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]).astype(np.float32)
  np.testing.assert_allclose(
    mixed['targets'],
    jax.nn.softmax(vitjax.load(teacher).predict(seen)),
    atol=2e-6,
    err_msg='not the same view',
  )


def test_loss_is_the_tempered_divergence():
  recipe = tiny.tiny_recipe(model__depth=1, model__layers='scan', evals=evaluators())
  plain = build_objective(recipe, num_classes=4)
  objective = Distillation(plain.model, 4, recipe.objective, recipe.data, temperature=3.0)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), plain.init(jax.random.key(0))
  )
  batch = {**objective.augment(jax.random.key(0), RAW), 'targets': jax.nn.softmax(rng.normal(size=(16, 4)))}
  loss = jax.jit(objective.loss)
  output = loss(params, batch, jax.random.key(0))
  logits = np.asarray(jax.jit(objective.predict)(params, RAW['image']), np.float64)
  told = np.exp(logits / 3) / np.exp(logits / 3).sum(axis=1, keepdims=True)
  wanted = np.asarray(batch['targets'], np.float64)
  expected = 9 * (wanted * np.log(wanted / told)).sum(axis=1).mean()
  assert float(output.loss) == pytest.approx(expected, rel=1e-5)
  total, weight = output.metrics['agreement']
  assert total / weight == np.mean(logits.argmax(axis=1) == wanted.argmax(axis=1))
  same = {**batch, 'targets': jnp.asarray(told, jnp.float32)}
  assert abs(float(loss(params, same, jax.random.key(0)).loss)) < 1e-5


@pytest.mark.slow
def test_resume_is_bitwise_and_the_teacher_neither_moves_nor_is_saved(teacher, tmp_path):
  sharded = {'parallel__fsdp': 2, 'optim__accumulation_steps': 2, 'data__mixup_alpha': 1.0}
  run = build(student(teacher, **sharded))
  frozen = flatten(run.abstract_state.frozen)
  assert any('fsdp' in str(leaf.sharding.spec) for leaf in frozen.values())
  train(run, tmp_path / 'whole')
  train(build(student(teacher, **sharded, stop_after='3 steps')), tmp_path / 'halves')
  train(build(student(teacher, **sharded)), tmp_path / 'halves')
  whole, halves = tiny.restore_arrays(tmp_path / 'whole'), tiny.restore_arrays(tmp_path / 'halves')
  assert whole.keys() == halves.keys()
  for path, array in whole.items():
    np.testing.assert_array_equal(array, halves[path], err_msg=path)
  names = {path.partition('/')[2] for path in whole}
  assert not names & {path for path in frozen if not path.startswith('head')}
  rows = [row for row in read_metrics(tmp_path / 'whole') if 'train/loss' in row]
  assert rows[-1]['train/loss'] < rows[0]['train/loss']
  assert {'train/agreement', 'train/accuracy_top1'} <= rows[0].keys()
  assert read_meta(open_checkpoint(tmp_path / 'whole').path)['teacher'] == run.teacher.fingerprint

  changed = dataclasses.replace(run.teacher, fingerprint='0' * 64)
  with pytest.raises(CheckpointError, match='the teacher changed'):
    train(dataclasses.replace(run, teacher=changed), tmp_path / 'whole')


@pytest.mark.slow
def test_a_step_leaves_the_teacher_as_it_was(teacher):
  run = build(student(teacher))
  state = run.fresh_state()
  before = jax.device_get(state.params)
  after, metrics = run.step_fn(run.step_fn(state, RAW)[0], RAW)
  for path, leaf in flatten(after.frozen).items():
    np.testing.assert_array_equal(leaf, flatten(run.teacher.params)[path], err_msg=path)
  assert np.isfinite(metrics['loss'])
  assert any(
    (a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after.params), strict=True)
  )
  alone = build(tiny.tiny_recipe(model__depth=1, evals=evaluators()))
  assert run.train_flops_per_example == alone.train_flops_per_example + run.teacher.forward_flops


@pytest.mark.slow
def test_a_teacher_of_other_classes_is_refused(teacher):
  more = tiny.source_config(kind='synthetic', num_examples=64, num_classes=5)
  with pytest.raises(ConfigError, match='other classes') as caught:
    build(student(teacher, data__source=more))
  assert caught.value.problems[0].where == 'distill.checkpoint'
