"""`vitjax ...` that writes the ids of all training examples, as they leave the input pipeline, to $RECORD-PID.jsonl."""

import json
import os
import pathlib

from vitjax.cli.main import program
from vitjax.data.pipeline import Batches

_init, _next = Batches.__init__, Batches.__next__


def init(self, *args, start_step, num_batches, **kwargs):
  _init(self, *args, start_step=start_step, num_batches=num_batches, **kwargs)
  self.step = None if num_batches is not None else start_step  # None: an evaluation


def next_recorded(self):
  batch = _next(self)
  if self.step is not None:
    self.step += 1
    with pathlib.Path(f'{os.environ["RECORD"]}-{os.getpid()}.jsonl').open('a') as record:
      record.write(json.dumps({'step': self.step, 'ids': batch['index'].tolist()}) + '\n')
  return batch


Batches.__init__, Batches.__next__ = init, next_recorded

if __name__ == '__main__':
  program()
