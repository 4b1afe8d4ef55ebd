"""Input worker processes: deaf to termination signals while the main process lives, gone when it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent import futures
from multiprocessing import resource_tracker

import grain
import numpy as np

# What tells the main process to leave: Ctrl-C, and training/preemption.py's signals.
_DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


def start_workers(iterator: grain.DatasetIterator) -> futures.Future[dict[str, np.ndarray]]:
  """Starts the worker processes, deaf to signals that mean 'leave' from the start; returns the first batch to come.

  A signal to the whole process group would otherwise end workers that are still importing, before `init_worker`.
  Grain starts them from threads, at the first batch. Threads and processes inherit the signal mask of the thread
  that makes them, so a thread with these signals blocked asks for that batch; the main thread's mask stays.
  """
  # Python's resource tracker starts with the first process and would unblock the signals in passing. It is itself
  # deaf to SIGTERM and Ctrl-C alone.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _DEAF_TO)
  resource_tracker.ensure_running()
  signal.pthread_sigmask(signal.SIG_SETMASK, before)
  blocked = (signal.SIG_BLOCK, _DEAF_TO)
  starter = futures.ThreadPoolExecutor(1, 'input-start', signal.pthread_sigmask, blocked)
  first = starter.submit(next, iterator)
  starter.shutdown(wait=False)
  return first


def init_worker(worker: int, num_workers: int) -> None:
  """Lets a worker outlive the signals that mean 'leave': the main process saves first and ends its workers itself.

  When the main process is killed, nobody is left to end them: they leave on their own.
  """
  del worker, num_workers
  for number in _DEAF_TO:
    signal.signal(number, signal.SIG_IGN)
  threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)
