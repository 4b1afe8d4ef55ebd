"""Rates, decay and clipping of every recipe, at ten steps, against formulas of plain Python."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.config import load_config
from vitjax.config.parse import from_mapping
from vitjax.optim import make_optimizer, make_schedule

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
I1K, I21K, JFT = 1_268_355, 14_145_922, 302_000_000  # train[:99%]; of I21k and JFT, a size to compute with


def rate(step, *, kind, total, warmup, peak, end=0.0, stairs=()):
  if step < warmup:
    return peak * step / warmup
  x = (step - warmup) / (total - warmup)
  if kind == 'cosine':
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * x))
  if kind == 'linear':
    return peak + (end - peak) * x
  return peak * 0.1 ** sum(step >= stair for stair in stairs)


def steps(epochs, examples, batch):
  return math.floor(epochs * examples / batch + 0.5)


# form: examples of the data set, schedule, (decay, of the rate itself or of its share of the peak), clipping norm
COSINE, LINEAR = functools.partial(dict, kind='cosine'), functools.partial(dict, kind='linear', end=1e-5)
SMALL = COSINE(total=500, warmup=100, peak=0.01)
CASES = {
  'pretrain': (I1K, COSINE(total=steps(300, I1K, 4096), warmup=10_000, peak=3e-3), (0.3, 'rate'), 1),
  'pretrain:data=imagenet21k,model=L/16': (
    I21K, LINEAR(total=steps(90, I21K, 4096), warmup=10_000, peak=1e-3), (0.03, 'rate'), None,
  ),
  'pretrain:data=imagenet21k,model=L/32,epochs=30': (
    I21K, LINEAR(total=steps(30, I21K, 4096), warmup=10_000, peak=1e-3), (0.03, 'rate'), None,
  ),
  'pretrain:data=jft,model=H/14': (
    JFT, LINEAR(total=steps(14, JFT, 4096), warmup=10_000, peak=3e-4), (0.1, 'rate'), None,
  ),
  'pretrain:data=jft,model=R50+L/32': (
    JFT, LINEAR(total=steps(7, JFT, 4096), warmup=10_000, peak=2e-4), (0.1, 'rate'), None,
  ),
  'augreg': (I21K, COSINE(total=steps(300, I21K, 4096), warmup=10_000, peak=1e-3), (0.1, 'rate'), 1),
  'augreg:data=imagenet,wd=0.03': (
    I1K, COSINE(total=steps(300, I1K, 4096), warmup=10_000, peak=1e-3), (0.03, 'rate'), 1,
  ),
  'vit_s16': (I1K, COSINE(total=steps(90, I1K, 1024), warmup=10_000, peak=1e-3), (1e-4, 'share'), 1),
  'vit_s16:epochs=300': (I1K, COSINE(total=steps(300, I1K, 1024), warmup=10_000, peak=1e-3), (1e-4, 'share'), 1),
  'bit': (I1K, COSINE(total=steps(90, I1K, 4096), warmup=1_000, peak=1.6), (1.6e-3, 'share'), 1),
  'bit:data=imagenet21k': (
    I21K, COSINE(total=steps(90, I21K, 4096), warmup=5_000, peak=0.48), (4.8e-4, 'share'), 1,
  ),
  'distill': (I1K, COSINE(total=steps(300, I1K, 4096), warmup=5_000, peak=0.03), (3e-4, 'share'), 1),
  'distill:data=pets': (3_312, COSINE(total=steps(1000, 3_312, 512), warmup=1_500, peak=0.01), (1e-3, 'share'), 1),
  'finetune': (3_312, SMALL, (0.0, 'rate'), 1),
  'finetune:data=flowers,lr=0.03': (918, {**SMALL, 'peak': 0.03}, (0.0, 'rate'), 1),
  'finetune:data=cifar100': (49_000, COSINE(total=10_000, warmup=500, peak=0.01), (0.0, 'rate'), 1),
  'finetune:data=imagenet': (I1K, COSINE(total=20_000, warmup=500, peak=0.01), (0.0, 'rate'), 1),
  'finetune:rule=augreg,data=cifar10': (49_000, COSINE(total=10_000, warmup=500, peak=0.003), (0.0, 'rate'), 1),
  'finetune:rule=bit,model=R50x1': (
    3_312, {'kind': 'stairs', 'total': 500, 'warmup': 100, 'peak': 0.003, 'stairs': (200, 300, 400)}, (0, 'rate'), None,
  ),
  'finetune:rule=bit,data=imagenet,model=R50x1': (
    I1K,
    {'kind': 'stairs', 'total': 20_000, 'warmup': 500, 'peak': 0.003, 'stairs': (6_000, 12_000, 18_000)},
    (0, 'rate'), None,
  ),
  'vtab:task=kitti_distance': (1_000, COSINE(total=2_500, warmup=500, peak=0.01), (0.0, 'rate'), 1),
}  # fmt: skip
WEIGHT, BIAS = 2.0, 5.0


@pytest.mark.parametrize('form', CASES)
def test_ten_steps(form):
  num_examples, formula, (decay, decay_by), clip_norm = CASES[form]
  name, _, arguments = form.partition(':')
  recipe = _recipe(name, arguments)
  optim = recipe.optim
  total = recipe.total.to_steps(batch_size=recipe.data.batch_size, num_examples=num_examples)
  assert total == formula['total']
  schedule = make_schedule(
    optim, total_steps=total, batch_size=recipe.data.batch_size, num_examples=num_examples
  )
  warmup = formula['warmup']
  ten = [
    0,
    1,
    warmup // 2,
    warmup - 1,
    warmup,
    *(warmup + (total - warmup) * k // 5 for k in range(1, 5)),
    total - 1,
  ]
  wanted = [rate(step, **formula) for step in ten]
  found = [float(schedule(step)) for step in ten]
  # float32 knows the last steps of a cosine, 1e-9 of the peak, to 1e-7 of the peak.
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-7 * formula['peak'])

  params = {'a': {'kernel': jnp.full((1,), WEIGHT), 'bias': jnp.full((1,), BIAS)}}
  optimizer = make_optimizer(optim, params, schedule)
  start = optimizer.init(params)

  def decayed(step):
    zeros = jax.tree.map(jnp.zeros_like, params)
    return optimizer.update(zeros, optax.tree.set(start, count=step), params)[0]['a']

  updates = jax.jit(jax.vmap(decayed))(jnp.asarray(ten, jnp.int32))
  share = np.array(wanted) / (formula['peak'] if decay_by == 'share' else 1)
  np.testing.assert_allclose(
    updates['kernel'][:, 0], -share * decay * WEIGHT, rtol=1e-5, atol=2e-7 * decay * WEIGHT
  )
  assert not np.asarray(updates['bias']).any()

  grads = {'a': {'kernel': jnp.full((1,), 30.0), 'bias': jnp.full((1,), 40.0)}}
  _, state = optimizer.update(grads, start, params)
  moment = optax.tree.get(state, 'mu' if optim.name == 'adamw' else 'trace')['a']
  weight = 0.1 if optim.name == 'adamw' else 1.0  # of a gradient in the first moment
  scale = weight * (1 if clip_norm is None else clip_norm / 50)
  found = [float(moment['kernel'][0]), float(moment['bias'][0])]
  np.testing.assert_allclose(found, [30 * scale, 40 * scale], rtol=4e-3)  # the moment may be bfloat16


def _recipe(name, arguments):
  return from_mapping(load_config(f'{CONFIGS / name}.py:{arguments}').to_dict(), name)
