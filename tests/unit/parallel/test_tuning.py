"""parallel.tuning: which row of the table a device gets, and what the user's own settings keep."""

from __future__ import annotations

import types

import pytest

from vitjax.config.schema import ModelConfig
from vitjax.parallel import tuning


def device(platform, **more):
  return types.SimpleNamespace(platform=platform, **more)


@pytest.mark.parametrize(
  ('found', 'name'),
  [
    (device('gpu', compute_capability='9.0'), 'gpu-sm80'),
    (device('cuda', compute_capability='8.0'), 'gpu-sm80'),
    (device('gpu', compute_capability='10.3'), 'gpu-sm80'),
    (device('gpu', compute_capability='7.5'), 'gpu'),
    (device('gpu', compute_capability='gfx942'), 'gpu'),
    (device('tpu'), 'tpu'),
  ],
)
def test_class_of_a_device(found, name):
  assert tuning.device_class(found) == name
  assert name in tuning.TUNING


@pytest.mark.parametrize(
  ('knob', 'name', 'form'),
  [
    ('auto', 'gpu-sm80', 'cudnn'),
    ('plain', 'gpu-sm80', 'plain'),
    ('auto', 'tpu', 'plain'),
    ('cudnn', 'cpu', 'plain'),
    ('cudnn', 'gpu', 'plain'),
    ('auto', 'some new kind', 'plain'),
    ('auto', None, 'plain'),
  ],
)
def test_attention_by_class(knob, name, form):
  assert tuning.attention_for(ModelConfig(attention=knob), name) == form


def test_options_that_the_user_sets_are_left_alone(monkeypatch):
  monkeypatch.delenv('XLA_FLAGS')
  region = {'xla_cpu_copy_insertion_use_region_analysis': True}
  assert tuning.compiler_options('cpu-avx512') == {**region, 'xla_cpu_prefer_vector_width': 512}
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_prefer_vector_width=256')
  assert tuning.compiler_options('cpu-avx512') == region
