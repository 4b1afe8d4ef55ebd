"""The start: what runs side by side, where it looks first, and what it reports."""

import shutil
import threading
import time

import pytest
import tiny

from vitjax.checkpoint import Store
from vitjax.errors import DataError
from vitjax.training import build, train
from vitjax.training.goodput import Clock
from vitjax.training.metrics import read_metrics
from vitjax.training.resume import Progress
from vitjax.training.startup import start
from vitjax.training.timeline import Timeline


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """Returns the workdir of a run of ten steps; to be copied before it is changed."""
  workdir = tmp_path_factory.mktemp('trained')
  timeline = Timeline(elapsed_s=None)
  timeline.lap('imports')
  run = build(tiny.tiny_recipe(stop_after='10 steps'))
  timeline.lap('build')
  train(run, workdir, timeline=timeline)
  return workdir


def test_the_first_row_says_where_the_start_went(trained):
  first, *later = read_metrics(trained)
  parts = {name[len('perf/start_') : -len('_s')] for name in first if name.startswith('perf/start_')}
  assert parts == {'imports', 'build', 'ready', 'first_step', 'init', 'compile', 'first_batch', 'total'}
  consecutive = sum(first[f'perf/start_{name}_s'] for name in ('imports', 'build', 'ready', 'first_step'))
  assert first['perf/start_total_s'] == pytest.approx(consecutive)
  assert first['perf/start_compile_s'] <= first['perf/start_ready_s']
  assert not any(name.startswith('perf/start') for row in later for name in row)


def test_compilation_and_input_run_beside_the_restore(tmp_path, monkeypatch):
  run = build(tiny.tiny_recipe())
  together = threading.Barrier(3, timeout=20)
  monkeypatch.setattr(
    'vitjax.training.startup.restore_or_init', lambda run, store: (together.wait(), Progress())
  )
  monkeypatch.setattr('vitjax.training.startup._compile', lambda run, timeline: together.wait())

  class Input:
    def __init__(self, *_):
      together.wait()

    def __iter__(self):
      return iter(())

    def close(self):
      pass

  monkeypatch.setattr('vitjax.training.startup._Input', Input)
  with Store(tmp_path, run.recipe.checkpoint) as store, start(run, store, Clock(), Timeline()):
    pass


def test_the_input_is_opened_again_where_the_sound_checkpoint_stands(trained, tmp_path, monkeypatch):
  shutil.copytree(trained, tmp_path / 'run')
  for array in (tmp_path / 'run/checkpoints/10').rglob('d/*'):
    array.write_bytes(b'damaged')
  run = build(tiny.tiny_recipe(stop_after='12 steps'))
  asked = []
  real = type(run).batches
  monkeypatch.setattr(type(run), 'batches', lambda self, step: (asked.append(step), real(self, step))[1])
  with (
    Store(tmp_path / 'run', run.recipe.checkpoint) as store,
    start(run, store, Clock(), Timeline()) as ready,
  ):
    assert ready.progress.step == 5
    assert len(list(zip(range(2), ready.batches, strict=False))) == 2
  assert asked == [10, 5]


def test_a_finished_run_compiles_and_opens_nothing(trained, monkeypatch):
  run = build(tiny.tiny_recipe(stop_after='10 steps'))
  monkeypatch.setattr(type(run), 'batches', None)
  monkeypatch.setattr('vitjax.training.startup._compile', None)
  before = read_metrics(trained)
  assert train(run, trained) == {name: before[-1][name] for name in before[-1] if name.startswith('val/')}
  assert read_metrics(trained) == before


def test_an_input_that_cannot_be_opened_stops_the_start(tmp_path, monkeypatch):
  run = build(tiny.tiny_recipe())

  def broken(self, step):
    raise DataError('no such record')
    yield

  monkeypatch.setattr(type(run), 'batches', broken)
  with pytest.raises(DataError, match='no such record'):
    train(run, tmp_path)


def test_the_age_of_the_process_is_part_of_the_timeline():
  timeline = Timeline(elapsed_s=None)
  began = time.perf_counter()
  timeline.lap('imports')
  timeline.finish()
  assert timeline.metrics()['perf/start_total_s'] > time.perf_counter() - began
  assert str(timeline).startswith('first step done after ')
