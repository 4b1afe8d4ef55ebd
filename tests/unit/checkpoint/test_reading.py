"""Reading checkpoints from elsewhere: finding them, their JSON, and params on any devices."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from vitjax import trees
from vitjax.checkpoint import Store, open_checkpoint, read_meta, restore_params
from vitjax.checkpoint import manifest as manifests
from vitjax.errors import CheckpointError


@pytest.fixture(scope='module')
def run(tmp_path_factory, sample):
  """A workdir whose steps 3 and 10 were written by eight devices."""
  workdir = tmp_path_factory.mktemp('run')
  with Store(workdir) as store:
    for step in (3, 10):
      state = sample.spread(sample.trees(step))
      state['aux']['ema_params'] = jax.tree.map(lambda x: x * 2, state['params'])
      store.save(step, meta={'at': step}, **state)
  return workdir


def test_open_checkpoint_takes_a_workdir_its_checkpoints_or_a_step(run):
  assert open_checkpoint(run).step == 10
  assert open_checkpoint(run / 'checkpoints').path == run / 'checkpoints' / '10'
  assert open_checkpoint(run / 'checkpoints' / '3').step == 3
  assert open_checkpoint(str(run), step=3).path == run / 'checkpoints' / '3'
  assert open_checkpoint(run).steps == (3, 10)


def test_a_wrong_path_says_what_exists(run, tmp_path):
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'notes.txt').write_text('')
  with pytest.raises(CheckpointError, match=r'no such file or folder.* holds notes.txt, runs'):
    open_checkpoint(tmp_path / 'runz' / 'a')
  with pytest.raises(CheckpointError, match='a folder that holds notes.txt, runs'):
    open_checkpoint(tmp_path)
  with pytest.raises(CheckpointError, match='a file: expected a folder'):
    open_checkpoint(tmp_path / 'notes.txt')
  with pytest.raises(CheckpointError, match='steps 3, 10: expected step 4'):
    open_checkpoint(run, step=4)


def test_read_meta(run):
  assert read_meta(run) == {'at': 10}
  assert read_meta(run, step=3) == {'at': 3}
  assert read_meta(run / 'checkpoints' / '3') == {'at': 3}


def test_restore_params_on_one_device_by_default(run, sample):
  params = restore_params(run, step=3)
  wanted = sample.trees(3)['params']
  del wanted['empty']
  assert sample.same(params, wanted)
  assert {frozenset(leaf.devices()) for leaf in jax.tree.leaves(params)} == {frozenset(jax.devices()[:1])}


def test_restore_params_as_numpy_or_with_shardings(run, sample):
  host = restore_params(run, as_numpy=True)
  assert {type(leaf) for leaf in jax.tree.leaves(host)} == {np.ndarray}
  shardings = jax.tree.map(lambda leaf: sample.sharding(leaf, 8), host)
  spread = restore_params(run, shardings=shardings)
  assert sample.same(spread, host)
  assert spread['head']['kernel'].sharding == shardings['head']['kernel']
  everywhere = restore_params(run, shardings=sample.sharding(np.zeros(()), 8))
  assert len(everywhere['head']['kernel'].devices()) == 8
  del shardings['head']['bias']
  with pytest.raises(CheckpointError, match='params/head/bias = no sharding'):
    restore_params(run, shardings=shardings)


def test_restore_another_subtree(run):
  averaged, params = restore_params(run, subtree='aux/ema_params'), restore_params(run)
  np.testing.assert_array_equal(averaged['head']['kernel'], params['head']['kernel'] * 2)
  aux = restore_params(run, subtree='aux')
  assert aux['rng'].dtype == jax.random.key(0).dtype
  assert (type(aux['count']), int(aux['count'])) == (np.ndarray, 2**40 + 10)
  with pytest.raises(CheckpointError, match=r"'ema': expected one of .*aux/ema_params, .*params"):
    restore_params(run, subtree='ema')


def test_reading_imports_neither_tensorflow_nor_torch(run):
  code = """
import sys
from vitjax.checkpoint import read_meta, restore_params
assert restore_params(sys.argv[1])['head']['kernel'].shape == (16, 64)
assert read_meta(sys.argv[1]) == {'at': 10}
print(sorted({'tensorflow', 'torch', 'grain', 'cv2'} & set(sys.modules)))
"""
  done = subprocess.run([sys.executable, '-c', code, run], capture_output=True, text=True, timeout=120)
  assert (done.stdout, done.returncode) == ('[]\n', 0), done.stderr


def test_verify_names_the_array(sample):
  params = sample.trees()['params']
  entries = {path: copy.digest() for path, copy in manifests.host_copies(params).items()}
  assert manifests.verify(params, entries) == []
  params['head']['kernel'] = params['head']['kernel'].at[3, 4].add(1e-6)
  assert [problem.where for problem in manifests.verify(params, entries)] == ['head/kernel']
  assert {path: entry.parts[0].sha256 for path, entry in entries.items()} != manifests.digests(params)


def test_parts_of_several_processes_are_verified_by_slices():
  """Two processes wrote the columns of a matrix; whoever reads it has it whole."""
  matrix = np.arange(24.0).reshape(4, 6)
  halves = {0: matrix[:, :3], 3: matrix[:, 3:]}
  parts = [manifests.Part((0, at), (4, at + 3), manifests.sha256(half)) for at, half in halves.items()]
  entry = manifests.Entry((4, 6), 'float64', '', tuple(parts))
  assert manifests.fault(matrix, entry) == ''
  matrix[2, 5] += 1
  assert 'data with SHA-256' in manifests.fault(matrix, entry)


def test_manifests_of_several_processes_are_merged_and_none_may_lack(tmp_path):
  folder = tmp_path / '5' / manifests.FOLDER
  folder.mkdir(parents=True)
  for index in (0, 1):
    part = manifests.Part((index,), (index + 1,), f'{index}')
    entry = manifests.Entry((2,), 'float32', '', (part,))
    manifest = manifests.Manifest(5, {'params/w': entry}, 'm', {'acc': 0.5})
    (folder / manifests.file_name(index, 2)).write_text(manifests.dump(manifest))
  merged = manifests.load(tmp_path / '5')
  assert [part.start for part in merged.arrays['params/w'].parts] == [(0,), (1,)]
  assert (merged.step, merged.metrics) == (5, {'acc': 0.5})
  (folder / manifests.file_name(1, 2)).unlink()
  with pytest.raises(manifests.DamagedCheckpoint, match='process_1_of_2.json'):
    manifests.load(tmp_path / '5')


def test_a_newer_format_is_refused_and_not_taken_for_damage(tmp_path):
  folder = tmp_path / '5' / manifests.FOLDER
  folder.mkdir(parents=True)
  body = {'format': manifests.FORMAT + 1}
  text = json.dumps({'sha256': manifests.text_sha256(body), 'body': body})
  (folder / manifests.file_name(0, 1)).write_text(text)
  with pytest.raises(CheckpointError, match='Read it with the vitjax that wrote it') as caught:
    manifests.load(tmp_path / '5')
  assert not isinstance(caught.value, manifests.DamagedCheckpoint)


def test_digests_name_every_array(sample):
  state = sample.trees()
  assert manifests.digests(state).keys() == trees.flatten(state).keys()
