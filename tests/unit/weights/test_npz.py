"""Official .npz files: every family is recognised, loaded to the same numbers, and written back bit-equal."""

from __future__ import annotations

import dataclasses
import math
import re
import tracemalloc

import ml_dtypes
import numpy as np
import official_files
import pytest
from official_files import FAMILIES
from tiny_vit import (
  CLASSES,
  SIZE,
  TINY,
  assert_equal,
  export_options,
  random_flat,
  write_family,
  zeros_entries,
)

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError
from vitjax.weights import npz, read_weights
from vitjax.weights.files import read_npz, write_npz
from vitjax.weights.imported import expected_shapes


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_loads_and_goes_back_bit_equal(name, tmp_path):
  family, flat = FAMILIES[name], random_flat(TINY)
  file = write_family(tmp_path / 'a.npz', flat, family)
  found = read_weights(file)
  assert (found.format, found.model, found.num_classes, found.image_size) == ('npz', TINY, CLASSES, SIZE)
  assert_equal(trees.flatten(found.params), flat)
  assert found.preprocess == Preprocess(SIZE)
  assert found.class_names is None
  assert len(found.report.keys('loaded')) == len(read_npz(file))
  if name == 'before_2022':  # read, never written
    return
  arrays = npz.export(
    found.params, found.model, CLASSES, SIZE, found.preprocess, **export_options(name)
  ).arrays
  write_npz(tmp_path / 'b.npz', arrays)
  with np.load(file) as before, np.load(tmp_path / 'b.npz') as after:
    assert_equal(dict(after), dict(before))


@pytest.mark.parametrize(
  ('change', 'writers'),
  [
    ({'pool': 'gap'}, ('augreg', 'big_vision', 'big_vision_scanned')),
    ({'pool': 'map'}, ('big_vision', 'big_vision_scanned')),
    ({'representation_size': 10}, ('augreg', 'big_vision')),
    ({'qk_norm': True}, ('linen', 'big_vision_scanned')),
  ],
  ids=['gap', 'map', 'pre_logits', 'qk_norm'],
)
def test_other_heads_and_norms(change, writers, tmp_path):
  model = dataclasses.replace(TINY, **change)
  flat = random_flat(model)
  for name in writers:
    found = read_weights(write_family(tmp_path / 'a.npz', flat, FAMILIES[name]))
    assert found.model == model
    assert_equal(trees.flatten(found.params), flat)
    assert any('pool' in sentence for sentence in found.assumed) == (model.pool == 'gap')
    again = npz.export(found.params, model, CLASSES, SIZE, found.preprocess, **export_options(name)).arrays
    assert_equal(again, official_files.vit_file(flat, TINY.depth, FAMILIES[name]))


@pytest.mark.parametrize('name', ['augreg', 'big_vision_scanned'])
def test_bfloat16_as_two_byte_void(name, tmp_path):
  flat = random_flat(TINY, dtype=ml_dtypes.bfloat16)
  file = official_files.vit_file(flat, TINY.depth, FAMILIES[name])
  np.savez(tmp_path / 'a.npz', **{key: array.view('V2') for key, array in file.items()})
  found = read_weights(tmp_path / 'a.npz')
  assert found.model == dataclasses.replace(TINY, param_dtype='bfloat16')
  assert_equal(trees.flatten(found.params), flat)
  out = npz.export(found.params, found.model, CLASSES, SIZE, found.preprocess, **export_options(name)).arrays
  write_npz(tmp_path / 'b.npz', out)
  with np.load(tmp_path / 'b.npz') as after:
    assert {array.dtype for array in after.values()} == {np.dtype('V2')}
    assert_equal(dict(after), {key: array.view('V2') for key, array in file.items()})


def test_mixed_dtypes_become_float32_with_a_note(tmp_path):
  flat = random_flat(TINY)
  file = official_files.vit_file(flat, TINY.depth, FAMILIES['augreg'])
  file['head/kernel'] = file['head/kernel'].astype(np.float64)
  file['cls'] = file['cls'].astype(ml_dtypes.bfloat16)
  write_npz(tmp_path / 'a.npz', file)
  found = read_weights(tmp_path / 'a.npz')
  assert found.model == TINY
  assert found.params['head']['kernel'].dtype == np.float32
  assert found.params['cls'].dtype == ml_dtypes.bfloat16
  assert 'float64 cast to float32' in str(found.report)


