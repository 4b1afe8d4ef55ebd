import pytest

from vitjax.config import Launch, expected_devices, read_launch
from vitjax.errors import ConfigError

ADDRESS = '127.0.0.1:1234'
JAX = {'JAX_COORDINATOR_ADDRESS': ADDRESS, 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'}
FLAGS = {'--coordinator': 'n1:5', '--num_processes': '4', '--process_id': '3'}
TORCH = {'NNODES': '2', 'NODE_RANK': '1', 'MASTER_ADDR': 'n0', 'MASTER_PORT': '29500'}
SKYPILOT = {'SKYPILOT_NUM_NODES': '2', 'SKYPILOT_NODE_RANK': '1', 'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2'}
SLURM = {'SLURM_STEP_NODELIST': 'a[1-2]', 'SLURM_NTASKS': '4'}
KUBERNETES = {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '0'}
# xpk's GPU workloads mix the families; its CPU ones leave the rank to the job's completion index.
XPK_GPU = {
  'NNODES': '2',
  'NODE_RANK': '1',
  'JAX_COORDINATOR_ADDRESS': 'w-0-0.w',
  'JAX_COORDINATOR_PORT': '6002',
}


def where_of(error):
  return [p.where for p in error.value.problems]


@pytest.mark.parametrize(
  ('env', 'flags', 'expected'),
  [
    ({}, {}, None),
    (JAX, {}, ('environment', 2, 1, ADDRESS)),
    (JAX | TORCH | SKYPILOT | SLURM, {}, ('environment', 2, 1, ADDRESS)),
    (JAX, FLAGS, ('flags', 4, 3, 'n1:5')),
    (JAX, {'--process_id': '0'}, ('environment', 2, 0, ADDRESS)),
    (JAX, {'--num_processes': '1', '--process_id': '0'}, None),
    (TORCH, {}, ('environment', 2, 1, 'n0:29500')),
    ({**TORCH, 'MASTER_PORT': ''}, {}, ('environment', 2, 1, 'n0:8476')),
    (SKYPILOT, {}, ('environment', 2, 1, '10.0.0.1:8476')),
    (XPK_GPU, {}, ('environment', 2, 1, 'w-0-0.w:6002')),
    (SLURM, {}, ('slurm', 4, None, None)),
    (
      SLURM | {'SLURM_STEP_NUM_NODES': '1', 'SLURM_PROCID': '2', 'SLURM_JOB_ID': '5000'},
      {},
      ('slurm', 4, 2, '127.0.0.1:62344'),
    ),
    (SLURM, {'--num_processes': '1'}, None),
    (SLURM | {'NNODES': '2'}, {}, ('slurm', 4, None, None)),  # a stray count without a rank
    (SLURM | {'JAX_COORDINATOR_ADDRESS': 'a1:5'}, {}, ('slurm', 4, None, None)),  # jax takes the address
    ({'OMPI_COMM_WORLD_SIZE': '3'}, {}, ('ompi', 3, None, None)),
    (KUBERNETES, {}, ('kubernetes', None, None, None)),
    (KUBERNETES | JAX, {}, ('environment', 2, 1, ADDRESS)),
    ({'SLURM_NTASKS': '4'}, {}, None),  # a batch script, not an srun step
    ({'SLURM_STEP_NODELIST': 'a1', 'SLURM_NTASKS': '1'}, {}, None),
    ({'OMPI_COMM_WORLD_SIZE': '1'}, {}, None),
    ({**JAX, 'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'}, {}, None),
    ({'SKYPILOT_NUM_NODES': '1', 'SKYPILOT_NODE_RANK': '0', 'SKYPILOT_NODE_IPS': '10.0.0.1'}, {}, None),
    ({'MASTER_ADDR': 'left over'}, {}, None),
  ],
)
def test_what_is_read_from_flags_variables_and_launchers(env, flags, expected):
  launch = read_launch(env, flags)
  found = launch and (launch.launcher, launch.num_processes, launch.process_id, launch.coordinator)
  assert found == expected


@pytest.mark.parametrize(
  ('env', 'where'),
  [
    ({k: v for k, v in JAX.items() if k != 'JAX_PROCESS_ID'}, ['--process_id']),
    ({'JAX_COORDINATOR_ADDRESS': 'host'}, ['--num_processes', '--process_id']),
    (JAX | {'JAX_NUM_PROCESSES': 'two'}, ['JAX_NUM_PROCESSES']),
    (JAX | {'JAX_NUM_PROCESSES': 'two', 'JAX_COORDINATOR_ADDRESS': 'a:b:c'},
     ['JAX_NUM_PROCESSES', 'JAX_COORDINATOR_ADDRESS']),
    (JAX | {'JAX_PROCESS_ID': '2'}, ['JAX_PROCESS_ID']),
    (JAX | {'JAX_NUM_PROCESSES': '1'}, ['JAX_PROCESS_ID']),
    ({'NNODES': '2', 'NODE_RANK': '1'}, ['--coordinator']),
    ({'NNODES': '2'}, ['--coordinator', '--process_id']),  # N > 1 is announced, and nothing could join
    (SKYPILOT | {'SKYPILOT_NODE_RANK': 'first'}, ['SKYPILOT_NODE_RANK']),
    (TORCH | {'NNODES': '1:4'}, ['NNODES']),  # torchrun's elastic form
  ],
)  # fmt: skip
def test_what_does_not_fit_is_named(env, where):
  with pytest.raises(ConfigError) as caught:
    read_launch(env)
  assert [text.split(' or ')[0] for text in where_of(caught)] == where


def test_on_a_tpu_host_jax_asks_the_tpu_and_variables_only_announce(monkeypatch):
  monkeypatch.setattr('vitjax.config.processes._may_be_tpu_host', lambda env: True)
  assert read_launch({}) == Launch('tpu', None)
  launch = read_launch(SKYPILOT)
  assert (launch.launcher, launch.num_processes, launch.coordinator) == ('tpu', 2, None)
  assert read_launch(JAX).launcher == 'environment'
  assert read_launch({'SKYPILOT_NUM_NODES': '1', 'SKYPILOT_NODE_RANK': '0'}) is None


def test_devices_are_counted_over_the_processes(monkeypatch):
  for name in (*JAX, *TORCH, *SKYPILOT, *SLURM):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=2')
  assert expected_devices() == 2
  assert expected_devices(FLAGS) == 8
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '3')
  assert expected_devices() == 6
