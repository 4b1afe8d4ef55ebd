"""Bounds from data sheets, checked against arithmetic by hand."""

import dataclasses
import types

import pytest

from vitjax.config.schema import ModelConfig
from vitjax.parallel.hardware import HARDWARE, PEAK_FLOPS_PER_S
from vitjax.planning.collectives import Collective
from vitjax.planning.roofline import Roofline, collective_seconds, recompute_factor


def tpus(shape, slices=1):
  """Returns stand-ins of the devices of TPU slices."""
  x, y = shape
  return [
    types.SimpleNamespace(platform='tpu', slice_index=s, process_index=0, coords=(i, j, 0))
    for s in range(slices)
    for i in range(x)
    for j in range(y)
  ]


def collective(kind, group, size, count=1):
  return Collective(kind, ('fsdp',), tuple(group), size, count, False, '', '')


def test_every_data_sheet_is_complete():
  for hardware in HARDWARE.values():
    assert hardware.kind in PEAK_FLOPS_PER_S
    for field in dataclasses.fields(hardware):
      value = getattr(hardware, field.name)
      assert not isinstance(value, int | float) or value > 0


def test_a_ring_uses_both_directions_and_a_line_one():
  v5e = HARDWARE['v5e']
  ring = collective('all-gather', range(16), 16_000_000)
  assert collective_seconds(ring, tpus((1, 16)), v5e) == pytest.approx(15e6 / (2 * 50e9))
  line = collective('all-gather', range(8), 16_000_000)
  assert collective_seconds(line, tpus((1, 8)), v5e) == pytest.approx(14e6 / 50e9)


def test_a_group_over_two_axes_uses_the_links_of_both():
  whole = collective('all-reduce', range(256), 256_000_000, count=3)
  assert collective_seconds(whole, tpus((16, 16)), HARDWARE['v5e']) == pytest.approx(
    3 * 2 * 255e6 / (4 * 50e9)
  )


def test_between_slices_each_device_sends_its_part_over_the_slow_network():
  v6e = HARDWARE['v6e']
  both = collective('all-reduce', range(32), 32_000_000)
  fast, slow = 2 * 30e6 / (2 * 100e9), 2 / 2 * 2e6 / v6e.outer_bytes_per_s
  assert collective_seconds(both, tpus((1, 16), slices=2), v6e) == pytest.approx(fast + slow)


def test_gpus_talk_through_nvlink_within_a_node():
  gpus = [types.SimpleNamespace(platform='gpu', process_index=i // 8) for i in range(16)]
  h100 = HARDWARE['h100']
  inside = collective('reduce-scatter', range(8), 8_000_000)
  assert collective_seconds(inside, gpus, h100) == pytest.approx(7e6 / 450e9)
  across = collective('all-gather', range(16), 16_000_000)
  assert collective_seconds(across, gpus, h100) == pytest.approx(14e6 / 450e9 + 1e6 / 50e9)


def test_recomputation():
  assert recompute_factor(ModelConfig(variant='H/14', remat='none'), (224, 224)) == 1
  assert recompute_factor(ModelConfig(variant='H/14', remat='full'), (224, 224)) == pytest.approx(4 / 3)
  assert 1.0 < recompute_factor(ModelConfig(variant='H/14', remat='dots'), (224, 224)) < 1.03


def test_the_bound_is_the_largest_resource_and_exposed_communication_adds_to_it():
  bounds = Roofline(0.08, 0.03, 0.05, 0.02, model_flops=8e12, peak_flops_per_s=1e14)
  assert (bounds.step_s, bounds.limit) == (0.08, 'compute')
  assert bounds.exposed_step_s == pytest.approx(0.1)
  assert bounds.mfu(bounds.exposed_step_s) == pytest.approx(0.8)
