"""`vitjax ...` whose first stretch under SLURM waits a while before each batch, so that a signal finds it training."""

import os
import time

from vitjax.cli.main import program
from vitjax.data.pipeline import Batches

_next = Batches.__next__


def slow_next(self):
  time.sleep(0.25)
  return _next(self)


if 'SLURM_RESTART_COUNT' not in os.environ:
  Batches.__next__ = slow_next

if __name__ == '__main__':
  program()
