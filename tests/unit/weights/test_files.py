"""Files of arrays from strangers: what is sound is read exactly, what is not is refused without harm."""

from __future__ import annotations

import os
import pathlib
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from forged_files import (
  MEMBERS,
  MODEL,
  SOUND,
  VICTIM,
  Canary,
  Member,
  MiB,
  all_damaged,
  damaged_safetensors,
  forged,
  make_zip,
  npy,
  tensors,
)

from vitjax.errors import CheckpointError
from vitjax.weights import read_weights
from vitjax.weights.files import (
  kind_of,
  read_json,
  read_npz,
  read_safetensors,
  write_json,
  write_npz,
  write_safetensors,
)

MEMORY_BOUND = 48 * MiB  # the sound file is 10 KB; the bombs announce gigabytes

# --- sound files

ARRAYS = {
  'a/matrix': np.arange(6, dtype=np.float32).reshape(2, 3),
  'scalar': np.array(2.5),
  'empty': np.zeros((0, 3), np.float32),
  'half': np.arange(4, dtype=np.float16),
  'brain': np.arange(4, dtype=np.float32).astype(ml_dtypes.bfloat16),
  'ints': np.arange(-2, 2, dtype=np.int64),
  'flag': np.array([True, False]),
  'transposed': np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
}


def assert_read(entries, arrays):
  assert list(entries) == list(arrays)
  for name, array in arrays.items():
    entry = entries[name]
    got = entry.read()
    assert (entry.shape, entry.dtype) == (got.shape, got.dtype) == (array.shape, array.dtype), name
    assert got.tobytes() == array.tobytes(), name
    assert got.flags.c_contiguous, name
    assert got.flags.writeable, name


@pytest.mark.parametrize('writer', [write_npz, 'savez', 'savez_compressed'])
def test_npz_is_read_exactly(writer, tmp_path):
  if callable(writer):
    writer(tmp_path / 'a.npz', ARRAYS)
  else:
    getattr(np, writer)(tmp_path / 'a.npz', **ARRAYS)
  assert kind_of(tmp_path / 'a.npz') == 'npz'
  assert_read(read_npz(tmp_path / 'a.npz'), ARRAYS)


def test_npz_other_byte_order_and_long_members(tmp_path):
  big = np.random.default_rng(0).normal(size=(700, 1000)).astype('>f4')  # several chunks
  np.savez_compressed(tmp_path / 'a.npz', big=big, small=big[:2])
  entries = read_npz(tmp_path / 'a.npz')
  assert_read(entries, {'big': big.astype(np.float32), 'small': big[:2].astype(np.float32)})


def test_npz_beyond_the_old_zip_limits(tmp_path):
  """The 64-bit directory that archives of 4 GiB or of 65,536 members have."""
  data = npy(np.arange(3, dtype=np.float32))
  (tmp_path / 'a.npz').write_bytes(make_zip([Member('x.npy', data)], zip64=True))
  assert read_npz(tmp_path / 'a.npz')['x'].read().tolist() == [0, 1, 2]


def test_safetensors_is_read_exactly(tmp_path):
  write_safetensors(tmp_path / 'a.safetensors', ARRAYS, {'format': 'pt'})
  assert kind_of(tmp_path / 'a.safetensors') == 'safetensors'
  entries, metadata = read_safetensors(tmp_path / 'a.safetensors')
  assert metadata == {'format': 'pt'}
  assert_read(entries, ARRAYS)


def test_safetensors_by_the_letter_of_the_format(tmp_path):
  """Built by hand: an 8-byte length, JSON, data; names in another order than the data."""
  header = {
    'b': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [8, 12]},
    'a': {'dtype': 'F32', 'shape': [1, 2], 'data_offsets': [0, 8]},
  }
  (tmp_path / 'a.safetensors').write_bytes(tensors(header, struct.pack('<2fHH', 1.5, -2, 0x3F80, 0xC000)))
  entries, metadata = read_safetensors(tmp_path / 'a.safetensors')
  assert metadata == {}
  assert entries['a'].read().tolist() == [[1.5, -2]]
  assert entries['b'].read().astype(np.float32).tolist() == [1, -2]


