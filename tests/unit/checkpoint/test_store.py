"""Store: what comes back, what is kept, what is refused."""

import errno
import logging
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.checkpoint import Store, lock, read_meta
from vitjax.checkpoint import manifest as manifests
from vitjax.config.schema import CheckpointConfig
from vitjax.errors import CheckpointError

META = {'recipe': {'seed': 3}, 'class_names': ['cat', 'dög'], 'sizes': (1, 2)}


# Loads lock.py by its path: a process that takes the lock without the seconds that importing jax takes.
TAKE_LOCK = f"""
import importlib.util, os, pathlib, sys, time
spec = importlib.util.spec_from_file_location('lock', {lock.__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
held = module.WorkdirLock(pathlib.Path(sys.argv[1]))
"""


def names(store):
  return sorted(entry.name for entry in store.directory.iterdir())


def as_trees(restored):
  return {'params': restored.params, 'opt_state': restored.opt_state, 'aux': restored.aux}


@pytest.mark.parametrize('save_async', [True, False])
def test_round_trip_is_bitwise(tmp_path, sample, save_async):
  trees = sample.trees()
  trees['params']['head']['bias'] = jnp.array([jnp.nan, -0.0, 1e-42, jnp.inf] * 16)
  with Store(tmp_path, CheckpointConfig(save_async=save_async)) as store:
    assert store.latest_step() is None
    assert store.save(7, meta=META, **trees)
    store.wait()
    assert (store.latest_step(), store.steps()) == (7, [7])
    restored = store.restore(**sample.abstract(trees))
  assert restored.step == 7
  assert restored.meta == {**META, 'sizes': [1, 2]}
  assert sample.same(as_trees(restored), trees)
  assert jnp.issubdtype(restored.aux['rng'].dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize(('written', 'read'), [(8, 1), (1, 8), (8, 8)])
def test_any_topology_restores_on_any_other(tmp_path, sample, written, read):
  trees = sample.trees()
  with Store(tmp_path) as store:
    store.save(1, meta=META, **(sample.spread(trees) if written == 8 else trees))
    abstract = sample.abstract(trees, read)
    restored = as_trees(store.restore(**abstract))
  assert sample.same(restored, trees)
  for leaf, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True):
    if wanted.sharding is not None:
      assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_digests_do_not_depend_on_the_topology(sample):
  trees = sample.trees()
  assert manifests.digests(trees) == manifests.digests(sample.spread(trees))


@pytest.mark.parametrize('devices', [1, 8])
def test_the_saved_values_are_those_at_the_call(tmp_path, sample, devices):
  """Donated buffers are reused by the next step, numpy arrays are overwritten in place: neither may show."""
  kernel = jnp.arange(1 << 20, dtype=jnp.float32).reshape(1024, 1024)
  params = {'kernel': jax.device_put(kernel, sample.sharding(kernel, devices))}
  aux = {'counts': np.arange(1000)}
  step = jax.jit(lambda p: jax.tree.map(lambda x: x * 0 - 1, p), donate_argnums=0)
  step.lower(params).compile()
  overwritten = threading.Event()
  with Store(tmp_path) as store:
    store._worker.submit(overwritten.wait)  # holds the digests back until the buffers have changed
    store.save(1, params=params, opt_state={}, aux=aux, meta={})
    for _ in range(3):
      params = step(params)
    aux['counts'][:] = -5
    jax.block_until_ready(params)
    overwritten.set()
    restored = store.restore(params=params, opt_state={}, aux={'counts': np.zeros(1000, int)})
  np.testing.assert_array_equal(restored.params['kernel'], kernel)
  np.testing.assert_array_equal(restored.aux['counts'], np.arange(1000))


def test_nothing_saved_is_none_and_not_an_error(tmp_path, sample):
  with Store(tmp_path) as store:
    assert store.restore(**sample.abstract(sample.trees())) is None


