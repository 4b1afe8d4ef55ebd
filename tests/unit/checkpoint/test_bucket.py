"""Checkpoints in a gs:// bucket: Orbax and TensorStore against a bucket in memory."""

import logging
import sys

import fake_bucket
import fsspec
import jax
import numpy as np
import pytest
import tiny

import vitjax
from vitjax.checkpoint import Store, read_meta, restore_params
from vitjax.config.schema import CheckpointConfig
from vitjax.errors import CheckpointError

DIRECTORY = 'gs://bucket/runs/a'
CONFIG = CheckpointConfig(directory=DIRECTORY)


@pytest.fixture
def bucket(monkeypatch):
  """The objects of all buckets: {'/bucket/name': file}."""
  from orbax.checkpoint._src.path import gcs_utils

  server = fake_bucket.serve()
  monkeypatch.setenv('TENSORSTORE_GCS_HTTP_URL', f'http://127.0.0.1:{server.server_address[1]}')
  monkeypatch.setenv('GOOGLE_AUTH_TOKEN_FOR_TESTING', 'nobody')
  monkeypatch.setattr(gcs_utils, 'is_hierarchical_namespace_enabled', lambda path: False)
  monkeypatch.setitem(sys.modules['fsspec.registry']._registry, 'gcs', fake_bucket.FakeGcs)
  yield fake_bucket.FakeGcs.store
  fake_bucket.FakeGcs.store.clear()
  server.shutdown()
  server.server_close()


def keys(bucket, step):
  return [name for name in bucket if name.startswith(f'/bucket/runs/a/checkpoints/{step}/')]


def test_round_trip_retention_and_damage(tmp_path, sample, bucket, caplog):
  abstract = sample.abstract(sample.trees())
  with Store(tmp_path, CONFIG) as store:
    for step in (1, 2, 3):
      assert store.save(step, meta={'at': step}, **sample.trees(step))
    store.wait()
    assert store.steps() == [2, 3]
    assert not keys(bucket, 1)
    restored = store.restore(**abstract)
    found = {'params': restored.params, 'opt_state': restored.opt_state, 'aux': restored.aux}
    assert sample.same(found, sample.trees(3))
  assert [entry.name for entry in tmp_path.iterdir()] == ['.lock']
  assert read_meta(DIRECTORY) == {'at': 3}
  kernel = restore_params(f'{DIRECTORY}/checkpoints/2', as_numpy=True)['head']['kernel']
  np.testing.assert_array_equal(kernel, sample.trees(2)['params']['head']['kernel'])

  data = np.asarray(sample.trees(3)['params']['head']['kernel']).tobytes()
  victims = [name for name in keys(bucket, 3) if data in bucket[name].getvalue()]
  assert victims
  for name in victims:
    text = bytearray(bucket[name].getvalue())
    text[text.find(data) + 100] ^= 1
    fsspec.filesystem('gcs').pipe_file(name, bytes(text))
  with Store(tmp_path, CONFIG) as store:
    assert store.restore(**abstract).step == 2
    assert store.steps() == [2]
  assert 'step 3 is damaged; falling back to step 2. It is removed' in caplog.text


def test_a_step_without_its_last_file_is_no_step(tmp_path, sample, bucket):
  with Store(tmp_path, CONFIG) as store:
    for step in (1, 2):
      store.save(step, meta={}, **sample.trees(step))
  del bucket['/bucket/runs/a/checkpoints/2/commit_success.txt']  # as after a kill in mid-save
  assert read_meta(DIRECTORY) == {}
  with Store(tmp_path, CONFIG) as store:
    assert store.steps() == [1]
    assert not keys(bucket, 2)
    assert store.restore(**sample.abstract(sample.trees())).step == 1
    assert store.save(2, meta={}, **sample.trees(2))
    assert store.save(2, meta={}, force=True, **sample.trees(7))
    store.wait()
    assert int(store.restore(**sample.abstract(sample.trees())).aux['step']) == 7


@pytest.mark.slow
def test_a_run_with_its_checkpoints_in_a_bucket(tmp_path, bucket):
  from vitjax.training import build, train

  recipe = tiny.tiny_recipe(stop_after='10 steps', checkpoint__directory=DIRECTORY)
  train(build(tiny.tiny_recipe(stop_after='5 steps', checkpoint__directory=DIRECTORY)), tmp_path / 'a')
  # Another machine: another workdir, the same bucket.
  train(build(recipe), tmp_path / 'b')
  train(build(tiny.tiny_recipe(stop_after='10 steps')), tmp_path / 'whole')
  found, expected = (
    restore_params(DIRECTORY, as_numpy=True),
    restore_params(tmp_path / 'whole', as_numpy=True),
  )
  assert jax.tree.map(np.ndarray.tobytes, found) == jax.tree.map(np.ndarray.tobytes, expected)
  assert vitjax.load(DIRECTORY).predict(np.zeros((16, 16, 3), np.uint8)).shape == (1, 4)
  assert not (tmp_path / 'b' / 'checkpoints').exists()


def test_what_is_missing_is_said(tmp_path, monkeypatch):
  def missing(protocol):
    raise ImportError(protocol)

  monkeypatch.setattr(fsspec, 'get_filesystem_class', missing)
  with pytest.raises(CheckpointError, match=r'needs the package gcsfs(.|\n)*vitjax\[gcs\]'):
    Store(tmp_path, CONFIG)
  with pytest.raises(CheckpointError, match=r'gs:// buckets(.|\n)*Mount the bucket'):
    Store(tmp_path, CheckpointConfig(directory='s3://bucket/run'))
  with pytest.raises(CheckpointError, match='checkpoint.directory; or mount'):
    Store(DIRECTORY)


def test_nothing_in_the_bucket(bucket, caplog):
  caplog.set_level(logging.ERROR)
  with pytest.raises(CheckpointError, match='no checkpoint at gs://bucket/runs/a'):
    read_meta(DIRECTORY)
