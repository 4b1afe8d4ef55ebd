"""What the first layer looks for: principal components of its filters."""

from __future__ import annotations

import dataclasses

import numpy as np

from vitjax.loaded import Loaded
from vitjax.trees import flatten

# Where the kernel that meets the pixels stands: a ViT's, a hybrid's, a ResNet's.
_FIRST_KERNELS = ('conv_root/kernel', 'root_block/conv_root/kernel', 'embedding/kernel')


@dataclasses.dataclass(frozen=True)
class FilterComponents:
  """Principal components of filters.

  Attributes:
    components: float64 [m, h, w, 3], orthonormal, the one that explains most first; the largest entry of each
      is positive.
    explained: float64 [m], share of the variance.
    path: the parameter they come from.
    num_filters: filters that were analysed.
  """

  components: np.ndarray
  explained: np.ndarray
  path: str
  num_filters: int


def filter_components(loaded: Loaded, *, num_components: int = 28) -> FilterComponents:
  """Returns the first principal components of the filters that meet the pixels. Host-side.

  Filters are rows of h * w * 3 numbers, one per output channel; their mean is subtracted. There are no more
  components than filters or numbers.

  Args:
    loaded: any model; of a hybrid or ResNet the root convolution, as stored (before standardisation).
    num_components: how many; the paper shows 28.

  Source: ViT (arXiv 2010.11929) Figure 7 (left).
  """
  flat = flatten(loaded.params)
  path = next(path for path in _FIRST_KERNELS if path in flat)
  kernel = np.asarray(flat[path], np.float64)
  filters = kernel.reshape(-1, kernel.shape[-1]).T
  _, values, vectors = np.linalg.svd(filters - filters.mean(axis=0), full_matrices=False)
  kept = vectors[:num_components]
  largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=1)[:, None], axis=1)
  kept = kept * np.where(largest < 0, -1.0, 1.0)
  explained = values**2 / max((values**2).sum(), 1e-300)
  return FilterComponents(kept.reshape(-1, *kernel.shape[:3]), explained[: len(kept)], path, kernel.shape[-1])
