"""transformers' format without transformers: round trips, config.json, refusals. For logits see tests/parity."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch_likes import (
  IMAGENET,
  NAMES,
  PREPROCESS,
  SIZE,
  assert_same_params,
  random_params,
  reread,
  tiny,
  written,
)

from vitjax.config.schema import ModelConfig
from vitjax.data.preprocess import Preprocess
from vitjax.errors import CheckpointError
from vitjax.weights import hf_config, huggingface, read_weights
from vitjax.weights.files import write_safetensors

SCALE = {'layer_scale_init': 0.5}
MODELS = {
  'ViTForImageClassification': (tiny(norm_eps=1e-12), 3, SIZE, 'vit', 'vit.embeddings.cls_token'),
  'ViTModel': (tiny(gelu='tanh', representation_size=10), 0, SIZE, 'vit', 'pooler.dense.weight'),
  'DeiTForImageClassification': (tiny(num_registers=1), 3, (48, 32), 'deit', 'deit.embeddings.distillation_token'),
  'Dinov2ForImageClassification': (tiny(**SCALE), 3, SIZE, 'dinov2', 'dinov2.layernorm.weight'),
  'Dinov2Model': (tiny(**SCALE), 0, (48, 32), 'dinov2', 'encoder.layer.1.layer_scale2.lambda1'),
  'Dinov2WithRegistersModel': (
    tiny(num_registers=4, **SCALE), 0, SIZE, 'dinov2_with_registers', 'embeddings.register_tokens',
  ),
  'SiglipVisionModel': (tiny(pool='map', gelu='tanh'), 0, SIZE, 'siglip_vision_model', 'head.probe'),
  'SiglipForImageClassification': (tiny(pool='gap'), 3, SIZE, 'siglip', 'vision_model.post_layernorm.bias'),
}  # fmt: skip


def exported(model, num_classes=3, size=SIZE, preprocess=PREPROCESS, names=None):
  params = random_params(model, num_classes, size)
  return params, huggingface.export(params, model, num_classes, size, preprocess, names)


@pytest.mark.parametrize('class_name', MODELS)
def test_round_trip(class_name, tmp_path):
  model, num_classes, size, model_type, key = MODELS[class_name]
  preprocess = Preprocess(size, *IMAGENET, 'bicubic_antialias', 60)
  names = NAMES if num_classes else None
  params, export = exported(model, num_classes, size, preprocess, names)
  assert export.config['architectures'] == [class_name]
  assert export.config['model_type'] == model_type
  assert key in export.arrays
  imported = reread(tmp_path, export)
  assert imported.format == 'huggingface'
  assert_same_params(imported.params, params)
  assert imported.model == model
  assert (imported.num_classes, imported.image_size) == (num_classes, size)
  assert imported.preprocess == preprocess
  assert imported.class_names == names
  assert imported.assumed == export.lost == ()
  again = huggingface.export(imported.params, imported.model, num_classes, size, imported.preprocess, names)
  assert (again.config, again.preprocessor) == (export.config, export.preprocessor)
  assert {key: array.tobytes() for key, array in again.arrays.items()} == {
    key: array.tobytes() for key, array in export.arrays.items()
  }


def test_bfloat16_stays(tmp_path):
  params, export = exported(tiny(param_dtype='bfloat16'))
  assert export.config['dtype'] == 'bfloat16'
  imported = reread(tmp_path, export)
  assert imported.model.param_dtype == 'bfloat16'
  assert_same_params(imported.params, params)


def test_a_prefix_is_found_and_text_is_left_out(tmp_path):
  model = tiny(pool='map', gelu='tanh')
  params, export = exported(model, 0)
  arrays = {f'vision_model.{key}': array for key, array in export.arrays.items()}
  arrays |= {'text_model.head.weight': np.zeros((2, 2), np.float32), 'logit_scale': np.zeros(1, np.float32)}
  arrays |= {'vision_model.embeddings.position_ids': np.zeros((1, 9), np.int64)}
  write_safetensors(tmp_path / 'model.safetensors', arrays)
  section = {key: value for key, value in export.config.items() if key != 'architectures'}
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'siglip', 'vision_config': section}))
  imported = read_weights(tmp_path)
  assert imported.model == model
  assert_same_params(imported.params, params)
  unused = {row.key: row.note for row in imported.report.rows if row.action == 'unused'}
  assert unused == {
    'text_model.head.weight': 'text tower',
    'logit_scale': 'temperature of image and text pairs',
    'vision_model.embeddings.position_ids': 'constant',
  }


def test_a_dinov2_head_with_a_mean_half_is_left_out_with_a_remark(tmp_path):
  params, export = exported(tiny(**SCALE))
  export.arrays['classifier.weight'] = np.ones((3, 48), np.float32)
  imported = reread(tmp_path, export)
  assert imported.num_classes == 0
  assert imported.class_names is None
  assert set(imported.report.keys('unused')) >= {'classifier.weight', 'classifier.bias'}
  assert 'mean of the patches' in imported.assumed[0]
  del params['head']
  assert_same_params(imported.params, params)


def test_the_position_of_the_distillation_token_is_added_to_it(tmp_path):
  params, export = exported(tiny(num_registers=1))
  table = 'deit.embeddings.position_embeddings'
  assert export.arrays[table].shape == (1, 11, 24)
  row = np.random.default_rng(5).normal(size=(1, 1, 24)).astype(np.float32)
  export.arrays[table][:, 1:2] = row
  imported = reread(tmp_path, export)
  np.testing.assert_array_equal(imported.params['registers'], params['registers'] + row)
  found = imported.params['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(found, params['Transformer']['posembed_input']['pos_embedding'])


def test_a_pooler_below_a_classifier_is_unused(tmp_path):
  _, export = exported(tiny())
  export.arrays['vit.pooler.dense.weight'] = np.zeros((24, 24), np.float32)
  imported = reread(tmp_path, export)
  assert imported.model.representation_size is None
  assert imported.report.keys('unused') == ('vit.pooler.dense.weight',)


@pytest.mark.parametrize(
  ('edits', 'num_classes', 'size', 'knobs'),
  [
    ({'num_registers': 2}, 3, SIZE, ['model.num_registers']),
    ({'final_norm': 'pooled'}, 3, SIZE, ['model.final_norm']),
    ({'representation_size': 8}, 3, SIZE, ['model.representation_size']),
    ({'pool': 'map'}, 3, SIZE, ['model.pool']),
    ({'pool': 'gap', 'num_registers': 1}, 3, (48, 32), ['model.num_registers', 'image_size']),
    ({'pool': 'map', **SCALE}, 0, SIZE, ['model.layer_scale_init']),
    ({'mlp_dim': 50, **SCALE}, 0, SIZE, ['model.mlp_dim']),
    ({'variant': 'R26+Ti/32'}, 3, (64, 64), ['model.variant']),
    ({'qk_norm': True, 'position': 'relative'}, 3, SIZE, ['model.qk_norm', 'model.position']),
  ],
)
def test_what_transformers_cannot_express_is_named(edits, num_classes, size, knobs):
  model = tiny(**edits)
  with pytest.raises(CheckpointError, match='transformers') as caught:
    huggingface.export(random_params(model, num_classes, size), model, num_classes, size, PREPROCESS)
  assert [problem.where for problem in caught.value.problems] == knobs


def with_array(key, shape=(24,)):
  return lambda arrays: arrays.update({key: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
  ('edit', 'words'),
  [
    (with_array('distillation_classifier.weight'), 'averages two heads'),
    (with_array('vit.encoder.layer.0.mlp.weights_in.weight'), 'SwiGLU'),
    (with_array('vision_model.pre_layrnorm.weight'), 'CLIP'),
    (with_array('vit.encoder.layer.0.attention.attention.relative_position_bias_table'), 'relative'),
    (with_array('vit.encoder.layer.0.lambda_1'), 'BEiT'),
    (with_array('decoder.0.weight'), 'masked images'),
    (with_array('vit.encoder.layer.0.attention.attention.query.lora_A.default.weight'), 'LoRA'),
  ],
)
def test_features_that_vitjax_does_not_have_are_named(edit, words, tmp_path):
  _, export = exported(tiny())
  edit(export.arrays)
  with pytest.raises(CheckpointError) as caught:
    reread(tmp_path, export)
  (problem,) = caught.value.problems
  assert words in problem.found


def test_no_biases(tmp_path):
  _, export = exported(tiny())
  for name in ('query', 'key', 'value'):
    del export.arrays[f'vit.encoder.layer.0.attention.attention.{name}.bias']
  with pytest.raises(CheckpointError, match='qkv_bias=False'):
    reread(tmp_path, export)


@pytest.mark.parametrize(
  ('config', 'where'),
  [
    ({'hidden_act': 'relu', 'qkv_bias': False}, ['qkv_bias', 'hidden_act']),
    ({'layer_norm_eps': 0}, ['layer_norm_eps']),
    ({'layer_norm_eps': 'small'}, ['layer_norm_eps']),
    ({'num_attention_heads': 7}, ['num_attention_heads']),
    ({'use_swiglu_ffn': True}, ['use_swiglu_ffn']),
    ({'model_type': 'beit'}, ['model_type']),
    ({'model_type': 'siglip'}, ['model_type']),
  ],
)
def test_settings_that_do_not_fit_are_named(config, where, tmp_path):
  _, export = exported(tiny())
  with pytest.raises(CheckpointError) as caught:
    reread(tmp_path, export, **config)
  assert [problem.where for problem in caught.value.problems] == where


def test_all_arrays_that_do_not_fit_are_listed(tmp_path):
  _, export = exported(tiny())
  del export.arrays['vit.layernorm.bias']
  export.arrays['vit.encoder.layer.1.output.dense.weight'] = np.zeros((24, 25), np.float32)
  export.arrays['vit.what'] = np.zeros(3, np.float32)
  with pytest.raises(CheckpointError) as caught:
    reread(tmp_path, export)
  wheres = {problem.where for problem in caught.value.problems}
  assert wheres == {'vit.layernorm.bias', 'vit.encoder.layer.1.output.dense.weight', 'vit.what'}


def test_other_arrays_are_refused_with_the_known_types(tmp_path):
  write_safetensors(tmp_path / 'model.safetensors', {'conv.weight': np.zeros(3, np.float32)})
  (tmp_path / 'config.json').write_text('{"model_type": "resnet"}')
  with pytest.raises(CheckpointError, match='dinov2_with_registers'):
    read_weights(tmp_path)


@pytest.mark.parametrize('class_name', MODELS)
def test_a_bare_file_says_what_it_assumes(class_name, tmp_path):
  model, num_classes, size, model_type, _ = MODELS[class_name]
  _, export = exported(model, num_classes, size)
  file = tmp_path / 'bare.safetensors'
  write_safetensors(file, export.arrays)
  if size != SIZE:
    with pytest.raises(CheckpointError, match=r'grid=\(rows, columns\)'):
      read_weights(file)
  imported = read_weights(file, grid=(size[0] // 16, size[1] // 16))
  assert imported.image_size == size
  assert imported.model.gelu == ('tanh' if model_type.startswith('siglip') else 'exact')
  assert imported.model.norm_eps == (1e-12 if model_type in ('vit', 'deit') else 1e-6)
  topics = [text.partition(':')[0] for text in imported.assumed]
  assert topics == ['hidden_act', 'layer_norm_eps', 'num_attention_heads', 'preprocess']


@pytest.mark.parametrize(
  ('labels', 'names', 'remarks'),
  [
    ({'0': 'a', '1': 'b', '2': 'c'}, ('a', 'b', 'c'), 0),
    ({'0': 'LABEL_0', '1': 'LABEL_1', '2': 'LABEL_2'}, None, 0),
    ({'0': 'a'}, None, 1),
    ({'0': 'a', '1': 'b', '2': 3}, None, 1),
    (None, None, 0),
  ],
)
def test_labels(labels, names, remarks):
  found, assumed = hf_config.read_labels({'id2label': labels}, 3)
  assert found == names
  assert len(assumed) == remarks


HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PROCESSORS = [
  (
    'vit',
    {'size': {'height': 48, 'width': 48}, 'resample': 2},
    Preprocess(SIZE, *HALF, 'bilinear_antialias'),
    0,
  ),
  ('vit', {'size': 48}, Preprocess(SIZE, *HALF, 'bilinear_antialias'), 0),
  ('siglip', {'size': {'height': 48, 'width': 48}}, Preprocess(SIZE, *HALF, 'bicubic_antialias'), 0),
  (
    'dinov2',
    {
      'size': {'shortest_edge': 55},
      'crop_size': {'height': 48, 'width': 48},
      'do_center_crop': True,
      'resample': 3,
      'image_mean': list(IMAGENET[0]),
      'image_std': list(IMAGENET[1]),
    },
    Preprocess(SIZE, *IMAGENET, 'bicubic_antialias', 55),
    0,
  ),
  # The crop is for other images than the positions: the same share of the image is cut out.
  (
    'dinov2',
    {'size': {'shortest_edge': 256}, 'crop_size': {'height': 224, 'width': 224}, 'do_center_crop': True},
    Preprocess(SIZE, *HALF, 'bicubic_antialias', 55),
    1,
  ),
  (
    'deit',
    {'size': 256, 'crop_size': 224, 'do_center_crop': True},
    Preprocess(SIZE, *HALF, 'bicubic_antialias', 55),
    2,
  ),
  (
    'vit',
    {'size': {'height': 48, 'width': 48}, 'resample': 1},
    Preprocess(SIZE, *HALF, 'bilinear_antialias'),
    1,
  ),
  ('vit', {'size': 48, 'do_rescale': False}, Preprocess(SIZE, *HALF, 'bilinear_antialias'), 1),
  ('vit', {'do_resize': False, 'size': 48}, Preprocess(SIZE, *HALF, 'bilinear_antialias'), 1),
  ('vit', {'size': {'longest_edge': 48}}, Preprocess(SIZE, *HALF, 'bilinear_antialias'), 1),
  (
    'vit',
    {'size': 48, 'do_normalize': False},
    Preprocess(SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 'bilinear_antialias'),
    0,
  ),
]


@pytest.mark.parametrize(('model_type', 'processor', 'expected', 'remarks'), PROCESSORS)
def test_preprocessor_config_becomes_a_preparation(model_type, processor, expected, remarks):
  preprocess, assumed, problems = hf_config.read_preprocess(processor, SIZE, model_type)
  assert preprocess == expected
  assert (len(assumed), problems) == (remarks, [])


def test_nonsense_in_preprocessor_config_is_refused(tmp_path):
  _, export = exported(tiny())
  folder = written(tmp_path, export)
  (folder / 'preprocessor_config.json').write_text('{"image_mean": [1], "image_std": [0, 1, 1]}')
  with pytest.raises(CheckpointError) as caught:
    read_weights(folder)
  assert {problem.where for problem in caught.value.problems} == {'image_mean', 'image_std'}
  (folder / 'preprocessor_config.json').write_text('[]')
  with pytest.raises(CheckpointError, match='JSON list'):
    read_weights(folder)


def test_recognises():
  _, export = exported(tiny())
  shapes = {key: array.shape for key, array in export.arrays.items()}
  assert huggingface.recognises(shapes, None)
  assert huggingface.recognises({}, {'model_type': 'anything'})
  assert not huggingface.recognises(
    {'patch_embed.proj.weight': (1,)}, {'architecture': 'vit_base_patch16_224'}
  )


def test_patches_are_checked(tmp_path):
  for shape in ((24, 1, 16, 16), (24, 3, 16, 8)):
    _, export = exported(tiny())
    with_array('vit.embeddings.patch_embeddings.projection.weight', shape)(export.arrays)
    with pytest.raises(CheckpointError, match='3 channels, square patches'):
      reread(tmp_path, export)


def test_a_full_size_has_the_name_of_the_table(tmp_path):
  model = ModelConfig(variant='S/32', depth=1, gelu='exact', norm_eps=1e-12)
  _, export = exported(model, size=(64, 64), preprocess=Preprocess((64, 64)))
  assert reread(tmp_path, export).model == model
