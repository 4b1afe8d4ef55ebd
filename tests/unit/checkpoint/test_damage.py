"""Storage faults: every damage is named, nothing wrong is ever loaded, and a run falls back by name."""

import logging
import re
import shutil

import numpy as np
import pytest

from vitjax.checkpoint import DamagedCheckpoint, Store, restore_params
from vitjax.errors import CheckpointError


@pytest.fixture
def run(tmp_path, sample):
  """A workdir with steps 1 and 2 of different values."""
  with Store(tmp_path) as store:
    for step in (1, 2):
      store.save(step, meta={'at': step}, **sample.trees(step))
  return tmp_path


def array_files(run, item, step=2):
  """Returns the files of an item that hold array data itself (Orbax keeps small arrays in the index)."""
  files = (run / 'checkpoints' / str(step) / item / 'ocdbt.process_0' / 'd').iterdir()
  return [file for file in files if file.stat().st_size > 1024]


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


@pytest.mark.parametrize(
  ('item', 'array'), [('params', 'params/head/kernel'), ('opt_state', r'opt_state/1/0/(mu|nu)/head/kernel')]
)
def test_a_flipped_bit_is_named_and_the_previous_step_restored(run, sample, caplog, item, array):
  (file,) = array_files(run, item)
  flip(file, file.stat().st_size // 2, bit=5)
  restored = restore(run, sample)
  assert is_step(restored, 1, sample)
  warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
  caplog_text = '\n'.join(record.getMessage() for record in warnings)
  assert 'step 2 is damaged; falling back to step 1' in caplog_text
  assert re.search(rf'checkpoints/2: {array} = data with SHA-256', caplog_text)


def test_a_damaged_step_is_set_aside_and_can_be_saved_again(run, sample):
  flip(array_files(run, 'params')[0], 500)
  with Store(run) as store:
    assert store.restore(**sample.abstract(sample.trees())).step == 1
    assert store.steps() == [1]
    assert store.save(2, meta={'at': 2}, **sample.trees(2))
    store.wait()
    assert is_step(store.restore(**sample.abstract(sample.trees())), 2, sample)
  assert (run / 'damaged' / '2' / 'params').is_dir()


def test_an_explicit_damaged_step_is_an_error(run, sample):
  flip(array_files(run, 'params')[0], 500)
  with Store(run) as store, pytest.raises(CheckpointError, match='params/head/kernel') as caught:
    store.restore(2, **sample.abstract(sample.trees()))
  assert 'other steps: 1' in str(caught.value)
  with pytest.raises(DamagedCheckpoint, match='params/head/kernel'):
    restore_params(run)
  restore_params(run, step=1)


def test_nothing_undamaged_left_is_an_error_and_not_a_fresh_start(run, sample):
  for step in (1, 2):
    flip(array_files(run, 'params', step)[0], 500)
  with Store(run) as store:
    with pytest.raises(CheckpointError, match='no undamaged checkpoint') as caught:
      store.restore(**sample.abstract(sample.trees()))
    assert store.steps() == [1, 2]
  for step in (1, 2):
    assert f'checkpoints/{step}: params/head/kernel' in str(caught.value)


def test_twenty_random_flips_in_array_data_are_all_detected(run, sample):
  rng = np.random.default_rng(0)
  files = [file for item in ('params', 'opt_state') for file in array_files(run, item)]
  abstract = sample.abstract(sample.trees())
  detected = 0
  with Store(run) as store:
    for _ in range(20):
      file = files[rng.integers(len(files))]
      offset, bit = int(rng.integers(live_bytes(file))), int(rng.integers(8))
      flip(file, offset, bit)
      try:
        store.restore(2, **abstract)
      except CheckpointError as error:
        detected += 'head/kernel' in str(error)
      flip(file, offset, bit)
    assert is_step(store.restore(2, **abstract), 2, sample)
  assert detected == 20


def live_bytes(file):
  """Returns the bytes of raw kernels at the start of a data file; an old copy of the index follows them."""
  return file.stat().st_size // (16 * 64 * 4) * (16 * 64 * 4)


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
