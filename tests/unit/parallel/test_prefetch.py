"""Results come in order, ahead of their use; errors keep their place and their message; close ends the thread."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from vitjax.config.schema import ParallelConfig
from vitjax.errors import DataError
from vitjax.parallel.mesh import make_mesh, to_global
from vitjax.parallel.prefetch import Prefetch


def running():
  return [thread for thread in threading.enumerate() if thread.name == 'device-prefetch']


def test_all_items_in_order_and_then_the_end():
  ahead = Prefetch(iter(range(7)), lambda i: i * i)
  assert list(ahead) == [i * i for i in range(7)]
  assert list(ahead) == []
  ahead.close()
  assert not running()


def test_the_next_transfer_runs_while_this_one_is_used():
  """Not by the clock: the consumer holds item 0 until item 1 was transferred, which needs a second thread."""
  transferred = {i: threading.Event() for i in range(3)}

  def transfer(i):
    transferred[i].set()
    return i

  ahead = Prefetch(iter(range(3)), transfer)
  assert next(ahead) == 0
  assert transferred[1].wait(timeout=10)
  assert transferred[2].wait(timeout=10)
  ahead.close()


def test_it_runs_ahead_by_no_more_than_two():
  taken = []

  def items():
    for i in itertools.count():
      taken.append(i)
      yield i

  ahead = Prefetch(items(), lambda i: i)
  assert next(ahead) == 0
  time.sleep(0.3)
  assert taken == [0, 1, 2]
  ahead.close()


@pytest.mark.parametrize('where', ['items', 'transfer'])
def test_an_error_comes_after_the_items_before_it(where):
  def items():
    yield 0
    yield 1
    if where == 'items':
      raise DataError('3 unreadable records of 9')

  def transfer(i):
    if where == 'transfer' and i == 1:
      raise DataError('3 unreadable records of 9')
    return i

  ahead = Prefetch(items(), transfer)
  good = [next(ahead)]
  with pytest.raises(DataError, match='3 unreadable records of 9'):
    good.extend(ahead)
  assert good == ([0, 1] if where == 'items' else [0])
  assert list(ahead) == []
  ahead.close()


def test_close_ends_a_thread_that_waits_for_room():
  ahead = Prefetch(itertools.count(), lambda i: i)
  assert next(ahead) == 0
  ahead.close()
  ahead.close()
  assert not running()
  assert list(ahead) == []


def test_batches_arrive_on_the_mesh():
  mesh = make_mesh(ParallelConfig())
  rows = [np.arange(8) + 8 * i for i in range(3)]
  ahead = Prefetch(iter(rows), lambda x: to_global(mesh, {'x': x})['x'])
  for expected, found in zip(rows, ahead, strict=True):
    assert isinstance(found, jax.Array)
    np.testing.assert_array_equal(np.asarray(found), expected)
  ahead.close()
