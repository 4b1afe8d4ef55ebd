"""Saver: a save that fails is repeated with newer weights, a bounded number of times."""

import errno
import logging
import time

import pytest

from vitjax.checkpoint import Saver, Store, leftovers
from vitjax.checkpoint import manifest as manifests
from vitjax.config.schema import CheckpointConfig
from vitjax.errors import CheckpointError, SaveError


class Disk:
  """Makes the background part of saves fail while `full`."""

  def __init__(self, monkeypatch):
    self.full = False
    self._dump = manifests.dump
    monkeypatch.setattr(manifests, 'dump', self)

  def __call__(self, manifest):
    if self.full:
      raise OSError(errno.ENOSPC, 'No space left on device')
    return self._dump(manifest)


@pytest.fixture
def disk(monkeypatch, caplog):
  caplog.set_level(logging.ERROR)
  return Disk(monkeypatch)


def ask_until_due(saver):
  deadline = time.monotonic() + 10
  while not saver.due():
    assert time.monotonic() < deadline
    time.sleep(0.001)


def test_a_save_that_fails_for_a_while_is_repeated(tmp_path, sample, disk):
  with Store(tmp_path) as store:
    saver = Saver(store, 3, first_pause_s=0.01)
    saver.save(1, meta={}, **sample.trees(1))
    assert saver.settle()
    disk.full = True
    saver.save(2, meta={}, **sample.trees(2))
    ask_until_due(saver)
    assert store.steps() == [1]
    saver.save(3, meta={}, **sample.trees(3))
    disk.full = False
    ask_until_due(saver)
    saver.save(4, meta={}, **sample.trees(4))
    assert saver.settle()
    assert not saver.due()
    assert store.steps() == [1, 4]
    assert int(store.restore(**sample.abstract(sample.trees())).aux['step']) == 4


def test_after_too_many_failures_in_a_row_the_run_ends(tmp_path, sample, disk):
  with Store(tmp_path, CheckpointConfig(keep_last=1)) as store:
    saver = Saver(store, 2, first_pause_s=0.01)
    saver.save(1, meta={}, **sample.trees(1))
    assert saver.settle()
    disk.full = True
    for step in (2, 3):
      saver.save(step, meta={}, **sample.trees(step))
      assert not saver.settle()
    saver.save(4, meta={}, **sample.trees(4))
    with pytest.raises(SaveError, match='No space left') as caught:
      saver.settle()
    assert 'intact steps: 1' in str(caught.value)
    disk.full = False
    assert int(store.restore(**sample.abstract(sample.trees())).aux['step']) == 1


def test_no_retries_means_none(tmp_path, sample, disk):
  disk.full = True
  with Store(tmp_path) as store:
    saver = Saver(store, 0)
    saver.save(1, meta={}, **sample.trees())
    with pytest.raises(SaveError, match='saving step 1 failed'):
      while not saver.due():
        time.sleep(0.001)


def test_what_makes_no_sense_is_not_repeated(tmp_path, sample):
  with Store(tmp_path) as store, pytest.raises(CheckpointError, match='meta is not JSON'):
    Saver(store, 3).save(1, meta={'x': object()}, **sample.trees())


def test_waiting_for_slow_storage_is_counted(tmp_path, sample, monkeypatch, caplog):
  dump = manifests.dump

  def slow(manifest):
    time.sleep(1.1)
    return dump(manifest)

  monkeypatch.setattr(manifests, 'dump', slow)
  with Store(tmp_path) as store:
    began_s = time.monotonic()
    store.save(1, meta={}, **sample.trees())
    assert time.monotonic() - began_s < 1
    assert store.stalled_s == 0
    store.save(2, meta={}, **sample.trees())
    assert 0.5 < store.stalled_s < 5
  assert 'for step 1 to be written: storage is slower than checkpoint.every' in caplog.text


def test_steps_that_a_forced_save_replaces_outlive_its_failure(tmp_path, sample, disk):
  with Store(tmp_path) as store:
    store.save(5, meta={}, **sample.trees(5))
    store.wait()
    disk.full = True
    with pytest.raises(SaveError):
      store.save(5, meta={}, force=True, **sample.trees(6))
      store.wait()
    assert store.steps() == []
  disk.full = False
  with Store(tmp_path) as store:
    assert int(store.restore(**sample.abstract(sample.trees())).aux['step']) == 5
    store.save(5, meta={}, force=True, **sample.trees(7))
    store.wait()
    assert int(store.restore(**sample.abstract(sample.trees())).aux['step']) == 7
    assert not (store.directory / leftovers.REPLACED).exists()


def test_damaged_steps_do_not_pile_up(tmp_path):
  for step in (1, 2, 3, 4):
    (tmp_path / 'checkpoints' / str(step)).mkdir(parents=True)
    leftovers.set_aside(tmp_path / 'checkpoints', [step], tmp_path / 'damaged')
  assert sorted(entry.name for entry in (tmp_path / 'damaged').iterdir()) == ['3', '4']


def test_links_are_removed_and_not_followed(tmp_path, sample):
  outside = tmp_path / 'outside'
  outside.mkdir()
  (outside / 'precious').write_text('x')
  checkpoints = tmp_path / 'run' / 'checkpoints'
  checkpoints.mkdir(parents=True)
  for name in (leftovers.DELETED, leftovers.REPLACED, f'9{leftovers.TMP_MARK}'):
    (checkpoints / name).symlink_to(outside, target_is_directory=True)
  with Store(tmp_path / 'run', CheckpointConfig(keep_last=1)) as store:
    for step in (1, 2, 3):
      store.save(step, meta={}, **sample.trees(step))
    store.wait()
    assert sorted(entry.name for entry in checkpoints.iterdir()) == ['3']
  assert [entry.name for entry in outside.iterdir()] == ['precious']
