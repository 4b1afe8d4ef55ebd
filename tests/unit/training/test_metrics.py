"""The metric log on disk."""

import errno
import json
import os

from vitjax.training.metrics import MetricsWriter, read_metrics


def test_log_torn_by_a_kill_is_read_and_repaired(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(
    ''.join(json.dumps({'step': s, 'train/loss': 1.0}) + '\n' for s in range(1, 8)) + '{"step": 8, "tr'
  )
  writer = MetricsWriter(tmp_path, start_step=5, tensorboard=False)
  writer.write(6, {'train/loss': 0.5})
  writer.close()
  assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_rows_wait_in_memory_while_the_disk_is_full(tmp_path, monkeypatch, caplog):
  writer, write = MetricsWriter(tmp_path, start_step=0, tensorboard=False), os.write
  writer.write(1, {'a': 1.0})

  def full(descriptor, data):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(os, 'write', full)
    writer.write(2, {'a': 2.0})
    writer.write(3, {'a': 3.0})
  assert caplog.text.count('No space left on device; rows wait in memory') == 1
  with monkeypatch.context() as patch:
    patch.setattr(os, 'write', lambda descriptor, data: write(descriptor, data[:7]))
    writer.write(4, {'a': 4.0})
  writer.close()
  assert [row['step'] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
