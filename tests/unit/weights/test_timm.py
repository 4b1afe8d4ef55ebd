"""timm's format without timm: round trips, config.json, refusals. For logits see tests/parity/test_timm.py."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from torch_likes import NAMES, PREPROCESS, SIZE, assert_same_params, random_params, reread, tiny, written

from vitjax import trees
from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError
from vitjax.models import build_model
from vitjax.weights import read_weights, timm, timm_config, timm_names
from vitjax.weights.entries import Entry
from vitjax.weights.files import write_safetensors

MODELS = {
  'token': (tiny(), 3, SIZE),
  'no head': (tiny(), 0, SIZE),
  'tanh': (tiny(gelu='tanh'), 3, SIZE),
  'layer scale, registers': (tiny(layer_scale_init=1e-5, num_registers=4), 3, SIZE),
  'mean': (tiny(pool='gap'), 3, SIZE),
  'mean, norm after it': (tiny(pool='gap', final_norm='pooled', num_registers=1), 3, SIZE),
  'attention pooling': (tiny(pool='map', variant='Ti/8'), 3, (32, 32)),
  'rectangular': (tiny(), 3, (48, 32)),
  'bfloat16': (tiny(param_dtype='bfloat16'), 3, SIZE),
  'hybrid': (tiny(variant='R26+Ti/32'), 3, (64, 64)),
  'a row of the table': (ModelConfig(variant='S/32', depth=1, gelu='exact'), 2, (64, 64)),
}


def exported(model, num_classes=3, size=SIZE, preprocess=PREPROCESS, names=None, seed=0):
  params = random_params(model, num_classes, size, seed)
  return params, timm.export(params, model, num_classes, size, preprocess, names)


@pytest.mark.parametrize('name', MODELS)
def test_round_trip(name, tmp_path):
  model, num_classes, size = MODELS[name]
  short = 70 if size[0] == size[1] else None
  preprocess = Preprocess(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 'bilinear_antialias', short)
  names = NAMES if num_classes == 3 else None
  params, export = exported(model, num_classes, size, preprocess, names)
  imported = reread(tmp_path, export)
  assert imported.format == 'timm'
  assert_same_params(imported.params, params)
  assert imported.model == model
  assert (imported.num_classes, imported.image_size) == (num_classes, size)
  assert imported.preprocess == preprocess
  assert imported.class_names == names
  assert imported.assumed == export.lost == ()
  assert set(imported.report.keys('loaded')) == set(export.arrays)
  again = timm.export(imported.params, imported.model, num_classes, size, imported.preprocess, names)
  assert again.config == export.config
  for key, array in export.arrays.items():
    assert again.arrays[key].tobytes() == array.tobytes(), key


def test_a_class_row_of_zeros_is_left_out(tmp_path):
  params = random_params(tiny(num_registers=2))
  params['Transformer']['posembed_input']['pos_embedding'][:, 0] = 0
  export = timm.export(params, tiny(num_registers=2), 3, SIZE, PREPROCESS)
  assert export.arrays['pos_embed'].shape == (1, 9, 24)
  assert export.config['model_args']['no_embed_class'] is True
  assert_same_params(reread(tmp_path, export).params, params)


def test_a_class_row_beside_registers_keeps_rows_for_them():
  _, export = exported(tiny(num_registers=2))
  assert export.arrays['pos_embed'].shape == (1, 12, 24)
  assert export.config['model_args']['no_embed_class'] is False
  assert not export.arrays['pos_embed'][:, 1:3].any()


def test_positions_of_registers_are_added_to_them(tmp_path):
  params, export = exported(tiny(num_registers=2))
  rows = np.random.default_rng(5).normal(size=(1, 2, 24)).astype(np.float32)
  export.arrays['pos_embed'][:, 1:3] = rows
  imported = reread(tmp_path, export)
  np.testing.assert_array_equal(imported.params['registers'], params['registers'] + rows)
  table = imported.params['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(table, params['Transformer']['posembed_input']['pos_embedding'])


def test_a_class_token_that_is_not_pooled_becomes_a_register(tmp_path):
  params, export = exported(tiny())
  args = export.config['model_args'] | {'global_pool': 'avg'}
  imported = reread(tmp_path, export, model_args=args, global_pool='avg')
  assert (imported.model.pool, imported.model.num_registers) == ('gap', 1)
  table = params['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(imported.params['registers'], params['cls'] + table[:, :1])
  np.testing.assert_array_equal(
    imported.params['Transformer']['posembed_input']['pos_embedding'], table[:, 1:]
  )
  row = next(row for row in imported.report.rows if row.key == 'cls_token')
  assert (row.path, row.action) == ('registers', 'loaded')


def test_fixed_positions_become_a_table_with_the_same_logits(tmp_path):
  images = np.random.default_rng(0).standard_normal((2, *SIZE, 3), dtype=np.float32)
  for model in (tiny(position='sincos_2d'), tiny(position='learned_2d'), tiny(position='none', pool='gap')):
    params, export = exported(model)
    assert len(export.lost) == 1
    assert model.position in export.lost[0]
    imported = reread(tmp_path, export)
    before, after = (
      build_model(m, num_classes=3).apply({'params': p}, images)
      for m, p in ((model, params), (imported.model, imported.params))
    )
    np.testing.assert_allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(
  ('edits', 'knobs'),
  [
    ({'norm_eps': 1e-12}, ['model.norm_eps']),
    ({'representation_size': 8, 'norm_eps': 1e-5}, ['model.norm_eps', 'model.representation_size']),
    ({'qk_norm': True, 'parallel_blocks': True}, ['model.qk_norm', 'model.parallel_blocks']),
    ({'position': 'relative'}, ['model.position']),
    ({'position_at': 'every_layer'}, ['model.position_at']),
    ({'variant': '22B/16', 'qk_norm': False, 'parallel_blocks': False}, ['model.variant']),
  ],
)
def test_what_timm_cannot_express_is_named(edits, knobs):
  model = tiny(**edits)
  with pytest.raises(CheckpointError, match='timm') as caught:
    timm.export(random_params(model), model, 3, SIZE, PREPROCESS)
  assert [problem.where for problem in caught.value.problems] == knobs


def test_resnets_and_foreign_parameters_are_refused():
  model = ModelConfig(variant='R-tiny')
  with pytest.raises(CheckpointError, match='variant'):
    timm.export(random_params(model), model, 3, SIZE, PREPROCESS)
  with pytest.raises(CheckpointError, match='pre_logits'):
    timm.export(random_params(tiny(representation_size=4)), tiny(), 3, SIZE, PREPROCESS)


def load_edited(path, export, edit, **config):
  """Returns the import of an export whose arrays and config.json were edited."""
  edit(export.arrays)
  return reread(path, export, **config)


def moved(old, new):
  def edit(arrays):
    arrays[new] = arrays.pop(old)

  return edit


def added(key, shape=(24,)):
  def edit(arrays):
    arrays[key] = np.zeros(shape, np.float32)

  return edit


@pytest.mark.parametrize(
  ('edit', 'words'),
  [
    (added('norm_pre.weight'), 'pre_norm=True'),
    (added('blocks.1.attn.q_norm.weight'), 'qk_norm=True'),
    (added('attn_pool.k_norm.weight'), 'qk_norm=True'),
    (added('head_dist.weight'), 'distilled'),
    (added('dist_token'), 'distilled'),
    (added('blocks.0.mlp.fc1_g.weight'), 'SwiGLU'),
    (added('blocks.0.mlp.fc1.weight', (96, 24)), 'SwiGLU'),
    (added('blocks.0.attns.0.norm.weight'), 'parallel blocks'),
    (added('blocks.0.attn.norm.weight'), 'scale_attn_norm'),
    (added('blocks.0.gamma_1'), 'EVA'),
    (added('blocks.0.attn.lambda_q1'), 'differential attention'),
    (added('rope.freqs'), 'rotary'),
    (added('blocks.0.attn.rel_pos.relative_position_bias_table'), 'relative'),
    (added('patch_embed.backbone.conv1.weight'), 'another stem'),
    (lambda arrays: arrays.pop('blocks.0.attn.qkv.bias'), 'qkv_bias=False'),
    (lambda arrays: arrays.pop('blocks.0.norm1.bias'), 'RMSNorm'),
    (lambda arrays: arrays.pop('norm.weight'), 'final_norm=False'),
    (lambda arrays: arrays.pop('pos_embed'), "pos_embed='none'"),
  ],
)
def test_features_that_vitjax_does_not_have_are_named(edit, words, tmp_path):
  _, export = exported(tiny())
  with pytest.raises(CheckpointError) as caught:
    load_edited(tmp_path, export, edit)
  (problem,) = caught.value.problems
  assert words in problem.found


@pytest.mark.parametrize(
  ('args', 'where'),
  [
    ({'qk_norm': True, 'mlp_layer': 'swiglu'}, ['model_args.qk_norm', 'model_args.mlp_layer']),
    ({'act_layer': 'quick_gelu'}, ['model_args.act_layer']),
    ({'global_pool': 'avgmax'}, ['model_args.global_pool']),
    ({'norm_layer': 'rmsnorm'}, ['model_args.norm_layer']),
    ({'use_naflex': True}, ['model_args.use_naflex']),
    ({'in_chans': 1}, ['model_args.in_chans']),
    ({'embed_dim': 48, 'depth': 3}, ['model_args.embed_dim', 'model_args.depth']),
    ({'num_heads': 5}, ['model_args.num_heads']),
    ({'global_pool': 'map'}, ['global_pool']),
  ],
)
def test_arguments_that_do_not_fit_are_named(args, where, tmp_path):
  _, export = exported(tiny())
  with pytest.raises(CheckpointError) as caught:
    reread(tmp_path, export, model_args=export.config['model_args'] | args)
  assert [problem.where for problem in caught.value.problems] == where


@pytest.mark.parametrize(
  'name', ['vit_small_patch16_rope_224', 'resnet50', 'vit_base_patch16_dinov3', None, 3]
)
def test_unknown_architectures_are_refused(name, tmp_path):
  _, export = exported(tiny())
  with pytest.raises(CheckpointError, match='architecture'):
    reread(tmp_path, export, architecture=name)


def test_all_arrays_that_do_not_fit_are_listed(tmp_path):
  _, export = exported(tiny())
  del export.arrays['blocks.1.norm1.weight']
  export.arrays['blocks.0.attn.proj.weight'] = np.zeros((24, 25), np.float32)
  export.arrays['what.is.this'] = np.zeros(3, np.float32)
  with pytest.raises(CheckpointError) as caught:
    reread(tmp_path, export)
  problems = {problem.where: str(problem) for problem in caught.value.problems}
  assert set(problems) == {'blocks.1.norm1.weight', 'blocks.0.attn.proj.weight', 'what.is.this'}
  assert '[24, 24]' in problems['blocks.0.attn.proj.weight']


def test_patches_and_channels_are_checked(tmp_path):
  for shape, words in (((24, 1, 16, 16), '1 input channels'), ((24, 3, 16, 8), 'patches of 16x8')):
    _, export = exported(tiny())
    with pytest.raises(CheckpointError, match=words):
      load_edited(tmp_path, export, added('patch_embed.proj.weight', shape))


def test_a_grid_that_is_not_square_is_asked_for_by_name(tmp_path):
  params, export = exported(tiny(num_heads=1), size=(48, 32))
  file = tmp_path / 'bare.safetensors'
  write_safetensors(file, export.arrays)
  with pytest.raises(CheckpointError, match=r'grid=\(rows, columns\)'):
    read_weights(file)
  with pytest.raises(CheckpointError, match='positions'):
    read_weights(file, grid=(2, 4))
  for grid in ((3, 2), (2, 3)):
    imported = read_weights(file, grid=grid)
    assert imported.image_size == (16 * grid[0], 16 * grid[1])
    assert_same_params(imported.params, params)


def test_a_bare_file_says_what_it_assumes(tmp_path):
  params, export = exported(tiny(num_heads=2, width=128))
  file = tmp_path / 'bare.safetensors'
  write_safetensors(file, export.arrays)
  imported = read_weights(file)
  assert_same_params(imported.params, params)
  assert imported.model == tiny(num_heads=2, width=128)
  assert [text.partition(':')[0] for text in imported.assumed] == ['num_heads', 'gelu', 'preprocess']
  assert imported.preprocess == Preprocess(SIZE, interpolation='bicubic_antialias', resize_short=53)


def test_architectures_name_heads_and_gelu():
  heads = {
    'vit_base_patch16_224': 12, 'vit_base_patch16_gap_224': 16, 'vit_so400m_patch14_siglip_384': 16,
    'vit_giant_patch14_224': 16, 'deit3_huge_patch14_224': 16, 'vit_tiny_patch16_224': 12,
  }  # fmt: skip
  for name, number in heads.items():
    assert timm_names.default_heads(name, 768, 12, 3072) == (number, ''), name
  gelus = {
    'vit_base_patch16_siglip_224': 'exact', 'vit_base_patch32_siglip_256': 'tanh', 'deit_tiny_patch16_224': 'exact',
    'vit_so400m_patch16_siglip_gap_512': 'tanh', 'vit_large_patch16_siglip_512': 'tanh',
    'vit_large_patch16_siglip_384': 'exact',
  }  # fmt: skip
  for name, gelu in gelus.items():
    assert timm_names.default_gelu(name, has_attention_pooling=True) == (gelu, ''), name


PREPARATIONS = [
  ({'crop_pct': 0.9, 'interpolation': 'bicubic'}, (224, 224), 'bicubic_antialias', 248),
  ({'crop_pct': 1.0, 'interpolation': 'bilinear'}, (384, 384), 'bilinear_antialias', 384),
  ({}, (224, 224), 'bicubic_antialias', 256),
  ({'crop_pct': 1.0, 'crop_mode': 'squash'}, (256, 256), 'bicubic_antialias', None),
  ({'crop_pct': 0.95, 'interpolation': 'nearest'}, (240, 240), 'nearest', 252),
]


@pytest.mark.parametrize(('cfg', 'size', 'interpolation', 'short'), PREPARATIONS)
def test_pretrained_cfg_becomes_a_preparation(cfg, size, interpolation, short):
  preprocess, assumed, problems = timm_config.read_preprocess(cfg, size, imagenet=False)
  assert preprocess == Preprocess(size, *timm_preset(), interpolation, short)
  assert (assumed, problems) == ([], [])


def timm_preset():
  return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
  ('cfg', 'size', 'words'),
  [
    ({'crop_pct': 0.95, 'crop_mode': 'squash'}, (240, 240), 'squash'),
    ({'crop_pct': 1.0, 'crop_mode': 'border'}, (240, 240), 'border'),
    ({'crop_pct': 0.9}, (240, 224), '240x224'),
    ({'interpolation': 'lanczos'}, (240, 240), 'lanczos'),
  ],
)
def test_what_is_not_exact_is_said(cfg, size, words):
  _, assumed, problems = timm_config.read_preprocess(cfg, size, imagenet=False)
  assert problems == []
  assert len(assumed) == 1
  assert words in assumed[0]


def test_nonsense_in_pretrained_cfg_is_refused(tmp_path):
  _, export = exported(tiny())
  cfg = {'mean': [1, 2], 'std': [0, 1, 1], 'crop_pct': 7}
  with pytest.raises(CheckpointError) as caught:
    reread(tmp_path, export, pretrained_cfg=cfg)
  wheres = {problem.where for problem in caught.value.problems}
  assert wheres == {'pretrained_cfg.mean', 'pretrained_cfg.std', 'pretrained_cfg.crop_pct'}
  with pytest.raises(CheckpointError, match='model_args'):
    reread(tmp_path, export, model_args=[1])


@pytest.mark.parametrize('short', [*range(224, 300), 1000, 4001])
def test_crop_shares_survive_rounding(short):
  preprocess = Preprocess((224, 224), *timm_preset(), 'bicubic_antialias', short)
  cfg, lost = timm_config._write_preprocess(preprocess)
  assert timm_config.read_preprocess(json.loads(json.dumps(cfg)), (224, 224), imagenet=False)[0] == preprocess
  assert short != 248 or cfg['crop_pct'] == 0.9
  assert lost == ()


def test_what_timm_does_otherwise_is_said():
  for interpolation in ('bilinear', 'bicubic', 'area'):
    _, export = exported(tiny(), preprocess=Preprocess(SIZE, interpolation=interpolation))
    assert len(export.lost) == 1
    assert interpolation in export.lost[0]


@pytest.mark.parametrize(
  ('width', 'mlp_dim'), [(1152, 4304), (1408, 6144), (24, 48), (1792, 15360), (49, 101)]
)
def test_mlp_ratios_survive_rounding(width, mlp_dim):
  assert int(width * json.loads(json.dumps(timm_config._mlp_ratio(width, mlp_dim)))) == mlp_dim


@pytest.mark.parametrize(
  ('labels', 'names', 'remarks'),
  [
    (['a', 'b', 'c'], ('a', 'b', 'c'), 0),
    ({'0': 'a', '2': 'c', '1': 'b'}, ('a', 'b', 'c'), 0),
    (['a', 'b'], None, 1),
    ({'0': 'a'}, None, 1),
    ([1, 2, 3], None, 1),
    ('abc', None, 1),
    (None, None, 0),
  ],
)
def test_labels(labels, names, remarks, tmp_path):
  _, export = exported(tiny())
  imported = reread(tmp_path, export, label_names=labels)
  assert imported.class_names == names
  assert len(imported.assumed) == remarks


def test_a_size_that_config_json_gets_wrong_is_said(tmp_path):
  _, export = exported(tiny())
  args = export.config['model_args'] | {'img_size': 224}
  imported = reread(tmp_path, export, model_args=args)
  assert imported.image_size == SIZE
  assert '(224, 224)' in imported.assumed[0]


def test_the_oldest_config_json_is_all_pretrained_cfg(tmp_path):
  params, export = exported(tiny(num_heads=1, width=64))
  export.config.clear()
  export.config.update(
    {'architecture': 'vit_tiny_patch16_224', 'crop_pct': 1.0, 'mean': [0.5] * 3, 'std': [0.5] * 3}
  )
  imported = reread(tmp_path, export)
  assert_same_params(imported.params, params)
  assert imported.preprocess == Preprocess(SIZE, interpolation='bicubic_antialias', resize_short=48)


def test_recognises():
  _, export = exported(tiny())
  shapes = {key: array.shape for key, array in export.arrays.items()}
  assert timm.recognises(shapes, None)
  assert timm.recognises(shapes, export.config)
  assert timm.recognises({}, {'architecture': 'resnet50'})
  assert not timm.recognises({'embedding/kernel': (1,)}, None)
  assert not timm.recognises({}, {'architecture': 'x', 'model_type': 'timm_wrapper'})


def test_full_sizes_have_the_names_of_the_table():
  for variant, architecture in (('B/16', 'vit_base_patch16_224'), ('L/32', 'vit_large_patch32_224')):
    model = ModelConfig(variant=variant, gelu='exact')
    shapes = _shapes_of_timm(model, (224, 224))
    entries = {key: _zeros(shape) for key, shape in shapes.items()}
    imported = timm.load('f', entries, {'architecture': architecture, 'pretrained_cfg': {}})
    assert imported.model == model
    assert imported.num_classes == 1000


def _zeros(shape):
  return Entry(shape, np.dtype(np.float32), lambda: np.broadcast_to(np.float32(0), shape))


def _shapes_of_timm(model, size):
  module = build_model(dataclasses.replace(model, depth=None), num_classes=1000)
  tree = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), np.float32))
  shapes = {path: leaf.shape for path, leaf in trees.flatten(tree['params']).items()}
  links = timm_names.links_of(shapes, has_class_row=True, stem_units=())
  return {link.key: link.form.stored(*(shapes[path] for path in link.paths)) for link in links}


def test_nothing_but_json_numbers_is_written(tmp_path):
  _, export = exported(tiny(layer_scale_init=1e-5), names=NAMES)
  text = (written(tmp_path, export) / 'config.json').read_text()
  assert json.loads(text) == export.config
