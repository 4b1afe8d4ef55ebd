"""The adapter hands out the real step."""

import jax
import numpy as np
import pytest

from vitjax.bench import make
from vitjax.bench.adapter import LossStep
from vitjax.errors import ConfigError

TINY = {
  'model.width': 32,
  'model.depth': 1,
  'model.mlp_dim': 64,
  'model.num_heads': 2,
}


def tiny(**edits):
  return make(model='Ti/8', image_size=16, batch=8, num_classes=5, dtype='float32', seed=3, **TINY, **edits)


def test_the_step_is_the_one_that_train_jits():
  step, state, batch = tiny()
  assert isinstance(step, LossStep)
  assert batch['image'].dtype == np.uint8
  assert batch['image'].shape == (8, 16, 16, 3)
  compiled = step.lower(state, batch).compile()
  fresh = jax.tree.map(lambda x: x.copy(), state)
  _, metrics = compiled(fresh, batch)
  state, loss = step(state, batch)
  assert float(loss) == float(metrics['loss'])
  losses = [float(loss)]
  for _ in range(3):
    state, loss = step(state, batch)
    losses.append(float(loss))
  assert losses == sorted(losses, reverse=True)
  assert int(state.step) == 4


def test_overrides_are_knobs_and_typos_are_refused():
  step, state, _ = tiny(**{'model.pool': 'gap', 'optim.clip_norm': 1.0})
  assert 'cls' not in state.params
  assert step.run.recipe.optim.clip_norm == 1.0
  with pytest.raises(ConfigError, match=r'model\.poool'):
    tiny(**{'model.poool': 'gap'})
