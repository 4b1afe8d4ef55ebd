"""timm computes the same: its checkpoints loaded here, and models from here loaded there. Needs torch and timm."""

from __future__ import annotations

import json
import math

import numpy as np
import peers
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from vitjax.config.schema import ModelConfig
from vitjax.data import Preprocess
from vitjax.errors import CheckpointError
from vitjax.models import resolve_variant
from vitjax.weights import read_weights, timm
from vitjax.weights.files import read_safetensors

pytestmark = pytest.mark.filterwarnings('ignore')  # what the peers warn of is theirs

# float32, largest difference over largest logit. A wrong GELU form alone gives 1e-3 and more.
BAR = 1e-4

TINY = {'embed_dim': 48, 'depth': 2, 'num_heads': 3, 'img_size': 32, 'num_classes': 7}
TINY_MODELS = {
  'class token': ('vit_tiny_patch16_224', {}),
  'no head': ('vit_tiny_patch16_224', {'num_classes': 0}),
  'rectangular': ('vit_tiny_patch16_224', {'img_size': (48, 32)}),
  'DeiT': ('deit_tiny_patch16_224', {}),
  'DeiT-III': ('deit3_small_patch16_224', {}),
  'DINOv2': ('vit_base_patch14_dinov2', {'img_size': 42}),
  'DINOv2 with registers': ('vit_base_patch14_reg4_dinov2', {'img_size': 42}),
  'SigLIP': ('vit_base_patch16_siglip_224', {'num_classes': 0}),
  'SigLIP, tanh': ('vit_base_patch32_siglip_256', {'img_size': 64}),
  'mean of tokens': ('vit_base_patch16_siglip_gap_224', {}),
  'norm after the mean': ('vit_base_patch16_reg4_gap_256', {'img_size': 48}),
  'hybrid': ('vit_small_r26_s32_224', {'img_size': 64}),
}
# Their arrays come back in another form, with the same outputs: tokens with a position of their own.
JOINED_MODELS = {
  'class token beside the mean': ('eva_large_patch14_196', {'img_size': 42}),
  'registers with positions': ('vit_so150m_patch16_reg4_map_256', {}),
  'both': ('vit_tiny_patch16_224', {'reg_tokens': 2}),
}
FULL_MODELS = (
  'vit_tiny_patch16_224', 'vit_small_patch16_224', 'vit_base_patch16_224', 'vit_base_patch32_384',
  'vit_base_r50_s16_384', 'vit_small_r26_s32_224', 'deit3_small_patch16_224', 'deit3_base_patch16_224',
  'vit_base_patch14_dinov2', 'vit_base_patch16_siglip_224', 'vit_base_patch32_siglip_256',
)  # fmt: skip


def both_ways(folder, name, args, *, num_images=2):
  """Returns (difference of theirs loaded here, of ours loaded there, their arrays, our export)."""
  peer = peers.import_peer('timm')
  model = peers.randomise(peer.create_model(name, **args))
  peer.models.save_for_hf(model, str(folder / 'theirs'), safe_serialization=True)
  imported = read_weights(folder / 'theirs')
  images = peers.random_images(imported.image_size, num_images)
  expected = peers.outputs_of(model, images)
  loaded = peers.difference(peers.our_outputs(imported, images), expected)
  export = timm.export(
    imported.params,
    imported.model,
    imported.num_classes,
    imported.image_size,
    imported.preprocess,
    imported.class_names,
  )
  ours = peers.write_folder(folder / 'ours', export)
  again = peer.create_model(f'local-dir:{ours}', pretrained=True).eval()
  exported = peers.difference(peers.outputs_of(again, images), expected)
  return loaded, exported, peers.arrays_of(model), export


@pytest.mark.parametrize('kind', TINY_MODELS)
def test_both_ways(kind, tmp_path):
  loaded, exported, arrays, export = both_ways(tmp_path, TINY_MODELS[kind][0], TINY | TINY_MODELS[kind][1])
  assert max(loaded, exported) <= BAR
  assert set(export.arrays) == set(arrays)
  for key, array in arrays.items():
    assert export.arrays[key].tobytes() == array.tobytes(), key


@pytest.mark.parametrize('kind', JOINED_MODELS)
def test_both_ways_with_joined_tokens(kind, tmp_path):
  loaded, exported, _, _ = both_ways(tmp_path, JOINED_MODELS[kind][0], TINY | JOINED_MODELS[kind][1])
  assert max(loaded, exported) <= BAR


@pytest.mark.slow
@pytest.mark.parametrize('name', FULL_MODELS)
def test_both_ways_at_full_size(name, tmp_path, record_property):
  loaded, exported, arrays, export = both_ways(tmp_path, name, {}, num_images=8)
  record_property('loaded', loaded)
  record_property('exported', exported)
  assert max(loaded, exported) <= BAR
  assert all(export.arrays[key].tobytes() == array.tobytes() for key, array in arrays.items())


