"""The numbers of the augmentations, and what a level of RandAugment means for each of its operations.

The form for the input workers (data/randaugment.py) and the one for the device (ops/augment.py) both read them.
"""

from __future__ import annotations

FILL = 128  # grey of what comes in from outside, and of cut-out squares
_MAX_LEVEL = 10

# Three-augment (DeiT-III, arXiv 2204.07118).
SOLARIZE_AT = 128  # smallest value that is inverted
BLUR_RADII = (0.1, 2.0)  # standard deviation of its blur, pixels
JITTER = 0.3  # strength of its colour jitter

# Random erasing (arXiv 1708.04896; aspects as in timm).
ERASED_AREA = (0.02, 1 / 3)  # share of the image
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASING_TRIES = 10  # boxes that may not fit, before the image stays whole

# In this order they are drawn.
RANDAUGMENT_OPERATIONS = (
  'autocontrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'solarize_add', 'color', 'contrast',
  'brightness', 'sharpness', 'cutout', 'shear_x', 'shear_y', 'shift_x', 'shift_y',
)  # fmt: skip
SIGNED_OPERATIONS = ('rotate', 'shear_x', 'shear_y', 'shift_x', 'shift_y')


def strength(name: str, level: float) -> float:
  """Returns the number that an operation works with, at a level of which 10 is the scale.

  Args:
    name: one of RANDAUGMENT_OPERATIONS.
    level: RandAugment's magnitude.

  Returns:
    rotate: degrees. shear_x, shear_y: pixels per pixel. shift_x, shift_y: pixels. posterize: bits that are kept.
    solarize: smallest value that is inverted. solarize_add: what is added to dark values. color, contrast, brightness,
    sharpness: 0 removes it, 1 leaves the image, more exaggerates. cutout: half of the square's side, pixels. The other
    operations have none: 0.

  Source: AugReg's code (arXiv 2106.10270), after 1909.13719.
  """
  share = level / _MAX_LEVEL
  if name in ('color', 'contrast', 'brightness', 'sharpness'):
    return share * 1.8 + 0.1
  if name in _LARGEST:
    return share * _LARGEST[name]
  if name in _LARGEST_WHOLE:
    return int(share * _LARGEST_WHOLE[name])
  return 0.0


_LARGEST = {'rotate': 30, 'shear_x': 0.3, 'shear_y': 0.3, 'shift_x': 100, 'shift_y': 100}
_LARGEST_WHOLE = {'posterize': 4, 'solarize': 256, 'solarize_add': 110, 'cutout': 40}
