"""N processes of vitjax on this machine, with D virtual CPU devices each.

  python -m launch local --processes=4 --devices=2 -- train --config=configs/quickstart.py --workdir=runs/mnist

Each line of output starts with the rank that wrote it. When one process fails, the others are ended. SIGTERM, Ctrl-C
and the closing of the terminal go on to all; when this launcher itself is killed, they save and leave. The exit code is
that of the first process that failed; 42, asking for another start, if all of them were preempted and saved.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from vitjax.errors import ConfigError, Problem

EXIT_RESTART = 42
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
# util-linux's; elsewhere, processes outlive a launcher that is killed with SIGKILL. The signal comes when the thread
# that started them ends.
_SETPRIV = shutil.which('setpriv')
_ENDS_WITH_LAUNCHER = () if _SETPRIV is None else (_SETPRIV, '--pdeathsig', 'TERM')
_DEVICE_FLAG = '--xla_force_host_platform_device_count'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument('--processes', type=int, default=2, metavar='N', help='how many processes (2)')
  parser.add_argument('--devices', type=int, default=1, metavar='D', help='virtual CPU devices of each (1)')
  parser.add_argument(
    '--grace_s',
    type=float,
    default=10.0,
    metavar='S',
    help='seconds from SIGTERM to SIGKILL for siblings (10)',
  )
  parser.add_argument(
    '--port', type=int, default=0, metavar='P', help='coordinator port on 127.0.0.1 (a free one)'
  )
  parser.add_argument(
    'command', nargs='+', metavar='COMMAND', help='a vitjax command with its flags, after --'
  )


def run(args: argparse.Namespace) -> int:
  """Runs the processes to their end; returns the exit code."""
  numbers = (('--processes', args.processes), ('--devices', args.devices))
  problems = [Problem(flag, str(number), 'at least 1') for flag, number in numbers if number < 1]
  if problems:
    raise ConfigError('Nothing to start.', problems)
  command = [sys.executable, '-u', '-m', 'vitjax', *args.command]
  return run_processes(command, args.processes, devices=args.devices, grace_s=args.grace_s, port=args.port)


def free_port() -> int:
  """Returns a TCP port that is free on 127.0.0.1 now."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def environment(
  rank: int, processes: int, devices: int, port: int, base: Mapping[str, str]
) -> dict[str, str]:
  """Returns the environment of one process."""
  old_flags = base['XLA_FLAGS'].split() if 'XLA_FLAGS' in base else []
  flags = [flag for flag in old_flags if not flag.startswith(_DEVICE_FLAG)]
  return {
    **base,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': ' '.join([*flags, f'{_DEVICE_FLAG}={devices}']),
    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
    'JAX_NUM_PROCESSES': str(processes),
    'JAX_PROCESS_ID': str(rank),
  }


def run_processes(
  command: Sequence[str],
  processes: int,
  *,
  devices: int = 1,
  grace_s: float = 10.0,
  port: int = 0,
  out: BinaryIO | None = None,
  started: Callable[[list[subprocess.Popen[bytes]]], None] | None = None,
) -> int:
  """Runs `command` in several processes until all have ended; returns the exit code.

  Args:
    command: argv of each process.
    processes: how many.
    devices: virtual CPU devices of each.
    grace_s: from SIGTERM to SIGKILL for the siblings of a process that failed.
    port: of the coordinator on 127.0.0.1; 0: a free one.
    out: where all output goes, each line after '[rank] '; None: standard output.
    started: called with the processes once they run.

  Returns:
    0 if all succeeded, else the code of the process that failed first (128 + signal for a killed one). A process
    that leaves with 42 has been preempted, as its peers will be by themselves: that ends nobody else.
  """
  port = port or free_port()
  out = sys.stdout.buffer if out is None else out
  group = _Group(out, grace_s)
  with group.forwarding_signals():
    for rank in range(processes):
      group.start(command, environment(rank, processes, devices, port, os.environ))
    if started is not None:
      started(group.processes)
    return group.wait()


class _Group:
  """Processes that live and die together."""

  def __init__(self, out: BinaryIO, grace_s: float):
    self.processes: list[subprocess.Popen[bytes]] = []
    self._out, self._grace_s = out, grace_s
    self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    self._write_lock = threading.Lock()
    self._threads: list[threading.Thread] = []

  def start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
    # A session of its own: Ctrl-C reaches it once, from here.
    process = subprocess.Popen(
      [*_ENDS_WITH_LAUNCHER, *command],
      env=env,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )
    rank = len(self.processes)
    self.processes.append(process)
    reader = threading.Thread(target=self._copy, args=(rank, process.stdout), daemon=True)
    self._threads.append(reader)
    reader.start()
    threading.Thread(target=self._await, args=(rank,), daemon=True).start()

  def _await(self, rank: int) -> None:
    self.processes[rank].wait()
    self._ended.put(rank)

  def wait(self) -> int:
    """Returns the exit code of the group when all have ended."""
    code, kill_at = 0, None
    for _ in self.processes:
      while True:
        try:
          rank = self._ended.get(timeout=None if kill_at is None else max(0.0, kill_at - time.monotonic()))
          break
        except queue.Empty:
          self._signal(signal.SIGKILL)
          kill_at = None
      status = self.processes[rank].returncode
      own = 128 - status if status < 0 else status
      if own in (0, EXIT_RESTART):
        code = code or own
      else:
        if kill_at is None and (code in (0, EXIT_RESTART)):
          code = own
          self._say(f'process {rank} ended with {own}; ending the others')
          # jax's peers of a dead process abort by themselves; this ends those that would wait for it.
          self._signal(signal.SIGTERM)
          kill_at = time.monotonic() + self._grace_s
    for reader in self._threads:
      reader.join(2.0)
    return code

  @contextlib.contextmanager
  def forwarding_signals(self):
    """Hands signals on to all processes while the block runs; leaves no process behind."""

    def forward(number, frame):
      del frame
      self._signal(signal.Signals(number))

    old = {}
    if threading.current_thread() is threading.main_thread():
      ignored = [n for n in _FORWARDED if signal.getsignal(n) == signal.SIG_IGN]  # SIGHUP under nohup
      old = {number: signal.signal(number, forward) for number in _FORWARDED if number not in ignored}
    try:
      yield
    finally:
      self._signal(signal.SIGKILL)
      for number, handler in old.items():
        signal.signal(number, handler)

  def _signal(self, number: signal.Signals) -> None:
    for process in self.processes:
      if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
          # Its input workers as well, when they must go.
          os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)

  def _copy(self, rank: int, stream: BinaryIO) -> None:
    with stream:
      for line in stream:
        self._write(f'[{rank}] '.encode() + line.rstrip(b'\n') + b'\n')

  def _say(self, text: str) -> None:
    self._write(f'launch local: {text}\n'.encode())

  def _write(self, line: bytes) -> None:
    # A terminal that was closed ends neither the run nor the reading of what its processes say.
    with self._write_lock, contextlib.suppress(OSError):
      self._out.write(line)
      self._out.flush()
