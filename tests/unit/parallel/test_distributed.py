import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

from vitjax.errors import ConfigError
from vitjax.parallel import distributed

ADDRESS = '127.0.0.1:1234'


def explicit(**changes):
  env = {'JAX_COORDINATOR_ADDRESS': ADDRESS, 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'} | changes
  return {name: value for name, value in env.items() if value is not None}


def test_address_in_use_is_refused_before_the_runtime_aborts(monkeypatch):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    for name, value in explicit(JAX_COORDINATOR_ADDRESS=address, JAX_PROCESS_ID='0').items():
      monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f'{address}: expected an address with a free port'):
      distributed.initialize()


def test_single_process_is_main_and_its_exceptions_pass(monkeypatch):
  for name in explicit():
    monkeypatch.delenv(name, raising=False)
  distributed.initialize()
  assert distributed.is_main()
  with pytest.raises(KeyError), distributed.hard_exit_on_exception():
    raise KeyError('x')


def run_two(code: str, num_devices: int = 2, timeout_s: int = 120) -> list[tuple[int, str]]:
  """Runs `code` in two processes on 127.0.0.1; returns (exit status, output) of each."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  processes = []
  for i in range(2):
    env = os.environ | explicit(JAX_COORDINATOR_ADDRESS=address, JAX_PROCESS_ID=str(i))
    env['XLA_FLAGS'] = (
      f'--xla_force_host_platform_device_count={num_devices} --xla_backend_optimization_level=0'
    )
    env['PYTHONPATH'] = os.pathsep.join(str(pathlib.Path(__file__).parents[n]) for n in (2, 3))
    command = [sys.executable, '-c', textwrap.dedent(code)]
    processes.append(
      subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    )
  try:
    return [
      (process.returncode, out)
      for process in processes
      for out in [process.communicate(timeout=timeout_s)[0]]
    ]
  finally:
    for process in processes:
      process.kill()


def test_two_processes_assemble_the_same_batch():
  results = run_two("""
    import os
    import jax, numpy as np
    from jax.experimental import multihost_utils
    from vitjax.config.schema import ParallelConfig
    from vitjax.parallel import distributed, mesh as mesh_lib
    distributed.initialize(start_timeout_s=60)
    assert jax.process_count() == 2 and distributed.is_main() == (jax.process_index() == 0)
    rows = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
    for shape, share in [((4, 1, 1), 'own'), ((2, 1, 2), 'own'), ((1, 1, 4), 'same'), ((1, 4, 1), 'own')]:
      mesh = mesh_lib.make_mesh(ParallelConfig(*shape))
      mine = mesh_lib.local_rows(mesh, 8)
      start = 4 * jax.process_index()
      assert mine == (slice(0, 8) if share == 'same' else slice(start, start + 4)), mine
      batch = mesh_lib.to_global(mesh, {'image': rows[mine]})['image']
      assert batch.shape == (8, 3)
      for shard in batch.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), rows[shard.index])
      full = jax.jit(lambda x: x, out_shardings=mesh_lib.replicated(mesh))(batch)
      np.testing.assert_array_equal(np.asarray(full), rows)
    # Tensor-parallel peers over two processes, on interleaved devices: shares are still equal and agree.
    devices = np.array(jax.devices()).reshape(2, 2).T.reshape(-1)
    mesh = mesh_lib.make_mesh(ParallelConfig(data=2, model=2), list(devices))
    assert mesh_lib.local_share(mesh, 8) == (0, 1)
    batch = mesh_lib.to_global(mesh, {'image': rows})['image']
    np.testing.assert_array_equal(multihost_utils.process_allgather(batch, tiled=True), rows)
    # Row shards 0 and 2 lie on process 0, 1 and 3 on process 1.
    mesh = mesh_lib.make_mesh(ParallelConfig(), list(devices))
    batch = mesh_lib.to_global(mesh, {'image': rows[mesh_lib.local_rows(mesh, 8)]})['image']
    seen = multihost_utils.process_allgather(batch, tiled=True)
    np.testing.assert_array_equal(seen, rows[[0, 1, 4, 5, 2, 3, 6, 7]])
    # Facts are compared without arrays; every rank hears what differs.
    from vitjax.errors import ConfigError
    from vitjax.parallel.agreement import code_facts, require_same
    require_same(code_facts(), what='the code', timeout_s=30)
    mine = {'optim.peak_lr': 1e-3 * (1 + jax.process_index()), 'seed': 0}
    try:
      require_same(mine, what='the recipe', timeout_s=30)
    except ConfigError as error:
      assert [(p.where, p.found, p.expected) for p in error.problems] == [
        ('optim.peak_lr', '0.002 on rank 1', '0.001, as on rank 0')], error
    else:
      raise AssertionError('a difference was not found')
    import sockets
    listening = sockets.listening(os.getpid())
    assert len(listening) == (2 if distributed.is_main() else 1), listening  # coordinator, gloo
    assert all(sockets.is_loopback(host) for host, _ in listening), listening
    print('all good')
  """)
  for status, output in results:
    assert (status, output.strip().splitlines()[-1:]) == (0, ['all good']), output


def test_exception_in_one_process_ends_both():
  (status, output), (peer_status, peer_output) = run_two("""
    import jax, time
    from vitjax.parallel import distributed
    distributed.initialize(start_timeout_s=60, heartbeat_timeout_s=10)
    with distributed.hard_exit_on_exception():
      if distributed.is_main():
        raise RuntimeError('only here')
      time.sleep(100)
  """)
  assert status == 1, output
  assert 'RuntimeError: only here' in output
  assert peer_status not in (0, None), peer_output


def test_a_job_of_two_that_jax_sees_as_one_stops(monkeypatch):
  for name, value in {
    'SKYPILOT_NUM_NODES': '2',
    'SKYPILOT_NODE_RANK': '0',
    'SKYPILOT_NODE_IPS': '10.0.0.1',
  }.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr('jax.distributed.is_initialized', lambda: True)  # as by Ray's trainer
  with pytest.raises(ConfigError, match='SKYPILOT_NUM_NODES') as caught:
    distributed.initialize()
  assert str(caught.value).startswith('jax does not see all processes of this run.')
  distributed.initialize({'--num_processes': '1', '--process_id': '0'})


def test_a_kubernetes_job_that_jax_cannot_read_is_told_what_to_do(monkeypatch):
  for name in explicit():
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('KUBERNETES_SERVICE_HOST', '10.0.0.1')
  monkeypatch.setenv('JOB_COMPLETION_INDEX', '0')
  monkeypatch.setattr('jax._src.xla_bridge.backends_are_initialized', lambda: False)
  with pytest.warns(UserWarning, match='kubernetes'), pytest.raises(ConfigError) as caught:
    distributed.initialize()
  assert 'jax[k8s]' in str(caught.value)
  assert '--num_processes=1' in str(caught.value)


def test_a_start_that_takes_too_long_ends_with_a_message(monkeypatch, capfd):
  left = threading.Event()
  monkeypatch.setattr(distributed.os, '_exit', lambda code: left.set() if code == 1 else None)
  with distributed._at_most(0.05, 'all 4 processes of this slurm job did not come up within 0.05 s'):
    assert left.wait(10)
  assert capfd.readouterr().err == (
    'vitjax: all 4 processes of this slurm job did not come up within 0.05 s (resilience.start_timeout_s).\n'
  )


def test_processes_that_jax_finds_itself_are_called_first():
  """Under SLURM on two nodes, played here: jax takes coordinator, number and rank from the step's variables."""
  code = """
    import os
    for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES'):
      del os.environ[name]
    rank = os.environ.pop('JAX_PROCESS_ID')
    os.environ |= {'SLURM_JOB_ID': str(os.getppid()), 'SLURM_STEP_NODELIST': 'localhost,other', 'SLURM_NTASKS': '2',
                   'SLURM_PROCID': rank, 'SLURM_LOCALID': '0', 'SLURM_STEP_NUM_NODES': '2'}
    import jax
    from vitjax.errors import TrainingError
    from vitjax.parallel import distributed
    if rank == LATE:
      raise SystemExit
    try:
      distributed.initialize(start_timeout_s=TIMEOUT)
    except TrainingError as error:
      print(str(error).splitlines()[0])
    else:
      print(jax.process_count(), jax.process_index() == int(rank))
  """
  results = run_two(code.replace('LATE', 'None').replace('TIMEOUT', '60'))
  assert [output.splitlines()[-1] for _, output in results] == ['2 True', '2 True'], results
  results = run_two(code.replace('LATE', "'1'").replace('TIMEOUT', '2'))
  assert results[0][1].splitlines()[-1] == '1 of 2 processes did not start: rank 1.'
