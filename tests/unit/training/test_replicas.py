"""One flipped bit on one device is found and named."""

import jax
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding

from vitjax.errors import TrainingError
from vitjax.training import build, train
from vitjax.training.replicas import ReplicaCheck


def flip(array, device, word, bit):
  """Returns the array with one bit changed in what one device holds of it."""
  shards = []
  for shard in array.addressable_shards:
    data = np.array(shard.data)
    if shard.device == device:
      data.reshape(-1).view(np.uint32)[word] ^= np.uint32(1 << bit)
    shards.append(jax.device_put(data, shard.device))
  return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


@pytest.fixture(scope='module')
def run():
  return build(tiny.tiny_recipe(parallel__fsdp=2, parallel__model=2))


@pytest.fixture(scope='module')
def check(run):
  return ReplicaCheck(run.mesh, run.abstract_state)


@pytest.mark.parametrize(('word', 'bit'), [(0, 0), (3, 31), (17, 12)])
def test_one_bit_on_one_replica_is_found(run, check, word, bit):
  state = run.init_fn()
  check.run(state, 1)
  kernel = state.params['Transformer']['encoderblock_0']['MlpBlock_0']['Dense_0']['kernel']
  assert isinstance(kernel.sharding, NamedSharding)
  device = run.mesh.devices.flat[5]
  state.params['Transformer']['encoderblock_0']['MlpBlock_0']['Dense_0']['kernel'] = flip(
    kernel, device, word, bit
  )
  with pytest.raises(TrainingError, match='step 9: copies of the same array differ') as found:
    check.run(state, 9)
  path = 'params/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel'
  assert [problem.where for problem in found.value.problems] == [path, 'next step']
  assert f'device {device.id} of rank 0' in str(found.value)


def test_of_many_copies_the_odd_one_is_named(run, check):
  state = run.init_fn()
  device = run.mesh.devices.flat[3]
  state = state.replace(params=state.params | {'cls': flip(state.params['cls'], device, 0, 5)})
  with pytest.raises(TrainingError) as found:
    check.run(state, 2)
  assert found.value.problems[0].found == f'different on device {device.id} of rank 0'
  assert '8 devices' in found.value.problems[0].expected


def test_without_copies_there_is_nothing_to_compare():
  run = build(tiny.tiny_recipe(), devices=jax.devices()[:1])
  assert not ReplicaCheck(run.mesh, run.abstract_state).needed


def test_the_loop_looks_every_so_many_steps(tmp_path, monkeypatch):
  looks = []
  monkeypatch.setattr(ReplicaCheck, 'run', lambda self, tree, step: looks.append(step))
  train(build(tiny.tiny_recipe(stop_after='5 steps', resilience__replica_check_every='2 steps')), tmp_path)
  assert looks == [2, 4]