@pytest.mark.parametrize('compressed', [False, True])
def test_fortran_order_and_compression(compressed, tmp_path):
  flat = random_flat(TINY)
  file = official_files.vit_file(flat, TINY.depth, FAMILIES['augreg'])
  save = np.savez_compressed if compressed else np.savez
  save(tmp_path / 'a.npz', **{key: np.asfortranarray(array) for key, array in file.items()})
  assert_equal(trees.flatten(read_weights(tmp_path / 'a.npz').params), flat)


SIZES = {  # width, depth, mlp, heads, patch
  'Ti/16': (192, 12, 768, 3, 16),
  'S/32': (384, 12, 1536, 6, 32),
  'B/16': (768, 12, 3072, 12, 16),
  'B/8': (768, 12, 3072, 12, 8),
  'L/16': (1024, 24, 4096, 16, 16),
  'H/14': (1280, 32, 5120, 16, 14),
  'So400m/14': (1152, 27, 4304, 16, 14),
  'g/14': (1408, 40, 6144, 16, 14),
}
HYBRIDS = {  # units, width, depth, mlp, heads
  'R50+B/16': ((3, 4, 9), 768, 12, 3072, 12),
  'R50+L/16': ((3, 4, 9), 1024, 24, 4096, 16),
  'R26+S/32': ((2, 2, 2, 2), 384, 12, 1536, 6),
  'R50+L/32': ((3, 4, 6, 3), 1024, 24, 4096, 16),
}


