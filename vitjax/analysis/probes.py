"""Inductive bias, measured: what a shift of the picture changes, and what is left when its patches are shuffled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitjax.data import Preprocess
from vitjax.errors import ConfigError, Problem
from vitjax.loaded import Loaded
from vitjax.ops.normalize import normalize


@dataclasses.dataclass(frozen=True)
class ProbeResult:
  """What changes when images are changed, by strength of the change.

  Attributes:
    strengths: pixels of a shift, or tiles per side of a shuffle; the first leaves the image as it is.
    cosine: float64 [s]: mean cosine of the pooled features with those of the unchanged image.
    agreement: float64 [s]: share of images whose highest logit stays the same class; None without a head.
    movement: float64 [s]: mean total variation distance between the class probabilities; None without a head.
    accuracy: float64 [s]; None without labels.
    num_images: images that entered.
  """

  strengths: tuple[int, ...]
  cosine: np.ndarray
  agreement: np.ndarray | None
  movement: np.ndarray | None
  accuracy: np.ndarray | None
  num_images: int


def shifted(preprocess: Preprocess, image: Any, shifts: Sequence[int]) -> np.ndarray:
  """Returns the image seen through windows shifted right, uint8 [s, h, w, 3]. Host-side.

  The image is prepared larger by the largest shift on each side, and windows of the model's size are cut out of
  it: what enters at the border are real pixels of the photograph, not padding.

  Args:
    preprocess: the model's.
    image: as for `Loaded.predict`.
    shifts: pixels, >= 0.
  """
  margin = max(shifts)
  h, w = preprocess.image_size
  large = preprocess.resized((h + 2 * margin, w + 2 * margin))(image)
  middle = large[margin : margin + h]
  return np.stack([middle[:, margin + s : margin + s + w] for s in shifts])


def shuffled(image: np.ndarray, tiles: int, rng: np.random.Generator) -> np.ndarray:
  """Returns an image [h, w, c] cut into tiles x tiles tiles, in random order; 1: as it is. Host-side.

  Raises:
    ConfigError: tiles do not divide the sides.
  """
  h, w, c = image.shape
  if h % tiles or w % tiles:
    raise ConfigError(
      'tiles do not cut the image evenly', [Problem('tiles', str(tiles), f'a divisor of {h} and {w}')]
    )
  cut = (
    image.reshape(tiles, h // tiles, tiles, w // tiles, c)
    .swapaxes(1, 2)
    .reshape(tiles**2, h // tiles, w // tiles, c)
  )
  mixed = cut[rng.permutation(tiles**2)] if tiles > 1 else cut
  return mixed.reshape(tiles, tiles, h // tiles, w // tiles, c).swapaxes(1, 2).reshape(h, w, c)


def translation_probe(
  loaded: Loaded, images: Sequence[Any], shifts: Sequence[int], *, labels: np.ndarray | None = None
) -> ProbeResult:
  """Returns what shifts of the picture change in features and predictions.

  Args:
    loaded: any model.
    images: as for `Loaded.predict`, one by one.
    shifts: pixels; 0 is put in front.
    labels: int [n], for accuracy.
  """
  strengths = (0, *(s for s in shifts if s))
  views = np.stack([shifted(loaded.preprocess, image, strengths) for image in images], axis=1)
  return _compare(loaded, strengths, views, labels)


def shuffle_probe(
  loaded: Loaded,
  images: Sequence[Any],
  tiles: Sequence[int],
  *,
  labels: np.ndarray | None = None,
  seed: int = 0,
) -> ProbeResult:
  """Returns what is left of features and predictions when the image is cut into tiles and these are shuffled.

  Args:
    loaded: any model.
    images: as for `Loaded.predict`, one by one.
    tiles: per side; each divides the image. 1 is put in front.
    labels: int [n], for accuracy.
    seed: of the permutations; every image has its own.
  """
  strengths = (1, *(t for t in tiles if t > 1))
  whole = [loaded.preprocess(image) for image in images]
  views = [
    [shuffled(x, t, np.random.default_rng((seed, t, i))) for i, x in enumerate(whole)] for t in strengths
  ]
  return _compare(loaded, strengths, np.asarray(views), labels)


def _compare(
  loaded: Loaded, strengths: tuple[int, ...], views: np.ndarray, labels: np.ndarray | None
) -> ProbeResult:
  """Returns the comparison of views [s, n, h, w, 3] with views[0]."""
  inputs = [np.asarray(normalize(view, loaded.preprocess.mean, loaded.preprocess.std)) for view in views]
  features = np.stack([loaded.features(x) for x in inputs]).astype(np.float64)
  unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
  cosine = (unit * unit[:1]).sum(axis=-1).mean(axis=1)
  if loaded.num_classes == 0:
    return ProbeResult(strengths, cosine, None, None, None, views.shape[1])
  logits = np.stack([loaded.predict(x) for x in inputs]).astype(np.float64)
  chosen = logits.argmax(axis=-1)
  probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
  probabilities /= probabilities.sum(axis=-1, keepdims=True)
  return ProbeResult(
    strengths,
    cosine,
    agreement=(chosen == chosen[:1]).mean(axis=1),
    movement=0.5 * np.abs(probabilities - probabilities[:1]).sum(axis=-1).mean(axis=1),
    accuracy=None if labels is None else (chosen == labels[None]).mean(axis=1),
    num_images=views.shape[1],
  )
