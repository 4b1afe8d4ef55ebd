"""Real photographs that installed packages bring, for tests."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

# Photographs only: no drawings, no scans of text alone, no second view of the same scene.
_PACKAGED = {
  'sklearn': ('datasets/images/china.jpg', 'datasets/images/flower.jpg'),
  'matplotlib': ('mpl-data/sample_data/grace_hopper.jpg',),
  'skimage': tuple(
    f'data/{name}'
    for name in (
      'astronaut.png', 'brick.png', 'camera.png', 'cell.png', 'chelsea.png', 'clock_motion.png', 'coffee.png',
      'coins.png', 'grass.png', 'gravel.png', 'hubble_deep_field.jpg', 'ihc.png', 'moon.png', 'motorcycle_left.png',
      'page.png', 'retina.jpg', 'rocket.jpg', 'text.png',
    )
  ),
}  # fmt: skip


def crops(count: int, height: int, width: int) -> np.ndarray:
  """Returns `count` different crops of scikit-learn's two photographs, uint8 [count, height, width, 3]."""
  whole = load_sample_images().images
  rng = np.random.default_rng(0)
  found = []
  for i in range(count):
    image = whole[i % len(whole)]
    top, left = rng.integers(0, image.shape[0] - height), rng.integers(0, image.shape[1] - width)
    found.append(image[top : top + height, left : left + width])
  return np.stack(found)


def different(height: int, width: int) -> np.ndarray | None:
  """Returns 21 different photographs, uint8 [21, height, width, 3]; None where scikit-image is not installed.

  Each is shrunk to cover that size and cut around its middle. Some are grey, with three equal channels.
  """
  found = []
  for package, names in _PACKAGED.items():
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
      return None
    for name in names:
      with Image.open(pathlib.Path(spec.origin).parent / name) as image:
        found.append(np.asarray(ImageOps.fit(image.convert('RGB'), (width, height), Image.Resampling.BOX)))
  return np.stack(found)
