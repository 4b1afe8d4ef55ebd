"""SigLIP 2's NaFlex in transformers and timm computes the same: grids, positions, and the whole tower. Needs torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

from vitjax.config.naflex import NativePatches, largest_grid
from vitjax.data.naflex import cut, resize_and_cut
from vitjax.models import build_model, resized_model
from vitjax.ops.naflex import model_inputs, sample_cells
from vitjax.weights import read_weights

pytestmark = pytest.mark.filterwarnings('ignore')  # what the peers warn of is theirs

SIZES = [(224, 224), (375, 500), (500, 333), (97, 331), (640, 100), (1000, 1001), (64, 48)]
NATIVE = NativePatches(max_tokens=18, patch_size=16)
HALF = (0.5,) * 3


def test_grids_are_those_of_transformers_and_timm():
  siglip2 = peers.import_peer('transformers.models.siglip2.image_processing_siglip2')
  timm = peers.import_peer('timm.data.naflex_transforms')
  for max_tokens in (64, 196, 256, 576):
    for height, width in SIZES:
      ours = [16 * side for side in largest_grid(height, width, max_tokens)]
      assert ours == list(siglip2.get_image_size_for_max_num_patches(height, width, 16, max_tokens))
      assert ours == list(timm.get_image_size_for_seq((height, width), 16, max_tokens)[1])


@pytest.fixture(scope='module')
def tower():
  """Returns SigLIP 2's vision tower of transformers with random weights, 4 x 4 positions."""
  transformers = peers.import_peer('transformers')
  config = transformers.Siglip2VisionConfig(
    hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, num_patches=16, patch_size=16,
    _attn_implementation='eager',
  )  # fmt: skip
  return peers.randomise(transformers.Siglip2VisionModel(config))


@pytest.fixture
def imported(tower, tmp_path):
  """Returns the same weights as vitjax reads them: those of a tower of one size, whose embedding is a convolution."""
  arrays = peers.arrays_of(tower)
  prefix = next(name for name in arrays if name.endswith('patch_embedding.weight'))
  arrays[prefix] = arrays[prefix].reshape(48, 16, 16, 3).transpose(0, 3, 1, 2).copy()
  config = {
    'model_type': 'siglip_vision_model', 'architectures': ['SiglipVisionModel'], 'hidden_size': 48, 'image_size': 64,
    'intermediate_size': 96, 'num_hidden_layers': 2, 'num_attention_heads': 3, 'patch_size': 16,
  }  # fmt: skip
  folder = tmp_path / 'tower'
  peers.write_folder(folder, peers.Exported(arrays, config))
  return read_weights(folder)


def test_pooled_features_of_a_mixed_batch_are_those_of_transformers(tower, imported):
  import torch

  rng = np.random.default_rng(0)
  images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 64), (100, 40), (30, 90))]
  patches = np.stack([resize_and_cut(image, NATIVE, 'bilinear') for image in images])
  inputs = model_inputs(patches, HALF, HALF)
  grids = np.asarray([inputs.places.rows[:, 0], inputs.places.columns[:, 0]]).T
  assert sorted(grids.prod(axis=1).tolist()) != [18, 18, 18], 'there is padding'
  model = resized_model(build_model(imported.model, num_classes=0), image_size=(64, 64))
  ours = jax.jit(lambda p, x: model.apply({'params': p}, x))(imported.params, inputs)
  pixels = np.array(inputs.strips).reshape(3, 18, -1)
  mask = np.arange(18)[None] < grids.prod(axis=1)[:, None]
  with torch.inference_mode():
    theirs = tower(
      pixel_values=torch.from_numpy(pixels),
      pixel_attention_mask=torch.from_numpy(mask.astype(np.int64)),
      spatial_shapes=torch.from_numpy(grids.astype(np.int64)),
    ).pooler_output.numpy()
  assert peers.difference(np.asarray(ours), theirs) < 1e-4


def test_positions_are_those_of_transformers(tower):
  import torch

  table = np.random.default_rng(1).normal(size=(4, 4, 6)).astype(np.float32)
  grids = [(3, 6), (9, 2), (4, 4), (2, 2), (1, 18)]
  embeddings = next(m for m in tower.modules() if hasattr(m, 'resize_positional_embeddings'))
  theirs = embeddings.resize_positional_embeddings(torch.from_numpy(table), torch.tensor(grids), 18).numpy()
  patches = np.stack([cut(np.zeros((h * 16, w * 16, 3), np.uint8), NATIVE) for h, w in grids])
  places = model_inputs(patches, HALF, HALF).places
  ours = np.asarray(sample_cells(jnp.asarray(table.reshape(1, 16, 6)), (4, 4), places))
  for i, (h, w) in enumerate(grids):
    np.testing.assert_allclose(ours[i, : h * w], theirs[i, : h * w], rtol=1e-5, atol=1e-6)
