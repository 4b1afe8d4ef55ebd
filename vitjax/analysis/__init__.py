"""What a trained model does, measured: the analyses of the ViT paper and a few more, on any `vitjax.load`.

Every function states its definition and source, takes plain arrays or a `Loaded`, and returns arrays.
"""

from vitjax.analysis.attention import (
  AttentionDistance,
  AttentionWithGradient,
  attention_distance,
  attention_with_gradient,
  conv_layers_needed,
  conv_receptive_field,
  patch_distances,
  query_distances,
)
from vitjax.analysis.filters import FilterComponents, filter_components
from vitjax.analysis.layers import (
  TokenLayout,
  is_transformer,
  layer_maps,
  layer_names,
  mapped,
  token_layout,
)
from vitjax.analysis.maps import gradient_weighted, head_maps, rollout
from vitjax.analysis.positions import (
  PositionStructure,
  position_similarity,
  position_structure,
  position_tables,
  resampled,
)
from vitjax.analysis.probes import ProbeResult, shuffle_probe, translation_probe
from vitjax.analysis.receptive_field import ReceptiveField, radius_holding, receptive_field
from vitjax.analysis.similarity import Similarity, cka, hsic, layer_similarity, pooled_cells
from vitjax.analysis.tokens import FeaturePCA, TokenNorms, feature_pca, token_norms

__all__ = [
  'AttentionDistance',
  'AttentionWithGradient',
  'FeaturePCA',
  'FilterComponents',
  'PositionStructure',
  'ProbeResult',
  'ReceptiveField',
  'Similarity',
  'TokenLayout',
  'TokenNorms',
  'attention_distance',
  'attention_with_gradient',
  'cka',
  'conv_layers_needed',
  'conv_receptive_field',
  'feature_pca',
  'filter_components',
  'gradient_weighted',
  'head_maps',
  'hsic',
  'is_transformer',
  'layer_maps',
  'layer_names',
  'layer_similarity',
  'mapped',
  'patch_distances',
  'pooled_cells',
  'position_similarity',
  'position_structure',
  'position_tables',
  'query_distances',
  'radius_holding',
  'receptive_field',
  'resampled',
  'rollout',
  'shuffle_probe',
  'token_layout',
  'token_norms',
  'translation_probe',
]