def test_the_comparison_can_fail(tmp_path):
  peer = peers.import_peer('timm')
  model = peers.randomise(peer.create_model('vit_tiny_patch16_224', **TINY))
  peer.models.save_for_hf(model, str(tmp_path), safe_serialization=True)
  config = json.loads((tmp_path / 'config.json').read_text())
  images = peers.random_images((32, 32))
  expected = peers.outputs_of(model, images)
  entries, _ = read_safetensors(tmp_path / 'model.safetensors')
  for edit in ({'act_layer': 'gelu_tanh'}, {'num_heads': 6}):
    imported = timm.load('f', entries, config | {'model_args': config['model_args'] | edit})
    assert peers.difference(peers.our_outputs(imported, images), expected) > BAR, edit


@pytest.mark.slow
def test_every_plain_architecture_is_understood_and_every_other_one_refused():
  """Heads, GELU, pooling, norms and grid, as read from keys, shapes and name, against timm's own modules."""
  peer = peers.import_peer('timm')
  torch = pytest.importorskip('torch')
  accepted = 0
  for module in ('vision_transformer', 'vision_transformer_hybrid', 'deit', 'eva', 'beit'):
    for name in peer.list_models(module=module):
      with torch.device('meta'):
        model = peer.create_model(name)
      shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
      config = {
        'architecture': name,
        'global_pool': model.global_pool,
        'pretrained_cfg': model.pretrained_cfg,
      }
      try:
        facts = timm._read_facts(name, shapes, config)
      except CheckpointError:
        continue
      accepted += 1
      assert_understood(name, model, facts, shapes)
  assert accepted > 100


def assert_understood(name, model, facts, shapes):
  """Fails unless `facts` describe what timm's modules do."""
  block = model.blocks[0]
  size = resolve_variant(ModelConfig(**facts.sizes)).size
  kinds = [type(module).__name__ for module in (model, block, block.attn, block.mlp, block.norm1)]
  assert kinds == ['VisionTransformer', 'Block', 'Attention', 'Mlp', 'LayerNorm'], name
  assert (size.width, size.depth, size.num_heads) == (
    model.embed_dim,
    len(model.blocks),
    block.attn.num_heads,
  )
  assert size.mlp_dim == block.mlp.fc1.out_features, name
  assert facts.gelu == {'GELU': 'exact', 'GELUTanh': 'tanh'}[type(block.mlp.act).__name__], name
  assert block.norm1.eps == 1e-6, name
  assert facts.pool == {'token': 'token', 'avg': 'gap', 'map': 'map'}[model.global_pool], name
  assert (facts.final_norm == 'pooled') == (type(model.fc_norm).__name__ == 'LayerNorm'), name
  rows, grid = timm._grid(name, shapes['pos_embed'][1], facts, None)
  assert grid == tuple(model.patch_embed.grid_size), name
  assert rows == (0 if model.no_embed_class else model.num_prefix_tokens), name


PREPARATIONS = [
  (224, 0.9, 'center', 'bicubic'),
  (384, 1.0, 'center', 'bicubic'),
  (224, 0.875, 'center', 'bilinear'),
  (240, 0.95, 'center', 'bicubic'),
  (256, 1.0, 'squash', 'bicubic'),
]


@pytest.mark.parametrize('photo', ['china.jpg', 'flower.jpg'])
@pytest.mark.parametrize(('size', 'share', 'mode', 'interpolation'), PREPARATIONS)
def test_pixels_are_those_that_timm_evaluates(photo, size, share, mode, interpolation):
  peers.import_peer('timm')
  from timm.data.transforms_factory import transforms_imagenet_eval

  image = load_sample_image(photo)
  transform = transforms_imagenet_eval(
    size, crop_pct=share, crop_mode=mode, interpolation=interpolation, normalize=False
  )
  expected = np.asarray(transform(Image.fromarray(image))).transpose(1, 2, 0).astype(int)
  short = None if mode == 'squash' else math.floor(size / share)
  preprocess = Preprocess((size, size), interpolation=f'{interpolation}_antialias', resize_short=short)
  assert np.abs(preprocess(image).astype(int) - expected).max() <= 1
  aliased = Preprocess((size, size), interpolation=interpolation, resize_short=short)
  assert np.abs(aliased(image).astype(int) - expected).max() > 10


def test_timm_prepares_images_as_an_export_says(tmp_path):
  peer = peers.import_peer('timm')
  from timm.data import create_transform, resolve_model_data_config

  model = ModelConfig(variant='Ti/16', width=48, depth=1, mlp_dim=96, num_heads=3, gelu='exact')
  preprocess = Preprocess((64, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), 'bicubic_antialias', 72)
  imported = peers.random_import(model, num_classes=3, size=(64, 64))
  export = timm.export(imported, model, 3, (64, 64), preprocess, ('a', 'b', 'c'))
  folder = peers.write_folder(tmp_path, export)
  theirs = peer.create_model(f'local-dir:{folder}', pretrained=True)
  assert theirs.pretrained_cfg['label_names'] == ['a', 'b', 'c']
  transform = create_transform(**resolve_model_data_config(theirs))
  image = load_sample_image('china.jpg')
  found = (preprocess(image) / 255 - preprocess.mean) / preprocess.std
  expected = transform(Image.fromarray(image)).numpy().transpose(1, 2, 0)
  assert np.abs(found - expected).max() <= 1.01 / 255 / min(preprocess.std)