def test_keep_last_and_keep_best(tmp_path, sample):
  trees, accuracies = sample.trees(), {1: 0.2, 2: 0.9, 3: 0.9, 4: 0.3, 5: float('nan'), 6: None, 7: 0.4}
  with Store(tmp_path, CheckpointConfig(keep_last=2, keep_best='val/acc')) as store:
    for step, accuracy in accuracies.items():
      metrics = None if accuracy is None else {'val/acc': accuracy, 'val/loss': 1.0}
      store.save(step, meta={}, metrics=metrics, **trees)
    store.wait()
    assert store.steps() == [3, 6, 7]
    assert names(store) == ['3', '6', '7']
  # A resumed run knows the best step of the earlier one, and replaces it when it does better.
  with Store(tmp_path, CheckpointConfig(keep_last=1, keep_best='val/acc')) as store:
    store.save(8, meta={}, metrics={'val/acc': 0.5}, **trees)
    store.wait()
    assert store.steps() == [3, 8]
    store.save(9, meta={}, metrics={'val/acc': 0.95}, **trees)
    store.wait()
    assert store.steps() == [9]


def test_an_unknown_best_metric_is_refused(tmp_path, sample):
  with Store(tmp_path, CheckpointConfig(keep_best='val/ac')) as store:
    with pytest.raises(CheckpointError, match=r"'val/ac': expected one of val/acc"):
      store.save(1, meta={}, metrics={'val/acc': 0.5}, **sample.trees())
    assert store.steps() == []


def test_meta_must_be_json(tmp_path, sample):
  with Store(tmp_path) as store, pytest.raises(CheckpointError, match='meta is not JSON'):
    store.save(1, meta={'x': object()}, **sample.trees())


def test_a_stored_step_is_saved_once_and_replaced_by_force(tmp_path, sample):
  with Store(tmp_path, CheckpointConfig(keep_last=5)) as store:
    for step in (1, 2, 3):
      assert store.save(step, meta={'round': 1}, **sample.trees(step))
    assert not store.save(3, meta={'round': 2}, **sample.trees(30))
    with pytest.raises(CheckpointError, match='older than stored steps'):
      store.save(0, meta={}, **sample.trees())
    assert store.save(2, meta={'round': 2}, force=True, **sample.trees(20))
    store.wait()
    assert store.steps() == [1, 2]
    assert read_meta(tmp_path) == {'round': 2}
    assert int(store.restore(**sample.abstract(sample.trees())).aux['step']) == 20
    assert names(store) == ['1', '2']


def test_an_explicit_step(tmp_path, sample):
  with Store(tmp_path) as store:
    for step in (1, 2):
      store.save(step, meta={}, **sample.trees(step))
    abstract = sample.abstract(sample.trees())
    assert store.restore(1, **abstract).step == 1
    with pytest.raises(CheckpointError, match='steps 1, 2: expected step 5'):
      store.restore(5, **abstract)


def test_mismatches_are_listed_at_once_and_nothing_is_cast(tmp_path, sample):
  trees = sample.trees()
  with Store(tmp_path) as store:
    store.save(1, meta={}, **trees)
    other = sample.abstract(trees)
    head = other['params']['head']
    head['kernel'] = jax.ShapeDtypeStruct((16, 65), jnp.float32)
    head['bias'] = jax.ShapeDtypeStruct((64,), jnp.bfloat16)
    head['extra'] = jax.ShapeDtypeStruct((1,), jnp.float32)
    del other['aux']['step']
    other['aux']['rng'] = jax.eval_shape(lambda: jax.random.key(0, impl='rbg'))
    with pytest.raises(CheckpointError) as caught:
      store.restore(**other)
    assert store.steps() == [1]
  found = {problem.where: str(problem) for problem in caught.value.problems}
  wanted = ['params/head/kernel', 'params/head/bias', 'params/head/extra', 'aux/step', 'aux/rng', 'next step']
  assert sorted(found) == sorted(wanted)
  assert found['params/head/bias'].endswith(' = float32[64] in the checkpoint: expected bfloat16[64]')
  assert 'key<fry>' in found['aux/rng']