def test_writers_refuse_what_the_format_has_no_name_for(tmp_path):
  with pytest.raises(CheckpointError, match='complex64'):
    write_safetensors(tmp_path / 'a', {'x': np.zeros(2, np.complex64), 'y': np.zeros(2, np.float32)})
  with pytest.raises(ValueError, match='allow_pickle'):
    write_npz(tmp_path / 'a', {'x': np.array([None])})
  assert list(tmp_path.iterdir()) == []


def test_json(tmp_path):
  write_json(tmp_path / 'c.json', {'a': [1, 2.5, None], 'b': {'ü': 'x'}})
  assert read_json(tmp_path / 'c.json') == {'a': [1, 2.5, None], 'b': {'ü': 'x'}}


@pytest.mark.parametrize(
  'content',
  [b'', b'[1]', b'{"a": 1, "a": 2}', b'{"a": ', b'\xff\xfe', b'[' * 100_000, b'{"a": ' * 100_000, b'9' * 10_000]
)  # fmt: skip
def test_damaged_json(content, tmp_path):
  (tmp_path / 'c.json').write_bytes(content)
  with pytest.raises(CheckpointError, match=r'c\.json'):
    read_json(tmp_path / 'c.json')


# --- damaged files


def expect_refusal(read, path, canary, name):
  """Checks that read(path) raises one clear CheckpointError, in bounded memory, and runs nothing."""
  tracemalloc.start()
  try:
    with pytest.raises(CheckpointError) as caught:
      read(path)
    peak = tracemalloc.get_traced_memory()[1]
  except BaseException as error:
    raise AssertionError(f'{name}: {type(error).__name__}: {error}') from error
  finally:
    tracemalloc.stop()
  text = str(caught.value)
  assert caught.value.problems, name
  assert all(problem.where and (problem.found or problem.expected) for problem in caught.value.problems), text
  assert path.name in text, f'{name}: {text}'
  assert len(text) < 30_000, f'{name}: {len(text)} characters'
  assert peak < MEMORY_BOUND, f'{name}: {peak / MiB:.0f} MiB'
  assert not canary.exists(), name


def test_the_forger_makes_sound_files_when_asked_to(tmp_path):
  """Otherwise every refusal below could be one of the forger's own mistakes."""
  for i, options in enumerate([{}, {'zip64': True}, {'comment': b'hello'}, {'end': {'count': 1}}]):
    (tmp_path / f'{i}.npz').write_bytes(forged(**options))
    found = read_weights(tmp_path / f'{i}.npz')
    assert found.model == MODEL
    np.testing.assert_array_equal(found.params['cls'], SOUND['cls'])
  (tmp_path / 'deflated.npz').write_bytes(forged({VICTIM: Member(f'{VICTIM}.npy', MEMBERS[VICTIM], 8)}))
  kernel = read_weights(tmp_path / 'deflated.npz').params['Transformer']['encoderblock_0']['MlpBlock_0'][
    'Dense_0'
  ]
  np.testing.assert_array_equal(kernel['kernel'], SOUND[VICTIM])
  assert zipfile.ZipFile(tmp_path / 'deflated.npz').testzip() is None


def test_two_hundred_damaged_npz_files(tmp_path):
  canary, count = tmp_path / 'canary', 0
  Canary(canary).__reduce__()[0](canary)
  assert canary.exists()  # the canary can sing
  canary.unlink()
  for name, content in all_damaged(canary):
    path = tmp_path / 'damaged.npz'
    path.write_bytes(content)
    expect_refusal(read_weights, path, canary, name)
    count += 1
  assert count >= 200


