import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from vitjax.errors import ConfigError, TrainingError
from vitjax.parallel.roll_call import is_loopback, roll_call


@pytest.mark.parametrize(
  ('address', 'expected'),
  [
    ('127.0.0.1:1', True),
    ('localhost:1', True),
    ('[::1]:1', True),
    ('10.0.0.1:1', False),
    ('node7:1', False),
  ],
)
def test_loopback_addresses(address, expected):
  assert is_loopback(address) is expected


@pytest.fixture
def address(monkeypatch):
  monkeypatch.setattr('vitjax.parallel.roll_call._REFUSE_S', 0.5)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


def call_all(address, *members, timeout_s=10.0):
  """Runs (rank, number of processes) members at the same time; returns what each raised, or None."""

  def call(member):
    try:
      roll_call(address, *member, timeout_s, 'JAX_NUM_PROCESSES')
    except (ConfigError, TrainingError) as error:
      return error
    return None

  with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
    return list(pool.map(call, members))


def test_all_report_and_the_port_is_free_again(address):
  for _ in range(3):
    assert call_all(address, (2, 4), (0, 4), (1, 4), (3, 4)) == [None] * 4


def test_missing_ranks_are_named_to_all(address):
  start = time.monotonic()
  errors = call_all(address, (0, 4), (2, 4), timeout_s=1.0)
  assert time.monotonic() - start < 6
  assert str(errors[0]).startswith('2 of 4 processes did not start: ranks 1, 3.')
  assert 'resilience.start_timeout_s = 1' in str(errors[0])
  assert isinstance(errors[1], TrainingError)


def test_no_process_0(address):
  (error,) = call_all(address, (1, 2), timeout_s=0.5)
  assert str(error).startswith(f'Process 1 of 2 found no process 0 at {address}.')


@pytest.mark.parametrize(
  ('members', 'message'),
  [
    (((0, 3), (1, 2)), 'JAX_NUM_PROCESSES = 3: expected the 2 of process 1'),
    (((0, 2), (2, 3)), 'JAX_NUM_PROCESSES = 2: expected the 3 of process 2'),
    (((0, 3), (1, 3), (1, 3)), 'process_id = 1: expected each of 0 to 2 once'),
  ],
)
def test_disagreement_is_said_to_all_within_seconds(address, members, message):
  start = time.monotonic()
  errors = call_all(address, *members, timeout_s=100.0)
  assert time.monotonic() - start < 10
  for error in errors:
    assert isinstance(error, ConfigError)
    assert message in str(error)


def test_strangers_and_restarted_processes_do_no_harm(address):
  """Noise on the port, and a process that reports, dies and reports again."""
  host, port = address.split(':')
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    main = pool.submit(roll_call, address, 0, 2, 10.0)
    for noise in (b'GET / HTTP/1.1\r\n\r\n', b'[1]\n', b'{"rank": "1", "processes": 2}\n', b'x' * 2000, b''):
      deadline = time.monotonic() + 5
      while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1) as stranger:
          stranger.sendall(noise)
          break
        time.sleep(0.05)
    with socket.create_connection((host, int(port)), timeout=1) as dying:
      dying.sendall(json.dumps({'rank': 1, 'processes': 3}).encode())  # no end of line: never complete
    assert not main.done()
    roll_call(address, 1, 2, 10.0)
    main.result(10)


def test_a_taken_port_is_refused_at_once():
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    with pytest.raises(ConfigError, match=f'{address}: expected an address with a free port'):
      roll_call(address, 0, 2, 5.0)
