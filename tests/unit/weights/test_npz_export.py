"""Writing official .npz files: the same function comes out, and what a layout has no place for is refused."""

from __future__ import annotations

import dataclasses
import zipfile

import jax
import numpy as np
import pytest
from tiny_vit import CLASSES, SIZE, TINY, assert_equal, random_flat

from vitjax import trees
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError
from vitjax.models import build_model, stack_blocks
from vitjax.weights import npz, read_weights
from vitjax.weights.files import write_npz


def test_logits_survive_the_way_out_and_in(tmp_path):
  """From a scanned model with a class row that is not zero, through big_vision's folded form, to loop form."""
  model = dataclasses.replace(TINY, depth=2)
  flat = random_flat(model)
  flat[npz.POSITIONS] += np.float32(0.5)
  params = stack_blocks(trees.unflatten(flat))
  arrays = npz.export(params, model, CLASSES, SIZE, Preprocess(SIZE), layout='big_vision').arrays
  write_npz(tmp_path / 'a.npz', arrays)
  found = read_weights(tmp_path / 'a.npz')
  assert not np.array_equal(found.params['cls'], flat['cls'])
  images = np.random.default_rng(1).normal(size=(2, *SIZE, 3)).astype(np.float32)
  apply = jax.jit(lambda p: build_model(model, num_classes=CLASSES).apply({'params': p}, images))
  before, after = apply(trees.unflatten(flat)), apply(found.params)
  np.testing.assert_allclose(after, before, atol=1e-5, rtol=1e-5)
  assert np.ptp(before) > 0.1


def test_the_class_row_is_folded_into_cls_for_big_vision():
  flat = random_flat(TINY)
  flat[npz.POSITIONS][:, 0] = 0.25
  out = npz.export(trees.unflatten(flat), TINY, CLASSES, SIZE, Preprocess(SIZE), layout='big_vision').arrays
  np.testing.assert_array_equal(out['params/cls'], flat['cls'] + np.float32(0.25))
  np.testing.assert_array_equal(out['params/pos_embedding'], flat[npz.POSITIONS][:, 1:])


@pytest.mark.parametrize(
  ('knobs', 'layout', 'where'),
  [
    ({'position': 'relative'}, 'big_vision', 'model.position'),
    ({'position': 'learned_2d'}, 'official', 'model.position'),
    ({'position': 'sincos_2d'}, 'official', 'model.position'),
    ({'position': 'none'}, 'linen', 'model.position'),
    ({'position_at': 'every_layer'}, 'official', 'model.position_at'),
    ({'position_at': 'every_layer_shared'}, 'big_vision', 'model.position_at'),
    ({'num_registers': 2}, 'official', 'model.num_registers'),
    ({'layer_scale_init': 0.1}, 'big_vision', 'model.layer_scale_init'),
    ({'parallel_blocks': True}, 'linen', 'model.parallel_blocks'),
    ({'qk_norm': True}, 'official', 'model.qk_norm'),
    ({'gelu': 'exact'}, 'official', 'model.gelu'),
    ({'norm_eps': 1e-12}, 'big_vision', 'model.norm_eps'),
    ({'final_norm': 'pooled', 'pool': 'gap'}, 'official', 'model.final_norm'),
    ({'pool': 'map'}, 'official', 'model.pool'),
  ],
)
def test_what_a_layout_cannot_express_names_the_knob(knobs, layout, where):
  model = dataclasses.replace(TINY, **knobs)
  params = trees.unflatten(random_flat(model))
  with pytest.raises(CheckpointError) as caught:
    npz.export(params, model, CLASSES, SIZE, Preprocess(SIZE), layout=layout)
  assert [problem.where for problem in caught.value.problems] == [where]


def test_export_lists_all_problems_at_once():
  model = dataclasses.replace(TINY, gelu='exact', num_registers=1)
  preprocess = Preprocess((32, 32), mean=(0.4, 0.5, 0.5), std=(0.2, 0.2, 0.2))
  flat = random_flat(model)
  del flat['registers']
  with pytest.raises(CheckpointError) as caught:
    npz.export(trees.unflatten(flat), model, CLASSES, SIZE, preprocess, scanned=True)
  assert {problem.where for problem in caught.value.problems} == {
    'registers', 'model.gelu', 'model.num_registers', 'scanned', 'preprocess.mean', 'preprocess.std',
    'preprocess.image_size',
  }  # fmt: skip


@pytest.mark.parametrize(
  ('model', 'layout', 'where'),
  [
    (TINY, 'flax', 'layout'),
    (dataclasses.replace(TINY, variant='22B/4'), 'linen', 'model.parallel_blocks'),
  ],
)
def test_export_of_unknown_layouts_and_forms(model, layout, where):
  params = trees.unflatten(random_flat(model))
  with pytest.raises(CheckpointError, match=where):
    npz.export(params, model, CLASSES, SIZE, Preprocess(SIZE), layout=layout)


def test_what_an_export_loses_is_said():
  preprocess = Preprocess(SIZE, interpolation='bicubic', resize_short=18)
  out = npz.export(trees.unflatten(random_flat(TINY)), TINY, CLASSES, SIZE, preprocess, ['a'] * CLASSES)
  assert len(out.lost) == 2
  assert '7 classes' in out.lost[0]
  assert 'bicubic' in out.lost[1]
  assert out.config is None


def test_written_files_are_plain_and_the_same_each_time(tmp_path):
  arrays = {'a/b': np.arange(6, dtype=np.float32).reshape(2, 3).T, 'c': np.float32(3)}
  for name in ('x.npz', 'y.npz'):
    write_npz(tmp_path / name, arrays)
  assert (tmp_path / 'x.npz').read_bytes() == (tmp_path / 'y.npz').read_bytes()
  with np.load(tmp_path / 'x.npz', allow_pickle=False) as loaded:
    assert_equal(dict(loaded), {name: np.asarray(array) for name, array in arrays.items()})
  assert zipfile.ZipFile(tmp_path / 'x.npz').testzip() is None
  assert [place.name for place in tmp_path.iterdir() if place.suffix != '.npz'] == []
