"""Who is there: all processes report to process 0 before jax joins them.

jax's own start ends in a C++ abort without names when a process is missing, when two disagree on how many there
are, or when two have the same rank. Here each process connects to the coordinator's port first, says its rank and
its number of processes, and waits; process 0 answers when all are there, or says to all what is wrong.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import selectors
import socket
import time

from vitjax.errors import ConfigError, Problem, TrainingError, VitjaxError

_MAX_LINE = 512
_RETRY_S = 0.2
# How long a refusal goes on being told to processes that are still coming up, and how long the others may take
# to hang up first, which leaves the port free for jax.
_REFUSE_S, _HANG_UP_S = 3.0, 2.0
# A process that reported leaves it to process 0 to say who is missing.
_GRACE_S = 5.0
_START_KNOB = 'resilience.start_timeout_s'


def split_address(address: str) -> tuple[str, int]:
  """Returns (host, port) of 'host:port' or '[v6 address]:port'."""
  host, _, port = address.rpartition(':')
  return host.strip('[]'), int(port)


def is_loopback(address: str) -> bool:
  """Returns whether 'host:port' can only be reached from this machine. Names other than localhost count as not."""
  host, _ = split_address(address)
  if host == 'localhost':
    return True
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return False


def roll_call(address: str, rank: int, num_processes: int, timeout_s: float, said_by: str = '') -> None:
  """Returns when all processes of the run have reported, each with the same number of processes.

  Args:
    address: 'host:port' of process 0. It listens there, on loopback alone if that is a loopback address.
    rank: of this process.
    num_processes: of the run, as this process was told.
    timeout_s: how long to wait for the others.
    said_by: the flag or variable that num_processes comes from, for messages.

  Raises:
    ConfigError: the port is taken, two processes have one rank, or they disagree on their number; on all.
    TrainingError: the time is over; process 0 and those that reported name the missing ranks.
  """
  if rank == 0:
    with contextlib.closing(_Register(address, num_processes, said_by)) as register:
      register.collect(time.monotonic() + timeout_s, timeout_s)
  else:
    _report(address, rank, num_processes, timeout_s)


class _Register:
  """Process 0's side: who has reported so far."""

  def __init__(self, address: str, num_processes: int, said_by: str):
    self._count, self._said_by = num_processes, said_by or 'its number of processes'
    self._server = _listen(address)
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._server, selectors.EVENT_READ)
    self._lines: dict[socket.socket, bytes] = {}
    self._present: dict[int, socket.socket] = {}

  def collect(self, deadline: float, timeout_s: float) -> None:
    """Returns when all have reported; tells all of them, and raises, when something is wrong."""
    while len(self._present) < self._count - 1:
      error = self._serve(deadline)
      if error is None and time.monotonic() >= deadline:
        missing = [rank for rank in range(1, self._count) if rank not in self._present]
        error = TrainingError(
          f'{len(missing)} of {self._count} processes did not start: {_listed(missing)}.',
          [
            Problem(
              _START_KNOB,
              f'{timeout_s:g}',
              'all processes within this time',
              'See the logs of the missing ones',
            )
          ],
        )
      if error is not None:
        self._refuse(error)
        raise error
    self._tell_all({'start': True})
    self._drain(time.monotonic() + _HANG_UP_S)

  def _serve(self, deadline: float) -> VitjaxError | None:
    """Waits for one event; returns what is wrong with the report it brought, if anything."""
    for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
      if key.fileobj is self._server:
        self._accept()
      else:
        error = self._read(key.fileobj)  # pyright: ignore[reportArgumentType]
        if error is not None:
          return error
    return None

  def _accept(self) -> None:
    with contextlib.suppress(OSError):
      peer, _ = self._server.accept()
      peer.setblocking(False)
      self._lines[peer] = b''
      self._selector.register(peer, selectors.EVENT_READ)

  def _read(self, peer: socket.socket) -> VitjaxError | None:
    try:
      received = peer.recv(_MAX_LINE)
    except OSError:
      received = b''
    self._lines[peer] += received
    line = self._lines[peer]
    if not received or len(line) > _MAX_LINE:
      self._drop(peer)
    elif line.endswith(b'\n'):
      report = _parse(line, 'rank', 'processes')
      if report is None:
        self._drop(peer)  # Somebody else's connection.
        return None
      return self._enter(peer, report['rank'], report['processes'])
    return None

  def _enter(self, peer: socket.socket, rank: int, count: int) -> ConfigError | None:
    if count != self._count:
      problem = Problem(
        self._said_by, str(self._count), f'the {count} of process {rank}', 'Start all with the same number'
      )
      return ConfigError('The processes disagree on how many they are.', [problem])
    if rank in self._present or not 0 < rank < count:
      problem = Problem(
        'process_id', str(rank), f'each of 0 to {count - 1} once', 'Another process has this one'
      )
      return ConfigError('Two processes have the same rank.', [problem])
    self._present[rank] = peer
    return None

  def _drop(self, peer: socket.socket) -> None:
    self._selector.unregister(peer)
    del self._lines[peer]
    self._present = {rank: other for rank, other in self._present.items() if other is not peer}
    peer.close()

  def _tell_all(self, message: dict[str, object]) -> None:
    for peer in self._lines:
      with contextlib.suppress(OSError):
        peer.sendall(json.dumps(message).encode() + b'\n')

  def _refuse(self, error: VitjaxError) -> None:
    """Tells everybody, those that come in the next seconds too."""
    deadline = time.monotonic() + _REFUSE_S
    while True:
      self._tell_all({'refused': _to_json(error)})
      self._drain(min(deadline, time.monotonic() + 0.5))
      if time.monotonic() >= deadline:
        return
      for key, _ in self._selector.select(0):
        if key.fileobj is self._server:
          self._accept()

  def _drain(self, deadline: float) -> None:
    """Waits until the peers hang up."""
    while self._lines and time.monotonic() < deadline:
      for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
        if key.fileobj is self._server:
          return
        with contextlib.suppress(OSError):
          if key.fileobj.recv(_MAX_LINE):  # pyright: ignore[reportAttributeAccessIssue]
            continue
        self._drop(key.fileobj)  # pyright: ignore[reportArgumentType]

  def close(self) -> None:
    for peer in list(self._lines):
      self._drop(peer)
    self._selector.close()
    self._server.close()


