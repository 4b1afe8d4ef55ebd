"""Storage faults: every damage is named, nothing wrong is ever loaded, and a run falls back by name."""

import logging
import shutil

import numpy as np
import pytest

from vitjax import trees
from vitjax.checkpoint import DamagedCheckpoint, Store, restore_params
from vitjax.errors import CheckpointError


@pytest.fixture
def run(tmp_path, sample):
  """A workdir with steps 1 and 2 of different values."""
  with Store(tmp_path) as store:
    for step in (1, 2):
      store.save(step, meta={'at': step}, **sample.trees(step))
  return tmp_path


def stored(run, sample, step=2):
  """Returns {path: (file, offset, size)} where each larger array lies on disk; small ones are in the index."""
  found = {}
  items = sample.trees(step)
  for item in ('params', 'opt_state'):
    files = [file for file in (run / 'checkpoints' / str(step) / item).rglob('*') if file.is_file()]
    for path, leaf in trees.flatten(items[item]).items():
      data = np.asarray(leaf).tobytes()
      places = [(file, file.read_bytes().find(data), len(data)) for file in files if len(data) > 1024]
      found.update({f'{item}/{path}': place for place in places if place[1] >= 0})
  return found


def flip(file, offset, bit=0):
  data = bytearray(file.read_bytes())
  data[offset] ^= 1 << bit
  file.write_bytes(data)


def restore(run, sample):
  with Store(run) as store:
    return store.restore(**sample.abstract(sample.trees()))


def is_step(restored, step, sample):
  found = {'params': restored.params, 'opt_state': restored.opt_state, 'aux': restored.aux}
  return restored.step == step and restored.meta == {'at': step} and sample.same(found, sample.trees(step))


def flip_in(run, sample, array, step=2):
  file, offset, size = stored(run, sample, step)[array]
  flip(file, offset + size // 2)


@pytest.mark.parametrize('array', ['params/head/kernel', 'opt_state/1/0/mu/head/kernel'])
def test_a_flipped_bit_is_named_and_the_previous_step_restored(run, sample, caplog, array):
  flip_in(run, sample, array)
  restored = restore(run, sample)
  assert is_step(restored, 1, sample)
  warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
  caplog_text = '\n'.join(record.getMessage() for record in warnings)
  assert 'step 2 is damaged; falling back to step 1' in caplog_text
  assert f'checkpoints/2: {array} = data with SHA-256' in caplog_text


def test_a_damaged_step_is_set_aside_and_can_be_saved_again(run, sample):
  flip_in(run, sample, 'params/head/kernel')
  with Store(run) as store:
    assert store.restore(**sample.abstract(sample.trees())).step == 1
    assert store.steps() == [1]
    assert store.save(2, meta={'at': 2}, **sample.trees(2))
    store.wait()
    assert is_step(store.restore(**sample.abstract(sample.trees())), 2, sample)
  assert (run / 'damaged' / '2' / 'params').is_dir()


def test_an_explicit_damaged_step_is_an_error(run, sample):
  flip_in(run, sample, 'params/head/kernel')
  with Store(run) as store, pytest.raises(CheckpointError, match='params/head/kernel') as caught:
    store.restore(2, **sample.abstract(sample.trees()))
  assert 'other steps: 1' in str(caught.value)
  with pytest.raises(DamagedCheckpoint, match='params/head/kernel'):
    restore_params(run)
  restore_params(run, step=1)


def test_nothing_undamaged_left_is_an_error_and_not_a_fresh_start(run, sample):
  for step in (1, 2):
    flip_in(run, sample, 'params/head/kernel', step)
  with Store(run) as store:
    with pytest.raises(CheckpointError, match='no undamaged checkpoint') as caught:
      store.restore(**sample.abstract(sample.trees()))
    assert store.steps() == [1, 2]
  for step in (1, 2):
    assert f'checkpoints/{step}: params/head/kernel' in str(caught.value)


def test_twenty_random_flips_in_array_data_are_all_detected(run, sample):
  rng = np.random.default_rng(0)
  places = stored(run, sample)
  assert len(places) == 3
  abstract = sample.abstract(sample.trees())
  detected = 0
  with Store(run) as store:
    for _ in range(20):
      array = str(rng.choice(list(places)))
      file, offset, size = places[array]
      byte, bit = offset + int(rng.integers(size)), int(rng.integers(8))
      flip(file, byte, bit)
      try:
        store.restore(2, **abstract)
      except CheckpointError as error:
        detected += f'{array} = data with' in str(error)
      flip(file, byte, bit)
    assert is_step(store.restore(2, **abstract), 2, sample)
  assert detected == 20


def fault(store, abstract, sample):
  """Returns what the store says of step 2, or '' where the step comes back exactly."""
  try:
    restored = store.restore(2, **abstract)
  except CheckpointError as error:
    return str(error)
  assert is_step(restored, 2, sample)
  return ''


@pytest.mark.parametrize('how', ['truncated', 'empty', 'deleted'])
def test_no_damaged_file_passes_silently(run, sample, how):
  """Each file of a step in turn: the step comes back exactly, or an error names the file or its arrays."""
  step_dir = run / 'checkpoints' / '2'
  files = sorted(file for file in step_dir.rglob('*') if file.is_file())
  assert len(files) > 20
  abstract = sample.abstract(sample.trees())
  named = []
  with Store(run) as store:
    for file in files:
      data = file.read_bytes()
      if how == 'deleted':
        file.unlink()
      else:
        file.write_bytes(data[: len(data) // 2] if how == 'truncated' else b'')
      problem = fault(store, abstract, sample)
      if problem:
        item = file.relative_to(step_dir).parts[0]
        assert any(name in problem for name in (file.name, f'checkpoints/2: {item}/', f'/{item} '))
        named.append(file.name)
      file.write_bytes(data)
  assert 'metadata' in named
  assert 'process_0_of_1.json' in named
  assert 'manifest.ocdbt' in named
  assert len(named) > 6


@pytest.mark.parametrize('item', ['params', 'opt_state', 'aux', 'meta', 'manifest'])
def test_a_missing_item_is_named(run, sample, item, caplog):
  shutil.rmtree(run / 'checkpoints' / '2' / item)
  assert is_step(restore(run, sample), 1, sample)
  assert any(item in record.getMessage() for record in caplog.records)


def test_swapped_items_of_two_steps_are_noticed(run, sample):
  steps = run / 'checkpoints'
  shutil.rmtree(steps / '2' / 'params')
  shutil.copytree(steps / '1' / 'params', steps / '2' / 'params')
  with Store(run) as store, pytest.raises(CheckpointError, match='params/head/kernel'):
    store.restore(2, **sample.abstract(sample.trees()))


def test_an_edited_meta_or_manifest_is_noticed(run, sample):
  step_dir = run / 'checkpoints' / '2'
  meta = step_dir / 'meta' / 'metadata'
  meta.write_text(meta.read_text().replace('2', '3'))
  with Store(run) as store, pytest.raises(CheckpointError, match='meta/metadata = JSON that differs'):
    store.restore(2, **sample.abstract(sample.trees()))
  manifest = step_dir / 'manifest' / 'process_0_of_1.json'
  manifest.write_text(manifest.read_text().replace('"step": 2', '"step": 4'))
  with Store(run) as store, pytest.raises(CheckpointError, match='differs from its own SHA-256'):
    store.restore(2, **sample.abstract(sample.trees()))
