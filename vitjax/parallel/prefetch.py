"""Batches moved to the devices ahead of the step that needs them, by a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar('T')
_END = object()


class Prefetch(Generic[T]):
  """An iterator over transfer(item), made by a background thread up to two items ahead. Close it.

  Order and number of items are those of `items`, so a run resumes at any step as it would without. An exception of
  `items` or `transfer` is raised here, as it is, after the items that came before it.

  Args:
    items: what to take from, by the background thread alone.
    transfer: applied to each item by the background thread, such as `to_global`.
  """

  def __init__(self, items: Iterator[Any], transfer: Callable[[Any], T]):
    self._items = items
    self._transfer = transfer
    # One result waits here and the next in the thread's hands: device memory holds these two and the one in use.
    self._ready: queue.Queue[Any] = queue.Queue(maxsize=1)
    self._stopping = threading.Event()
    self._finished = False
    # A daemon, so that a thread that hangs in a dead file system does not keep the process.
    self._thread = threading.Thread(target=self._work, name='device-prefetch', daemon=True)
    self._thread.start()

  def _work(self) -> None:
    try:
      while not self._stopping.is_set():
        self._put((self._transfer(next(self._items)), None))
    except StopIteration:
      self._put((_END, None))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the items are used
      self._put((_END, error))

  def _put(self, entry: Any) -> None:
    """Waits for room, unless the consumer is gone."""
    while not self._stopping.is_set():
      try:
        return self._ready.put(entry, timeout=0.1)
      except queue.Full:
        continue
    return None

  def __iter__(self) -> Iterator[T]:
    return self

  def __next__(self) -> T:
    """Returns the next result, waiting for it; raises what `items` or `transfer` raised in its place."""
    if self._finished:
      raise StopIteration
    result, error = self._ready.get()
    if result is _END:
      self._finished = True
      raise StopIteration if error is None else error
    return result

  def close(self) -> None:
    """Ends the thread, after the item it works on; drops what is ready. Does nothing the second time."""
    self._finished = True
    self._stopping.set()
    self._thread.join()
    while not self._ready.empty():
      self._ready.get_nowait()