# What the reader itself must say, before any loader compares shapes.
REASONS = {
  'bomb: 64 MiB of zeros': r'\d+ bytes of arrays in a file of \d+: expected at most',
  'bomb: extra member': r'\d+ bytes of arrays in a file of \d+: expected at most',
  'bomb: announces 4 GiB': r'4\d{9} bytes of arrays in a file of',
  'bomb: announces 4 TiB': r'4\d{12} bytes of arrays in a file of',
  'header: 4 TiB': r'\[1099511627776\] float32, 4398046511104 bytes: expected the 384 bytes',
  'header: objects': 'an array of Python objects.*can run code',
  'header: code as dtype': 'the .npy header',
  'encrypted': 'encrypted',
  'member twice': 'stands twice|data after',
  'overlap: two names, one place': 'data after',
  'torch archive': 'PyTorch .pt file is a zip of pickles',
  'wrong checksum': 'checksum',
  '20,001 members': '20001 members',
  '64-bit directory: length': '1152921504606846976 bytes',
  'type: pickle': 'Python pickle.*never opened',
  'type: one array': 'a single .npy array',
  'type: HTML': 'HTML or XML',
  'truncated 20/40': 'no zip directory.*again',
}


def test_reasons_are_the_right_ones(tmp_path):
  path, seen = tmp_path / 'damaged.npz', set()
  for name, content in all_damaged(tmp_path / 'canary'):
    if name in REASONS:
      path.write_bytes(content)
      with pytest.raises(CheckpointError, match=REASONS[name]):
        for entry in read_npz(path).values():
          entry.read()
      seen.add(name)
  assert seen == set(REASONS)


def test_damaged_safetensors(tmp_path):
  canary, count = tmp_path / 'canary', 0
  for name, content in damaged_safetensors():
    path = tmp_path / 'damaged.safetensors'
    path.write_bytes(content)
    expect_refusal(read_safetensors, path, canary, name)
    count += 1
  assert count >= 60


def test_a_flipped_byte_is_noticed_or_harmless(tmp_path):
  """Every byte that is not checked by something must not matter: dates, versions, attributes."""
  whole, path = forged(), tmp_path / 'flipped.npz'
  rng = np.random.default_rng(7)
  noticed = 0
  for at in rng.choice(len(whole), 400, replace=False):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.integers(8))]) + whole[at + 1 :])
    try:
      read = {name: entry.read() for name, entry in read_npz(path).items()}
    except CheckpointError:
      noticed += 1
      continue
    if list(read) == list(SOUND):  # a flip in a name gives another key, which the loader refuses
      assert all(np.array_equal(read[name], SOUND[name]) for name in SOUND), f'byte {at}'
    else:
      assert len(set(read) - set(SOUND)) == 1, f'byte {at}'
  assert noticed > 250


def test_places_that_are_no_files(tmp_path):
  os.mkfifo(tmp_path / 'pipe.npz')  # opening it would wait forever
  for place, message in [
    (tmp_path / 'nowhere.npz', 'no such file'),
    (tmp_path / 'pipe.npz', 'special file'),
    (pathlib.Path('/dev/zero'), 'special file'),
    (tmp_path, 'no model.safetensors and no config.json'),
    (tmp_path / 'x\0y', 'no such file|null'),
  ]:
    with pytest.raises(CheckpointError, match=message):
      read_weights(place)


def test_a_folder_of_pickles_says_what_to_do(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'\x80\x04')
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(
    CheckpointError, match=r'no model\.safetensors among .*pytorch_model\.bin.*never opened'
  ):
    read_weights(tmp_path)


def test_a_file_that_changes_after_it_was_checked(tmp_path):
  write_npz(tmp_path / 'a.npz', ARRAYS)
  write_safetensors(tmp_path / 'a.safetensors', ARRAYS)
  for path, entries in [
    (tmp_path / 'a.npz', read_npz(tmp_path / 'a.npz')),
    (tmp_path / 'a.safetensors', read_safetensors(tmp_path / 'a.safetensors')[0]),
  ]:
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CheckpointError, match=path.name):
      entries['transposed'].read()
