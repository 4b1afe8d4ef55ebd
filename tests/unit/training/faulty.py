"""`vitjax` with a fault on this process: FAULT=KIND@STEP happens where the batch of that step is asked for.

sleep: waits for ever.  raise: an exception.  nan: the loss of this step is not finite.  slow: every batch from then
on takes half a second.
"""

import importlib
import os
import time

from vitjax.cli.main import program

KIND, _, STEP = os.environ['FAULT'].partition('@')


def install():
  module = importlib.import_module('vitjax.training.build')
  real = module.Run.batches

  def batches(self, start):
    for step, batch in enumerate(real(self, start), start + 1):
      if KIND == 'slow' and step >= int(STEP):
        time.sleep(0.5)
      if KIND == 'sleep' and step == int(STEP):
        time.sleep(1e6)
      if KIND == 'raise' and step == int(STEP):
        raise RuntimeError('no space left on this device')
      yield batch

  module.Run.batches = batches


if __name__ == '__main__':
  if KIND:
    install()
  program()
