"""What patch tokens say: their principal components as colours, and the outliers among their norms."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class FeaturePCA:
  """Patch features as colours.

  Attributes:
    rgb: float64 [n, h, w, 3] in [0, 1]: the first three components, scaled per channel between the 1st and the
      99th percentile; background is 0.
    components: float64 [n, h, w, 3]: the unscaled projections; background is 0.
    foreground: bool [n, h, w]; all True without a threshold.
    explained: float64 [n, 3], share of the foreground's variance; one row repeated with joint=True.
  """

  rgb: np.ndarray
  components: np.ndarray
  foreground: np.ndarray
  explained: np.ndarray


def feature_pca(features: Any, *, threshold: float | None = None, joint: bool = True) -> FeaturePCA:
  """Returns the first three principal components of patch features as colours. Host-side.

  With a threshold there are two steps. The first component of all patches, scaled to [0, 1], separates
  foreground from background: patches above the threshold are foreground. The component's sign is arbitrary; it
  is turned so that the border of the images is background rather than foreground. Then the components of the
  foreground alone give the colours, so that they tell parts of the subject apart.

  Args:
    features: float [n, h, w, d], such as the last block's patch tokens.
    threshold: in (0, 1); None: one step, without a foreground.
    joint: one basis and scale for all images, so that like colours mean like features across them; False: each
      image by itself.

  Source: DINOv2 (arXiv 2304.07193) section 7.5 and Figure 1.
  Differs from source: the sign of the first component is chosen by rule and not by eye.
  """
  features = np.asarray(features, np.float64)
  if joint:
    return _pca(features, threshold)
  parts = [_pca(image[None], threshold) for image in features]
  names = [field.name for field in dataclasses.fields(FeaturePCA)]
  return FeaturePCA(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _pca(features: np.ndarray, threshold: float | None) -> FeaturePCA:
  n, h, w, d = features.shape
  flat = features.reshape(-1, d)
  chosen = np.ones(len(flat), bool)
  if threshold is not None:
    first = _projections(flat, 1)[0][:, 0]
    chosen = _is_foreground(first.reshape(n, h, w), threshold).ravel()
  components, colours = np.zeros((len(flat), 3)), np.zeros((len(flat), 3))
  explained = np.zeros(3)
  if chosen.any():
    found, shares = _projections(flat[chosen], 3)
    components[chosen, : found.shape[1]] = found
    explained[: len(shares)] = shares
    low, high = np.percentile(components[chosen], [1, 99], axis=0)
    colours[chosen] = np.clip((components[chosen] - low) / np.maximum(high - low, 1e-12), 0, 1)
  return FeaturePCA(
    colours.reshape(n, h, w, 3),
    components.reshape(n, h, w, 3),
    chosen.reshape(n, h, w),
    np.broadcast_to(explained, (n, 3)),
  )


def _projections(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns rows [m, d] projected on their first principal components, [m, count], and shares of variance."""
  centred = rows - rows.mean(axis=0)
  values, vectors = np.linalg.eigh(centred.T @ centred)
  values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
  # A component's sign is arbitrary: make its largest weight positive, so that runs agree.
  vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
  return centred @ vectors, values / max((centred**2).sum(), 1e-300)


def _is_foreground(first: np.ndarray, threshold: float) -> np.ndarray:
  """Returns which cells of [n, h, w] lie above the threshold, after the sign that keeps the border out of it."""
  border = np.ones(first.shape[1:], bool)
  border[1:-1, 1:-1] = False
  if border.all() or first[:, border].mean() > first[:, ~border].mean():
    first = -first
  low, high = np.percentile(first, [1, 99])
  return (first - low) / max(high - low, 1e-12) > threshold


@dataclasses.dataclass(frozen=True)
class TokenNorms:
  """Norms of tokens, layer by layer, and which are outliers.

  Attributes:
    layers: names, from input to output.
    norms: float64 [depth, n, h, w]: Euclidean norms of patch tokens.
    outliers: bool [depth, n, h, w].
    factor: an outlier's norm lies more than this many scaled deviations above its layer's median.
  """

  layers: tuple[str, ...]
  norms: np.ndarray
  outliers: np.ndarray
  factor: float

  @property
  def share(self) -> np.ndarray:
    """Share of outliers per layer, float64 [depth]."""
    return self.outliers.mean(axis=(1, 2, 3))


def token_norms(layers: tuple[str, ...], maps: list[np.ndarray], *, factor: float = 6.0) -> TokenNorms:
  """Returns the norms of patch tokens and the outliers among them. Host-side.

    outlier: norm > median + factor * 1.4826 * median|norm - median|         over all patches of a layer

  Large ViTs turn a few patches of dull background into such tokens and keep global information there; that is
  why registers were invented. Without outliers a well-behaved layer of normal norms has about none at 6.

  Args:
    layers: their names.
    maps: one array [n, h, w, d] per layer, all on one grid.
    factor: in scaled median absolute deviations; 1.4826 makes them standard deviations for a normal law.

  Source: registers (arXiv 2309.16588) section 2.
  Differs from source: there a fixed norm of 150 for DINOv2-g; here a rule that does not depend on the scale.
  """
  norms = np.stack([np.linalg.norm(np.asarray(x, np.float64), axis=-1) for x in maps])
  median = np.median(norms, axis=(1, 2, 3), keepdims=True)
  deviation = 1.4826 * np.median(np.abs(norms - median), axis=(1, 2, 3), keepdims=True)
  return TokenNorms(layers, norms, norms > median + factor * deviation, factor)
