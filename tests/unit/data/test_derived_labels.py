"""Classes that are counted, binned or read off objects."""

import types

import numpy as np
import pytest

from vitjax.data.derived_labels import DERIVED_LABELS


def ints(*values):
  return types.SimpleNamespace(int64_list=types.SimpleNamespace(value=list(values)))


def places(*distances):
  flat = np.stack([np.zeros(len(distances)), np.ones(len(distances)), distances], -1).ravel()
  return types.SimpleNamespace(float_list=types.SimpleNamespace(value=list(flat)))


@pytest.mark.parametrize(
  ('name', 'features', 'label'),
  [
    ('clevr_count', {'objects/size': ints(0, 1, 0)}, 0),
    ('clevr_count', {'objects/size': ints(*[0] * 10)}, 7),
    ('clevr_distance', {'objects/pixel_coords': places(9.7, 7.9, 12.0)}, 0),
    ('clevr_distance', {'objects/pixel_coords': places(8.2)}, 1),
    ('clevr_distance', {'objects/pixel_coords': places(10.5, 11.0)}, 5),
    ('kitti_distance', {'objects/location': places(-3.0, 9.0), 'objects/type': ints(0, 2)}, 0),
    ('kitti_distance', {'objects/location': places(5.0, 9.0), 'objects/type': ints(3, 2)}, 1),
    ('kitti_distance', {'objects/location': places(5.0, 30.0), 'objects/type': ints(7, 0)}, 2),
    ('kitti_distance', {'objects/location': places(5.0), 'objects/type': ints(7)}, 3),
    ('kitti_distance', {}, 3),
    ('dsprites_location', {'label_x_position': ints(0)}, 0),
    ('dsprites_location', {'label_x_position': ints(31)}, 15),
    ('dsprites_orientation', {'label_orientation': ints(2)}, 0),
    ('dsprites_orientation', {'label_orientation': ints(3)}, 1),
    ('dsprites_orientation', {'label_orientation': ints(39)}, 15),
  ],
)
def test_label(name, features, label):
  assert DERIVED_LABELS[name](features) == label


def test_every_class_has_a_name():
  sizes = {name: len(derived.class_names) for name, derived in DERIVED_LABELS.items()}
  assert sizes == {
    'clevr_count': 8, 'clevr_distance': 6, 'kitti_distance': 4, 'dsprites_location': 16, 'dsprites_orientation': 16,
  }  # fmt: skip
  names = DERIVED_LABELS['dsprites_orientation'].class_names
  assert names[:3] == ('0..2', '3..4', '5..7')
