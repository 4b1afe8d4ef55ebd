"""A job that gets nowhere is stopped, with the cause."""

import json

import pytest
import tiny

from vitjax.errors import Preempted, TrainingError
from vitjax.training import build, train
from vitjax.training.restarts import CrashLoop


def crash(workdir, step, error):
  with pytest.raises(type(error)), CrashLoop(workdir, step, 3):
    raise error


def test_the_fourth_start_without_progress_is_refused_with_the_cause(tmp_path):
  for _ in range(3):
    crash(tmp_path, 5, RuntimeError('no such device'))
  with pytest.raises(
    TrainingError, match=r'(?s)3 starts in a row got no further than step 5.*no such device'
  ):
    CrashLoop(tmp_path, 5, 3)
  CrashLoop(tmp_path, 5, None)
  (tmp_path / 'starts.json').unlink()
  CrashLoop(tmp_path, 5, 3)


def test_progress_starts_the_count_again(tmp_path):
  for step in (0, 0, 0, 5, 5, 5, 10):
    crash(tmp_path, step, RuntimeError('x'))
  assert json.loads((tmp_path / 'starts.json').read_text())['starts'] == 1


def test_being_told_to_leave_does_not_count(tmp_path):
  for error in (RuntimeError('x'), RuntimeError('x'), Preempted('SIGTERM'), *[RuntimeError('x')] * 3):
    crash(tmp_path, 5, error)
  with pytest.raises(TrainingError):
    CrashLoop(tmp_path, 5, 3)


def test_a_kill_is_counted_and_a_broken_file_is_not_trusted(tmp_path):
  for _ in range(3):
    CrashLoop(tmp_path, 0, 3)  # nothing is said at the end
  with pytest.raises(TrainingError, match='ended without a word'):
    CrashLoop(tmp_path, 0, 3)
  (tmp_path / 'starts.json').write_text('{"starts": ')
  CrashLoop(tmp_path, 0, 3)


def test_a_run_that_ends_well_leaves_no_count(tmp_path):
  train(build(tiny.tiny_recipe(stop_after='2 steps')), tmp_path)
  assert not (tmp_path / 'starts.json').exists()


def test_a_disk_that_takes_nothing_does_not_hide_why_the_run_ended(tmp_path, caplog, monkeypatch):
  def refuse(*args, **kwargs):
    raise OSError(30, 'Read-only file system')

  with pytest.raises(RuntimeError, match='the cause'), CrashLoop(tmp_path, 5, 3):
    monkeypatch.setattr(type(tmp_path), 'write_text', refuse)
    raise RuntimeError('the cause')
  assert 'Read-only file system; this start is not counted' in caplog.text
