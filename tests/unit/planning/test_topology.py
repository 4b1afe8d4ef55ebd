"""Topologies by name, and what is said when their compiler is missing."""

import importlib.util

import pytest

from vitjax.errors import ConfigError
from vitjax.planning import topology as topologies
from vitjax.planning.topology import PlanError, Topology, describe_devices


@pytest.mark.parametrize(
  ('text', 'kind', 'shape', 'slices', 'devices', 'platform'),
  [
    ('v5e:16x16', 'v5e', (16, 16), 1, 256, 'tpu'),
    ('v5p:8x8x8', 'v5p', (8, 8, 8), 1, 512, 'tpu'),
    ('2xv6e:16x16', 'v6e', (16, 16), 2, 512, 'tpu'),
    ('h100:8x4', 'h100', (8, 4), 1, 32, 'cuda'),
    ('cpu:512', 'cpu', (512,), 1, 512, 'cpu'),
  ],
)
def test_names(text, kind, shape, slices, devices, platform):
  parsed = Topology.parse(text)
  assert (parsed.kind, parsed.shape, parsed.num_slices) == (kind, shape, slices)
  assert (parsed.num_devices, parsed.platform) == (devices, platform)
  assert (parsed.hardware is None) == (kind == 'cpu')


@pytest.mark.parametrize(
  'text', ['v5e', 'v9:2x2', 'v5e:16', 'v5p:8x8', '2xh100:8x4', 'cpu:0', 'cpu:2x2', 'v5e:0x4', '']
)
def test_others_are_refused_with_examples(text):
  with pytest.raises(ConfigError, match=r'--topology.*v5e:16x16|one slice'):
    Topology.parse(text)


@pytest.mark.parametrize(('text', 'extra'), [('v5e:4x4', r'vitjax\[plan\]'), ('h100:8x1', r'vitjax\[cuda\]')])
def test_a_missing_compiler_is_named_with_the_pip_line(monkeypatch, text, extra):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(PlanError, match=rf'pip install "{extra}"'):
    describe_devices(Topology.parse(text))


def test_virtual_devices():
  assert len(describe_devices(Topology.parse('cpu:8'))) == 8
  with pytest.raises(PlanError, match='at most the 8 virtual devices'):
    describe_devices(Topology.parse('cpu:9'))


def test_what_libtpu_prints_is_held_back_unless_something_fails(capfd):
  import os

  with topologies._quiet_stderr():
    os.write(2, b'noise')
  assert 'noise' not in capfd.readouterr().err
  with pytest.raises(RuntimeError), topologies._quiet_stderr():
    os.write(2, b'reason')
    raise RuntimeError
  assert 'reason' in capfd.readouterr().err
