"""Masked patch prediction against slow definitions; its checkpoints load and transfer as any other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vitjax
from vitjax.config import evaluator, evaluators, parse_recipe, source_config
from vitjax.errors import ConfigError
from vitjax.objectives import build_objective
from vitjax.objectives.masked_patch import draw_corruption, mean_colours
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics


def masked_config(**edits):
  probe = evaluator(
    kind='fewshot',
    source=source_config(kind='synthetic', num_examples=24, num_classes=4),
    train_source=source_config(kind='synthetic', num_examples=32, num_classes=4),
    shots=(2,),
    batch_size=16,
    every='20 steps',
  )
  return tiny.tiny_config(
    **{
      'objective__name': 'masked_patch',
      'model__num_classes': 0,
      'model__pool': 'gap',
      'evals': evaluators(probe=probe),
      'total': '20 steps',
      **edits,
    }
  )


def masked_objective(**edits):

  return build_objective(parse_recipe(masked_config(**edits)), num_classes=0)


def test_mean_colours_are_those_of_a_loop_over_pixels():
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
  images[0, :4, :4] = 255
  images[0, 4:, :4] = (0, 31, 32)
  found = np.asarray(mean_colours(jnp.asarray(images), (2, 3)))
  expected = np.zeros((3, 6), int)
  for i in range(3):
    for row in range(2):
      for column in range(3):
        number = 0
        for channel in range(3):
          total = 0.0
          for y in range(4):
            for x in range(4):
              total += int(images[i, row * 4 + y, column * 4 + x, channel])
          number = number * 8 + int(total / 16 // 32)
        expected[i, row * 3 + column] = number
  np.testing.assert_array_equal(found, expected)
  assert found[0, 0] == 511
  assert found[0, 3] == 1


def test_corruption_takes_half_of_each_image_and_splits_80_10_10():
  drawn = {name: np.asarray(x) for name, x in draw_corruption(jax.random.key(0), 2000, 50, 0.5).items()}
  corrupted, masked = drawn['corrupted'], drawn['masked']
  replaced = drawn['taken_from'] != np.arange(50)
  np.testing.assert_array_equal(corrupted.sum(axis=1), 25)
  assert not (masked & replaced).any()
  assert (corrupted | ~(masked | replaced)).all()
  # 50,000 corrupted patches: four standard deviations of a share of 0.8 are 0.007.
  assert masked.sum() / corrupted.sum() == pytest.approx(0.8, abs=0.007)
  assert replaced.sum() / corrupted.sum() == pytest.approx(0.1, abs=0.006)
  assert np.abs(corrupted.mean(axis=0) - 0.5).max() < 0.06, 'some places are corrupted more often than others'


def test_the_loss_is_that_of_a_loop_over_corrupted_patches():
  objective = masked_objective()
  params = jax.jit(objective.init)(jax.random.key(1))
  image = np.random.default_rng(2).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
  batch = objective.augment(jax.random.key(3), {'image': jnp.asarray(image)})
  output = jax.jit(objective.loss)(params, batch, jax.random.key(4))

  own = params['objective']
  host = {name: np.asarray(value) for name, value in batch.items()}

  def corrupt(patches):
    flat = np.array(patches).reshape(4, 16, -1)
    edited = flat.copy()
    for i in range(4):
      for j in range(16):
        edited[i, j] = own['mask_token'][0, 0] if host['masked'][i, j] else flat[i, host['taken_from'][i, j]]
    return jnp.asarray(edited.reshape(patches.shape))

  model = {'params': {name: value for name, value in params.items() if name != 'objective'}}
  _, out = objective.model.apply(
    model,
    batch['images'],
    train=True,
    return_features=True,
    edit_patches=corrupt,
    rngs={'dropout': jax.random.key(4)},
  )
  losses, hits = [], []
  for i in range(4):
    for j in range(16):
      if host['corrupted'][i, j]:
        logits = np.asarray(out['tokens'][i, j] @ own['head']['kernel'] + own['head']['bias'], np.float64)
        losses.append(
          np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[host['colours'][i, j]]
        )
        hits.append(logits.argmax() == host['colours'][i, j])
  assert len(losses) == 32
  assert float(output.loss) == pytest.approx(np.mean(losses), rel=1e-5)
  total, weight = output.metrics['patch_accuracy']
  assert (float(total), float(weight)) == (np.sum(hits), 32)


def test_uncorrupted_patches_do_not_enter_the_loss():
  objective = masked_objective()
  params = jax.jit(objective.init)(jax.random.key(1))
  image = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  batch = objective.augment(jax.random.key(3), {'image': jnp.asarray(image)})
  before = objective.loss(params, batch, jax.random.key(4)).loss
  changed = jnp.where(batch['corrupted'], batch['colours'], (batch['colours'] + 1) % 512)
  assert objective.loss(params, {**batch, 'colours': changed}, jax.random.key(4)).loss == before


def test_it_learns_and_its_checkpoint_loads_and_transfers(tmp_path):

  recipe = parse_recipe(masked_config())
  train(build(recipe), tmp_path / 'masked')
  rows = read_metrics(tmp_path / 'masked')
  assert rows[-1]['train/loss'] < 0.9 * rows[0]['train/loss']
  assert 'probe/accuracy_2shot' in rows[-1]
  loaded = vitjax.load(tmp_path / 'masked')
  assert loaded.num_classes == 0
  assert 'objective' not in loaded.params
  assert loaded.features(np.zeros((1, 16, 16, 3), np.uint8)).shape == (1, 32)

  edits = {
    'init__checkpoint': str(tmp_path / 'masked'),
    'model__pool': 'gap',
    'total': '2 steps',
    'optim__peak_lr': 0.0,
  }
  train(build(tiny.tiny_recipe(**edits)), tmp_path / 'tuned')
  tuned = vitjax.load(tmp_path / 'tuned')
  kernel = 'Transformer', 'encoderblock_1', 'MlpBlock_0', 'Dense_0', 'kernel'
  found, expected = tuned.params, loaded.params
  for name in kernel:
    found, expected = found[name], expected[name]
  np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_settings_that_make_no_sense_are_refused_together():

  config = masked_config(model__num_classes=None, data__mixup_alpha=0.2, objective__label_smoothing=0.1)
  config.evals = tiny.tiny_config().evals
  with pytest.raises(ConfigError) as caught:
    parse_recipe(config)
  found = {problem.where for problem in caught.value.problems}
  assert found == {'model.num_classes', 'data.mixup_alpha', 'objective.label_smoothing', 'evals.val.kind'}


def test_a_resnet_has_no_patches():

  config = masked_config()
  for name in ('width', 'depth', 'mlp_dim', 'num_heads'):
    config.model[name] = None
  config.model.variant, config.model.pool = 'R-tiny', 'token'
  with pytest.raises(ConfigError, match='no patches'):
    parse_recipe(config)


def test_micro_batches_give_the_same_gradient():
  one, two = (
    build(parse_recipe(masked_config(optim__accumulation_steps=steps)), devices=jax.devices()[:1])
    for steps in (1, 2)
  )
  batch = next(one.batches(0))
  results = []
  for run in (one, two):
    state, _ = run.step_fn(run.init_fn(), batch)
    results.append(jax.device_get(dataclasses.asdict(state)['params']))
  for left, right in zip(*map(jax.tree.leaves, results), strict=True):
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