def _listen(address: str) -> socket.socket:
  host, port = split_address(address)
  try:
    if is_loopback(address):
      family = socket.AF_INET6 if ':' in host else socket.AF_INET
      return socket.create_server((host, port), family=family)
    dual = socket.has_dualstack_ipv6()
    return socket.create_server(
      ('', port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual
    )
  except OSError as error:
    hint = 'Choose another port, or end the earlier run that still holds this one'
    problem = Problem('coordinator', address, f'an address with a free port ({error.strerror})', hint)
    raise ConfigError('Process 0 cannot listen on the coordinator address.', [problem]) from error


def _report(address: str, rank: int, num_processes: int, timeout_s: float) -> None:
  """The side of every process but 0."""
  deadline = time.monotonic() + timeout_s
  line = json.dumps({'rank': rank, 'processes': num_processes}).encode() + b'\n'
  reached = False
  while (remaining := deadline - time.monotonic()) > 0:
    try:
      with socket.create_connection(split_address(address), timeout=min(5.0, remaining)) as connection:
        reached = True
        connection.sendall(line)
        connection.settimeout(remaining + _GRACE_S)
        reply = _read_line(connection)
    except OSError:
      reply = b''
    answer = _parse(reply)
    if answer is not None and 'start' in answer:
      return
    if answer is not None and 'refused' in answer:
      raise _from_json(answer['refused'])
    time.sleep(min(_RETRY_S, max(0.0, deadline - time.monotonic())))
  if reached:
    what = f'Process 0 answers at {address}, but not all of the {num_processes} processes came.'
  else:
    what = f'Process {rank} of {num_processes} found no process 0 at {address}.'
  hint = 'See the logs of the other processes; the address must be reachable from this host'
  raise TrainingError(what, [Problem(_START_KNOB, f'{timeout_s:g}', 'all processes within this time', hint)])


def _read_line(connection: socket.socket) -> bytes:
  line = b''
  while not line.endswith(b'\n') and len(line) < 16 * _MAX_LINE:
    received = connection.recv(_MAX_LINE)
    if not received:
      return b''
    line += received
  return line


def _parse(line: bytes, *numbers: str) -> dict | None:
  """Returns the JSON object of a line that holds these whole numbers, or None for anything else."""
  try:
    found = json.loads(line)
  except ValueError:
    return None
  ok = isinstance(found, dict) and all(name in found and type(found[name]) is int for name in numbers)
  return found if ok else None


def _to_json(error: VitjaxError) -> dict[str, object]:
  problems = [[p.where, p.found, p.expected, p.hint] for p in error.problems]
  return {'is_config': isinstance(error, ConfigError), 'headline': error.headline, 'problems': problems}


def _from_json(stored: dict) -> VitjaxError:
  problems = [Problem(*(str(text) for text in texts)) for texts in stored['problems']]
  return (ConfigError if stored['is_config'] else TrainingError)(str(stored['headline']), problems)


def _listed(ranks: list[int]) -> str:
  shown = ', '.join(map(str, ranks[:20])) + (f' and {len(ranks) - 20} more' if len(ranks) > 20 else '')
  return f'{"rank" if len(ranks) == 1 else "ranks"} {shown}'
