"""A SLURM of one node on loopback runs launch's batch file through a time limit, and the job resumes exactly."""

import getpass
import io
import os
import pathlib
import re
import socket
import subprocess
import sys
import time

import pytest
import sockets
from engine_programs import ROOT, program

from launch.job import Job
from launch.local.run import free_port, run_processes
from launch.slurm.render import Slurm, batch_file
from vitjax.training.metrics import read_metrics

pytestmark = pytest.mark.engines
RECIPE = ROOT / 'tests' / 'faults' / 'small_recipe.py'
STEPS, DEVICES, LIMIT_S = 150, 2, 240
OVERRIDES = (
  ('total', f'{STEPS} steps'),
  ('evals.val.every', '100 steps'),
  ('checkpoint.every', '1000 steps'),
)
ALIVE = ('PENDING', 'CONFIGURING', 'RUNNING', 'COMPLETING')
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
  """Starts a cluster; yields a function that runs one of its commands and returns the output."""
  programs = [program('slurmctld'), program('slurmd')]
  folder = tmp_path / 'slurm'
  for name in ('state', 'spool'):
    (folder / name).mkdir(parents=True)
  host = socket.gethostname().partition('.')[0]
  ports = {'ctld_port': free_port(), 'd_port': free_port()}
  (folder / 'slurm.conf').write_text(CONF.format(host=host, user=getpass.getuser(), folder=folder, **ports))
  monkeypatch.setenv('SLURM_CONF', str(folder / 'slurm.conf'))
  running = []

  def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout

  try:
    for path in programs:
      log = (folder / f'{pathlib.Path(path).name}.out').open('w')
      running.append(subprocess.Popen([path, '-D'], stdout=log, stderr=log))
      log.close()
    wait_until(lambda: 'idle' in run('sinfo', '-h', '-o', '%T'), 'an idle node', 60)
    yield run
  finally:
    subprocess.run(['scancel', '--user', getpass.getuser()], timeout=30, check=False)
    for process in reversed(running):
      process.terminate()
      process.wait(30)


def wait_until(condition, what, limit_s=LIMIT_S):
  deadline = time.monotonic() + limit_s
  while not condition():
    assert time.monotonic() < deadline, f'no {what} within {limit_s} s'
    time.sleep(0.2)


def rows(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().count('\n') if path.exists() else 0


def test_saved_before_the_limit_queued_again_and_resumed_exactly(slurm, tmp_path, monkeypatch):
  monkeypatch.setenv('PYTHONPATH', str(ROOT))
  monkeypatch.setenv(
    'XLA_FLAGS', f'{os.environ["XLA_FLAGS"].split()[-1]} --xla_force_host_platform_device_count={DEVICES}'
  )
  workdir, reference = tmp_path / 'run', tmp_path / 'reference'
  slow = (sys.executable, '-P', str(pathlib.Path(__file__).with_name('slowly.py')))
  job = Job('resume', 1, str(RECIPE), str(workdir), overrides=OVERRIDES, program=slow)
  log = tmp_path / 'job.log'
  (tmp_path / 'job.sbatch').write_text(
    batch_file(job, Slurm('10', margin_s=90, tasks_per_node=2, log=str(log)))
  )
  job_id = re.search(r'\d+', slurm('sbatch', 'job.sbatch')).group()

  def state(field):
    return re.search(rf'\b{field}=(\S+)', slurm('scontrol', 'show', 'job', job_id)).group(1)

  wait_until(lambda: rows(workdir) >= 5 or state('JobState') not in ALIVE, 'rows of metrics')
  assert state('JobState') == 'RUNNING', log.read_text()[-3000:]
  pids = [line.split()[0] for line in slurm('scontrol', 'listpids', job_id).splitlines()[1:]]
  for pid in pids:
    assert all(sockets.is_loopback(host) for host, _ in sockets.listening(pid))
  # The limit comes nearer than the margin: SLURM signals at its next look, within half a minute.
  minutes, seconds = map(int, state('RunTime').split(':')[-2:])
  slurm('scontrol', 'update', f'JobId={job_id}', f'TimeLimit={minutes + (2 if seconds > 25 else 1)}')
  wait_until(
    lambda: state('Restarts') == '1' or state('JobState') not in ('RUNNING', 'COMPLETING'), 'second start'
  )
  assert state('Restarts') == '1', log.read_text()[-3000:]
  stopped_after = rows(workdir)
  assert 5 <= stopped_after < STEPS
  wait_until(lambda: state('JobState') == 'PENDING', 'job in the queue')
  # Sooner than SLURM's two minutes, but not in the second of the requeue: slurmd refuses a job's credential that is no
  # newer than the job's end, whole seconds compared, and the controller then fails the job.
  slurm('scontrol', 'update', f'JobId={job_id}', 'StartTime=now+4', 'TimeLimit=10')
  wait_until(lambda: state('JobState') not in ALIVE, 'end')
  assert state('JobState') == 'COMPLETED', log.read_text()[-3000:]

  out = io.BytesIO()
  flags = [
    f'--config={RECIPE}',
    f'--workdir={reference}',
    *(f'--config.{path}={value}' for path, value in OVERRIDES),
  ]
  command = [sys.executable, '-m', 'vitjax', 'train', *flags]
  assert run_processes(command, 2, devices=DEVICES, out=out) == 0, out.getvalue().decode()[-3000:]
  losses = [[(row['step'], row['train/loss']) for row in read_metrics(w)] for w in (workdir, reference)]
  assert [step for step, _ in losses[0]] == list(range(1, STEPS + 1))
  assert losses[0] == losses[1]
