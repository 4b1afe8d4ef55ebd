import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import pytest

from vitjax.errors import ConfigError
from vitjax.parallel import distributed

ADDRESS = '127.0.0.1:1234'


def explicit(**changes):
  env = {'JAX_COORDINATOR_ADDRESS': ADDRESS, 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'} | changes
  return {name: value for name, value in env.items() if value is not None}


def test_launchers_are_read_and_the_explicit_one_wins():
  slurm = {'SLURM_STEP_NODELIST': 'a[1-2]', 'SLURM_NTASKS': '4'}
  assert distributed.read_launch({}) is None
  assert distributed.read_launch(slurm) == distributed.Launch('slurm', 4)
  assert distributed.read_launch({'OMPI_COMM_WORLD_SIZE': '3'}) == distributed.Launch('ompi', 3)
  assert distributed.read_launch(slurm | explicit()) == distributed.Launch('environment', 2, 1, ADDRESS)


@pytest.mark.parametrize(
  'env',
  [
    {'SLURM_NTASKS': '4'},  # a batch script, not an srun step
    {'SLURM_STEP_NODELIST': 'a1', 'SLURM_NTASKS': '1'},
    {'OMPI_COMM_WORLD_SIZE': '1'},
    explicit(JAX_NUM_PROCESSES='1', JAX_PROCESS_ID='0'),
  ],
)
def test_one_process_is_no_launch(env):
  assert distributed.read_launch(env) is None


@pytest.mark.parametrize(
  ('env', 'where'),
  [
    (explicit(JAX_PROCESS_ID=None), ['JAX_PROCESS_ID']),
    ({'JAX_COORDINATOR_ADDRESS': 'host'}, ['JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'JAX_COORDINATOR_ADDRESS']),
    (explicit(JAX_NUM_PROCESSES='two'), ['JAX_NUM_PROCESSES']),
    (explicit(JAX_PROCESS_ID='2'), ['JAX_PROCESS_ID']),
  ],
)
def test_variables_that_do_not_fit_are_all_named(env, where):
  with pytest.raises(ConfigError) as caught:
    distributed.read_launch(env)
  assert [p.where for p in caught.value.problems] == where


@pytest.mark.parametrize(
  ('address', 'expected'),
  [(ADDRESS, True), ('localhost:1', True), ('[::1]:1', True), ('10.0.0.1:1', False), ('node7:1', False)],
)
def test_loopback_addresses(address, expected):
  assert distributed._is_loopback(address) is expected


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
    env['PYTHONPATH'] = str(pathlib.Path(__file__).parents[3])
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
