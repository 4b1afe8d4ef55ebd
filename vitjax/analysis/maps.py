"""Attention as a picture of where the model looks: one block's heads, rollout, and weighted by gradients."""

from __future__ import annotations

import numpy as np

from vitjax.analysis.attention import AttentionWithGradient
from vitjax.analysis.layers import TokenLayout


def head_maps(attention: np.ndarray, layout: TokenLayout) -> np.ndarray:
  """Returns what each head of each block gives to each patch, float32 [n, depth, k, h, w]. Host-side.

  The row of the class token; for a model without one the mean of the patches' rows. Not renormalised: what is
  missing to 1 goes to the class token and the registers.

  Args:
    attention: probabilities [n, depth, k, l, l].
    layout: of the tokens.
  """
  return _on_grid(_summary_rows(np.asarray(attention), layout), layout)


def rollout(attention: np.ndarray, layout: TokenLayout) -> np.ndarray:
  """Returns how much of each patch reaches the summary token through all blocks, float32 [n, h, w]. Host-side.

    A_i = normalise_rows(mean over heads of attention_i + identity),  R = A_depth ... A_2 A_1

  and of R the summary row: the class token's, or the mean of the patches' rows without one.

  Args:
    attention: probabilities [n, depth, k, l, l].
    layout: of the tokens.

  Source: attention rollout (arXiv 2005.00928); ViT (2010.11929) D.8, Figure 6.
  """
  mixed = np.asarray(attention).mean(axis=2) + np.eye(attention.shape[-1], dtype=np.float32)
  mixed /= mixed.sum(axis=-1, keepdims=True)
  total = mixed[:, 0]
  for block in range(1, mixed.shape[1]):
    total = mixed[:, block] @ total
  return _on_grid(_summary_rows(total, layout), layout)


def gradient_weighted(found: AttentionWithGradient, layout: TokenLayout) -> np.ndarray:
  """Returns the relevance of each patch for the score, float32 [n, h, w], not negative. Host-side.

    A_i = mean over heads of max(0, gradient_i * attention_i),  R <- R + A_i R  from R = identity

  and of R the summary row, without what the identity put there.

  Args:
    found: of `attention_with_gradient`.
    layout: of the tokens.

  Source: Chefer et al. (arXiv 2103.15679), equations 5, 6 and 12.
  """
  weighted = np.maximum(found.gradient * found.attention, 0).mean(axis=2)
  identity = np.eye(weighted.shape[-1], dtype=np.float32)
  total = np.broadcast_to(identity, weighted[:, 0].shape)
  for block in range(weighted.shape[1]):
    total = total + weighted[:, block] @ total
  return _on_grid(_summary_rows(total - identity, layout), layout)


def _summary_rows(matrices: np.ndarray, layout: TokenLayout) -> np.ndarray:
  """Returns of matrices [..., l, l] the class token's row, or the mean of the patches' rows, [..., l]."""
  if layout.has_class_token:
    return matrices[..., 0, :]
  return matrices[..., layout.num_prefix :, :].mean(axis=-2)


def _on_grid(rows: np.ndarray, layout: TokenLayout) -> np.ndarray:
  """Returns rows [..., l] as maps [..., h, w]; tokens that are no patches are dropped."""
  patches = rows[..., layout.num_prefix :]
  return patches.reshape(*patches.shape[:-1], *layout.grid).astype(np.float32)
