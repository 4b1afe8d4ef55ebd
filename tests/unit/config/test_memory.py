"""config.memory: when the allocator is changed, and when it is left alone."""

from __future__ import annotations

import pytest

from vitjax.config import memory


@pytest.mark.parametrize('name', ['MALLOC_ARENA_MAX', 'GLIBC_TUNABLES'])
def test_an_allocator_that_the_user_sets_up_is_left_alone(name, monkeypatch):
  monkeypatch.setenv(name, '2')
  assert not memory.keep_freed_memory()


@pytest.mark.parametrize(
  ('platforms', 'expected'), [('cpu', True), ('cuda', False), ('tpu,cpu', False), ('cuda,cpu', False)]
)
def test_platforms_that_the_user_names_decide(platforms, expected, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', platforms)
  assert memory.computes_on_cpu() is expected


def test_device_files_decide_otherwise(tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  monkeypatch.setattr(memory, '_DEV', tmp_path)
  assert memory.computes_on_cpu()
  (tmp_path / 'nvidia0').touch()
  assert not memory.computes_on_cpu()