@pytest.mark.parametrize('variant', SIZES)
@pytest.mark.parametrize('side', [224, 384])
def test_the_size_table_is_recognised(variant, side):
  width, depth, mlp, heads, patch = SIZES[variant]
  if side % patch:
    side = 27 * patch
  tokens = (side // patch) ** 2 + 1
  shapes = official_files.vit_shapes(
    width=width, depth=depth, mlp=mlp, heads=heads, patch=patch, tokens=tokens, classes=1000
  )
  assert npz.recognises(shapes)
  found = npz.load('a.npz', zeros_entries(shapes))
  assert found.model == ModelConfig(variant=variant)
  assert (found.num_classes, found.image_size) == (1000, (side, side))


# Counts of the released files: the sizes of vit_facts.
@pytest.mark.parametrize(
  ('shapes', 'count'),
  [
    ({'tokens': 197, 'classes': 1000}, 86_567_656),
    ({'tokens': 577, 'classes': 1000}, 86_859_496),
    ({'tokens': 197, 'classes': 21_843}, 102_595_923),
    ({'tokens': 197, 'classes': 21_843, 'pre_logits': True}, 103_186_515),
    ({'tokens': 197, 'classes': 21_843, 'pre_logits': True, 'units': (3, 4, 9), 'patch': 1}, 115_277_971),
  ],
)
def test_the_hand_written_names_count_as_the_released_files(shapes, count):
  given = {'width': 768, 'depth': 12, 'mlp': 3072, 'heads': 12, 'patch': 16} | shapes
  found = official_files.vit_shapes(**given)
  assert sum(math.prod(shape) for shape in found.values()) == count
  expected = ModelConfig(
    variant='R50+B/16' if 'units' in shapes else 'B/16',
    representation_size=768 if 'pre_logits' in shapes else None,
  )
  assert npz.load('a.npz', zeros_entries(found)).model == expected


@pytest.mark.parametrize('variant', HYBRIDS)
def test_hybrids_are_recognised_and_group_norms_squeezed(variant):
  units, width, depth, mlp, heads = HYBRIDS[variant]
  down = int(variant.split('/')[1])
  shapes = official_files.vit_shapes(
    width=width,
    depth=depth,
    mlp=mlp,
    heads=heads,
    patch=1,
    tokens=(384 // down) ** 2 + 1,
    classes=1000,
    units=units,
  )
  found = npz.load('a.npz', zeros_entries(shapes))
  assert found.model == ModelConfig(variant=variant)
  assert found.image_size == (384, 384)
  assert found.params['gn_root']['scale'].shape == (64,)
  assert found.params['block1']['unit1']['gn_proj']['bias'].shape == (256,)
  row = next(row for row in found.report.rows if row.key == 'gn_root/scale')
  assert row.note == '[1, 1, 1, 64] squeezed'


@pytest.mark.parametrize('name', ['augreg', 'linen', 'big_vision'])
def test_a_hybrid_goes_back_bit_equal(name, tmp_path):
  model = ModelConfig(variant='R26+Ti/32', width=8, depth=1, mlp_dim=8, num_heads=2)
  flat = random_flat(model, size=(64, 64))
  file = write_family(tmp_path / 'a.npz', flat, FAMILIES[name], depth=1)
  found = read_weights(file)
  assert found.model == model
  assert_equal(trees.flatten(found.params), flat)
  options = export_options(name)
  out = npz.export(found.params, model, CLASSES, (64, 64), found.preprocess, **options).arrays
  with np.load(file) as before:
    assert_equal(out, dict(before))


def test_sizes_off_the_table_become_overrides():
  shapes = official_files.vit_shapes(width=384, depth=5, mlp=1000, heads=12, patch=8, tokens=26, classes=3)
  found = npz.load('a.npz', zeros_entries(shapes))
  assert found.model == ModelConfig(variant='S/8', depth=5, mlp_dim=1000, num_heads=12)
  assert found.image_size == (40, 40)


@pytest.mark.parametrize('name', ['augreg', 'big_vision'])
def test_a_rectangular_grid_is_asked_for_by_name(name, tmp_path):
  flat = random_flat(TINY, size=(8, 24))  # 2 x 6 patches
  file = write_family(tmp_path / 'a.npz', flat, FAMILIES[name])
  with pytest.raises(CheckpointError, match=r'1[23] positions.*Give grid=\(rows, columns\)'):
    read_weights(file)
  with pytest.raises(CheckpointError, match=r'25 for grid=\(5, 5\)'):
    read_weights(file, grid=(5, 5))
  found = read_weights(file, grid=(2, 6))
  assert found.image_size == (8, 24)
  assert_equal(trees.flatten(found.params), flat)
  lost = npz.export(found.params, found.model, CLASSES, (8, 24), found.preprocess).lost
  assert len(lost) == 1
  assert '8x24' in lost[0]


def test_a_row_count_that_looks_square_is_no_square_with_a_class_row(tmp_path):
  flat = random_flat(TINY, size=(12, 20))  # 3 x 5 patches and the class token's row: 16
  file = write_family(tmp_path / 'a.npz', flat, FAMILIES['augreg'])
  with pytest.raises(CheckpointError, match=r'16 positions.*Give grid='):
    read_weights(file)
  found = read_weights(file, grid=(3, 5))
  assert_equal(trees.flatten(found.params), flat)
  assert not any('grid' in sentence for sentence in found.assumed)


@pytest.mark.parametrize('position', ['sincos_2d', 'none'])
def test_a_file_without_positions_asks_what_stands_in_their_place(position, tmp_path):
  model = dataclasses.replace(TINY, position=position, pool='gap')
  flat = random_flat(model)
  file = write_family(tmp_path / 'a.npz', flat, FAMILIES['big_vision'])
  with pytest.raises(CheckpointError, match=r"(?s)position='sincos_2d'.*grid=\(rows, columns\)"):
    read_weights(file)
  found = read_weights(file, grid=(4, 4), position=position)
  assert found.model == model
  out = npz.export(found.params, model, CLASSES, SIZE, found.preprocess, layout='big_vision').arrays
  assert_equal(out, official_files.vit_file(flat, TINY.depth, FAMILIES['big_vision']))


def test_position_must_not_contradict_the_file(tmp_path):
  file = write_family(tmp_path / 'a.npz', random_flat(TINY), FAMILIES['augreg'])
  with pytest.raises(CheckpointError, match='pos_embedding is in the file'):
    read_weights(file, position='sincos_2d')


def test_no_head(tmp_path):
  flat = random_flat(TINY, num_classes=0)
  found = read_weights(write_family(tmp_path / 'a.npz', flat, FAMILIES['big_vision']))
  assert found.num_classes == 0
  assert_equal(trees.flatten(found.params), flat)


def test_what_lies_outside_of_the_prefix_is_reported_as_unused(tmp_path):
  file = official_files.vit_file(random_flat(TINY), TINY.depth, FAMILIES['big_vision_img'])
  file |= {'params/txt/Embed_0/embedding': np.ones((4, 4), np.float32), 'params/t': np.ones(1, np.float32)}
  np.savez(tmp_path / 'a.npz', **file)
  found = read_weights(tmp_path / 'a.npz')
  assert found.report.keys('unused') == ('params/txt/Embed_0/embedding', 'params/t')
  assert found.report.summary() == f'{len(file) - 2} loaded, 2 unused'
  assert 'outside of params/img/' in str(found.report)


def test_inlined_attention_pooling(tmp_path):
  model = dataclasses.replace(TINY, pool='map')
  flat = random_flat(model)
  file = official_files.vit_file(flat, TINY.depth, FAMILIES['big_vision'])
  file = {key.replace('MAPHead_0/', ''): array for key, array in file.items()}
  np.savez(tmp_path / 'a.npz', **file)
  found = read_weights(tmp_path / 'a.npz')
  assert found.model == model
  assert_equal(trees.flatten(found.params), flat)


def test_a_missing_class_token_is_named(tmp_path):
  file = official_files.vit_file(random_flat(TINY), TINY.depth, FAMILIES['augreg'])
  del file['cls']
  np.savez(tmp_path / 'a.npz', **file)
  with pytest.raises(CheckpointError, match='17 positions.*cls is missing'):
    read_weights(tmp_path / 'a.npz')


@pytest.mark.parametrize('name', ['augreg', 'big_vision_scanned'])
def test_loading_takes_little_more_memory_than_the_file(name, tmp_path):
  model = ModelConfig(variant='Ti/4', width=256, depth=4, mlp_dim=1024, num_heads=4)
  file = write_family(tmp_path / 'a.npz', random_flat(model), FAMILIES[name], depth=4)
  expected_shapes(model, num_classes=CLASSES, image_size=SIZE)  # what jax keeps of a first trace is no array
  tracemalloc.start()
  try:
    found = read_weights(file)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert found.model == model
  assert file.stat().st_size > 12 * 2**20
  assert peak < 1.4 * file.stat().st_size


def test_all_that_does_not_fit_is_listed(tmp_path):
  file = official_files.vit_file(random_flat(TINY), TINY.depth, FAMILIES['augreg'])
  del file['Transformer/encoderblock_1/MlpBlock_3/Dense_0/bias'], file['Transformer/encoder_norm/scale']
  file['head/bias'] = np.zeros(CLASSES + 1, np.float32)
  file['surprise'] = np.zeros(3, np.float32)
  np.savez(tmp_path / 'a.npz', **file)
  with pytest.raises(CheckpointError) as caught:
    read_weights(tmp_path / 'a.npz')
  places = {problem.where for problem in caught.value.problems}
  assert places == {
    'Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias',
    'Transformer/encoder_norm/scale',
    'head/bias',
    'surprise',
  }


def test_two_spellings_of_one_array(tmp_path):
  file = official_files.vit_file(random_flat(TINY), TINY.depth, FAMILIES['augreg'])
  file['Transformer/encoderblock_0/LayerNorm_1/bias'] = file['Transformer/encoderblock_0/LayerNorm_2/bias']
  np.savez(tmp_path / 'a.npz', **file)
  with pytest.raises(CheckpointError, match='LayerNorm_2/bias and .*LayerNorm_1/bias'):
    read_weights(tmp_path / 'a.npz')


@pytest.mark.parametrize('alias', npz.ALIASES, ids=lambda alias: alias.pattern)
def test_no_alias_touches_the_names_of_the_tree(alias):
  """Linen's own names pass the alias table unchanged, so that a modern file cannot be renamed by accident."""
  for pool in ('token', 'map'):
    model = dataclasses.replace(TINY, pool=pool, qk_norm=True, representation_size=5)
    for path in expected_shapes(model, num_classes=3, image_size=SIZE):
      assert re.sub(alias.pattern, alias.name, path) == path