def test_leftovers_of_a_killed_save_are_removed(tmp_path, sample):
  with Store(tmp_path) as store:
    store.save(1, meta={}, **sample.trees())
  for name in ('2.orbax-checkpoint-tmp', '3.orbax-checkpoint-tmp-1700000000'):
    folder = tmp_path / 'checkpoints' / name / 'params'
    folder.mkdir(parents=True)
    (folder / 'part').write_bytes(b'x' * 100)
  (tmp_path / 'checkpoints' / '.deleted' / '0').mkdir(parents=True)
  with Store(tmp_path) as store:
    assert names(store) == ['1']
    assert store.restore(**sample.abstract(sample.trees())).step == 1


def test_a_second_job_is_refused_by_name(tmp_path):
  with Store(tmp_path), pytest.raises(CheckpointError, match=f'held by process {os.getpid()} on .* since'):
    Store(tmp_path)
  command = [sys.executable, '-c', TAKE_LOCK + 'print("held", flush=True); input()', str(tmp_path)]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as job:
    assert job.stdout.readline() == b'held\n'
    with pytest.raises(CheckpointError, match=f'held by process {job.pid} on'):
      Store(tmp_path)
    job.kill()
  Store(tmp_path).close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
  fork = 'child = os.fork(); print(child, flush=True) if child else time.sleep(60); os._exit(0)'
  with subprocess.Popen(
    [sys.executable, '-c', TAKE_LOCK + fork, str(tmp_path)], stdout=subprocess.PIPE
  ) as job:
    child = int(job.stdout.readline())
    job.wait()
  Store(tmp_path).close()
  os.kill(child, signal.SIGKILL)


def test_relative_workdirs(tmp_path, sample, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with Store('runs/a') as store:
    assert store.workdir == tmp_path / 'runs' / 'a'
    monkeypatch.chdir('/')
    store.save(1, meta={}, **sample.trees())
  assert (tmp_path / 'runs/a/checkpoints/1/params').is_dir()


def test_a_failed_background_save_surfaces_at_the_next_step(tmp_path, sample, monkeypatch, caplog):
  caplog.set_level(logging.CRITICAL)
  trees = sample.trees()
  with Store(tmp_path) as store:
    store.save(1, meta={}, **trees)
    store.wait()

    def full(manifest):
      raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
      patch.setattr(manifests, 'dump', full)
      store.save(2, meta={}, **trees)
      while store._manager.is_saving_in_progress():
        time.sleep(0.01)
      with pytest.raises(CheckpointError, match='saving step 2 failed') as caught:
        store.check_for_errors()
    assert 'No space left' in str(caught.value)
    assert 'intact steps: 1' in str(caught.value)
    store.check_for_errors()
    assert names(store) == ['1']
    assert store.save(2, meta={}, **trees)
    store.wait()
    assert store.steps() == [1, 2]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, sample, caplog):
  caplog.set_level(logging.CRITICAL)
  with Store(tmp_path) as store:
    store.directory.rmdir()
    store.directory.write_text('in the way')
    with pytest.raises(CheckpointError, match='saving step 1 failed'):
      store.save(1, meta={}, **sample.trees())
    store.directory.unlink()
    store.directory.mkdir()


def test_plain_orbax_reads_the_array_items(tmp_path, sample):
  """The array items are ordinary Orbax items, although vitjax reads them by itself."""
  import orbax.checkpoint as ocp

  trees = sample.trees()
  with Store(tmp_path) as store:
    store.save(1, meta={}, **trees)
  with ocp.StandardCheckpointer() as checkpointer:
    folder = pathlib.Path(tmp_path) / 'checkpoints/1/params'
    del trees['params']['empty']
    restored = checkpointer.restore(folder, sample.abstract(trees)['params'])
  assert sample.same(restored, trees['params'])
