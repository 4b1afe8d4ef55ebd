"""Every engine's job: what it says, that a shell or YAML reads hostile values as text, and that the pages are right."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import pytest
import yaml

from launch import cli
from launch.gke.jobset import JobSet, manifest
from launch.gke.xpk import Xpk, workload_argv
from launch.job import Job
from launch.ray.render import Ray, driver_argv
from launch.skypilot.render import SkyPilot, task
from launch.slurm.render import Slurm, batch_file
from launch.tpu.render import TpuVm, start_line, steps, stop_line
from vitjax.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[3]
JOB = Job('l16', 4, 'configs/pretrain.py:model=L/16', 'gs://b/l16', 8, (('optim.peak_lr', '1e-3'),))
ARGV = ['vitjax', 'train', f'--config={JOB.config}', '--workdir=gs://b/l16', '--config.optim.peak_lr=1e-3']
# Each of these would do something in a shell, in YAML, in a directive or in a pod.
HOSTILE = (
  '$(touch PWNED)', '`touch PWNED`', '; touch PWNED', "' ; touch PWNED ; '", '" ; touch PWNED ; "', '& touch PWNED',
  '$HOME ${PWNED}',
  '$(JAX_PROCESS_ID)', '$$(A)', '!!python/object/apply:os.system ["touch PWNED"]', '*: &a {b: [', '#x',
  '\\', '%j %n', '{0} {args.x}', '-- --run=submit', '~', '*',
)  # fmt: skip
SHOW = 'import json, os, pathlib, sys; pathlib.Path(os.environ["SHOWN"]).write_text(json.dumps(sys.argv[1:]))'


def hostile_job(folder=None):
  overrides = tuple((f'a.b{i}', text) for i, text in enumerate(HOSTILE))
  program = (sys.executable, '-c', SHOW)
  return Job('l16', 1, 'c.py:x=$(touch PWNED)', "w ';touch PWNED'", 0, overrides, program, folder)


def assert_read_as_text(command, tmp_path, wait_s=0.0):
  """Runs a command in tmp_path; the program must have got the hostile words unchanged, and nothing else happened."""
  shown = tmp_path / 'shown.json'
  env = {**os.environ, 'SHOWN': str(shown), 'HOME': str(tmp_path)}
  before = set(tmp_path.iterdir())
  subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=60)
  deadline = time.monotonic() + wait_s
  while not (shown.exists() and shown.stat().st_size) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert json.loads(shown.read_text()) == hostile_job().argv()[3:]
  assert not list(tmp_path.rglob('*PWNED*'))
  return set(tmp_path.iterdir()) - before - {shown}


def test_slurm_batch_file():
  text = batch_file(JOB, Slurm(time='2-00', margin_s=600, partition='gpu', constraint='a100&nvlink'))
  directives = re.findall(r'^#SBATCH (.*)$', text, re.MULTILINE)
  assert directives == [
    '--job-name=l16', '--nodes=4', '--ntasks-per-node=1', '--partition=gpu', '--constraint=a100&nvlink',
    '--gpus-per-node=8', '--time=2-00', '--signal=TERM@600', '--requeue', '--open-mode=append', '--output=l16-%j.log',
  ]  # fmt: skip
  assert 'export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7\n' in text
  assert shlex.join(ARGV) in text


def test_slurm_batch_file_reads_hostile_values_as_text_and_asks_for_another_start(tmp_path):
  bin_folder = tmp_path / 'bin'
  bin_folder.mkdir()
  for name, text in (
    ('srun', '#!/bin/sh\nshift 3\n"$@"\nexit ${CODE:-0}\n'),
    ('scontrol', '#!/bin/sh\necho "$@" >> "$HOME/requeued"\n'),
  ):
    (bin_folder / name).write_text(text)
    (bin_folder / name).chmod(0o755)
  (tmp_path / 'job').write_text(batch_file(hostile_job(), Slurm()))
  run = f'PATH={shlex.quote(str(bin_folder))}:$PATH SLURM_JOB_ID=7'
  assert assert_read_as_text(['bash', '-c', f'{run} bash job'], tmp_path) == set()
  for code, expected, requeued in ((42, 0, 'requeue 7\n'), (1, 1, ''), (2, 2, '')):
    env = {**os.environ, 'CODE': str(code), 'SHOWN': str(tmp_path / 's'), 'HOME': str(tmp_path)}
    assert (
      subprocess.run(['bash', '-c', f'{run} bash job'], cwd=tmp_path, env=env, check=False).returncode
      == expected
    )
    log = tmp_path / 'requeued'
    assert (log.read_text() if log.exists() else '') == requeued
    log.unlink(missing_ok=True)


def test_tpu_commands():
  found = steps(JOB, TpuVm('v5litepod-256', 'us-west4-a', project='p', spot=True, valid_until='6h'))
  place = ['--zone=us-west4-a', '--project=p']
  queue = ['gcloud', 'compute', 'tpus', 'queued-resources']
  assert found['create'] == [
    *queue, 'create', 'l16', '--node-id=l16', *place, '--accelerator-type=v5litepod-256',
    '--runtime-version=v2-alpha-tpuv5-lite', '--valid-until-duration=6h', '--spot',
  ]  # fmt: skip
  assert found['delete'] == [*queue, 'delete', 'l16', *place, '--force']
  assert found['start'][:7] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'l16', place[0]]
  assert '--worker=all' in found['start']
  direct = steps(JOB, TpuVm('v6e-8', 'z', queued=False))['create']
  assert direct[:5] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'create']


def test_tpu_start_line_outlives_its_shell_and_starts_again_after_42(tmp_path):
  more = assert_read_as_text(['sh', '-c', start_line(hostile_job())], tmp_path, wait_s=30)
  assert {path.name for path in more} == {'l16.log', 'l16.pid'}
  counting = (
    'import os, pathlib, sys; p = pathlib.Path(os.environ["SHOWN"]);'
    'n = len(p.read_text()) if p.exists() else 0; p.write_text("x" * (n + 1)); sys.exit(42 if n < 1 else 3)'
  )
  job = Job('again', 1, 'c.py', 'w', program=(sys.executable, '-c', counting), folder=str(tmp_path))
  line = start_line(job).replace('sleep 10', 'sleep 0.1')
  env = {**os.environ, 'SHOWN': str(tmp_path / 'count'), 'HOME': str(tmp_path)}
  subprocess.run(['sh', '-c', line], env=env, check=True, timeout=30)
  deadline = time.monotonic() + 30
  while (
    not ((tmp_path / 'count').exists() and (tmp_path / 'count').read_text() == 'xx')
    and time.monotonic() < deadline
  ):
    time.sleep(0.05)
  assert (tmp_path / 'count').read_text() == 'xx'


def test_tpu_stop_line_ends_the_job_and_its_loop(tmp_path):
  job = Job('stop', 1, 'c.py', 'w', program=(sys.executable, '-c', 'import time; time.sleep(100)'))
  env = {**os.environ, 'HOME': str(tmp_path)}
  subprocess.run(['sh', '-c', start_line(job)], env=env, check=True, timeout=30)
  group = int((tmp_path / 'stop.pid').read_text())
  deadline = time.monotonic() + 10
  while os.getpgid(group) != group and time.monotonic() < deadline:
    time.sleep(0.02)
  subprocess.run(['sh', '-c', stop_line(job)], env=env, check=True, timeout=30)
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline and pathlib.Path(f'/proc/{group}').exists():
    time.sleep(0.05)
  with pytest.raises(ProcessLookupError):
    os.killpg(group, 0)


def test_skypilot_task_reads_hostile_values_as_text(tmp_path):
  found = task(JOB, SkyPilot(accelerators='H100:8', infra='gcp/us-central1', spot=True))
  assert (found['num_nodes'], found['resources']['accelerators']) == (4, 'H100:8')
  assert found['resources']['job_recovery'] == {'max_restarts_on_errors': 3, 'recover_on_exit_codes': [42]}
  written = yaml.safe_load(yaml.safe_dump(task(hostile_job(), SkyPilot())))
  assert assert_read_as_text(['bash', '-c', written['run']], tmp_path) == set()


def test_jobset_manifest():
  found = manifest(JOB, JobSet('img:1', gpu_type='nvidia-h100-80gb', queue='q'))
  group = found['spec']['replicatedJobs'][0]
  spec = group['template']['spec']
  pod = spec['template']['spec']
  container = pod['containers'][0]
  assert (group['replicas'], spec['parallelism'], spec['completions']) == (1, 4, 4)
  assert (spec['completionMode'], spec['backoffLimit'], pod['restartPolicy']) == ('Indexed', 0, 'Never')
  assert container['command'] == ARGV
  assert container['resources'] == {'limits': {'nvidia.com/gpu': 8}}
  values = {entry['name']: entry['value'] for entry in container['env'] if 'value' in entry}
  assert values == {'JAX_COORDINATOR_ADDRESS': 'l16-hosts-0-0.l16:8476', 'JAX_NUM_PROCESSES': '4'}
  # Exit codes 1 and 2 end the set; all others start it again.
  assert spec['podFailurePolicy']['rules'][0]['onExitCodes']['values'] == [1, 2]
  tpu = manifest(JOB, JobSet('i', tpu_type='tpu-v5-lite-podslice', tpu_topology='4x4', slices=2))
  group = tpu['spec']['replicatedJobs'][0]
  assert (group['replicas'], group['template']['spec']['parallelism']) == (2, 2)
  assert 'env' not in group['template']['spec']['template']['spec']['containers'][0]


def test_jobset_passes_hostile_values_through_yaml_and_kubernetes():
  job = hostile_job()
  written = yaml.safe_load(yaml.safe_dump(manifest(job, JobSet('i'))))
  pod = written['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
  # Kubernetes: $$ before a bracket stands for $, and $(NAME) for a variable; none of the latter may be left.
  for word, expected in zip(pod['containers'][0]['command'], job.argv(), strict=True):
    assert re.sub(r'\$\$(\()', r'$\1', word) == expected
    assert not re.search(r'(?<!\$)\$\([A-Za-z_]', word)


def test_xpk_argv_and_what_it_would_not_quote():
  argv = workload_argv(JOB, Xpk('c', 'img', tpu_type='v5litepod-256', zone='z'))
  assert argv[:3] == ['xpk', 'workload', 'create']
  assert f'--command={shlex.join(ARGV)}' in argv
  for text in ('$(x)', '"', "'", '\\', '`x`', '{x}'):
    with pytest.raises(ConfigError, match='xpk does not quote'):
      workload_argv(Job('l16', 1, 'c.py', 'w', overrides=(('a.b', text),)), Xpk('c', 'i', tpu_type='t'))
  with pytest.raises(ConfigError, match='one of the two'):
    workload_argv(JOB, Xpk('c', 'i'))


def test_ray_driver_argv():
  argv = driver_argv(JOB, Ray(accelerator='TPU-V6E', topology='4x4'))
  assert argv[:3] == ['python', '-m', 'launch.ray.train']
  assert argv[argv.index('--') + 1 :] == ARGV[1:]
  with pytest.raises(ConfigError, match='one for TPUs'):
    driver_argv(JOB, Ray(accelerator='TPU-V6E'))


@pytest.mark.parametrize(
  ('changes', 'where'),
  [
    ({'name': 'a b'}, '--name'),
    ({'name': 'a\n#SBATCH --x'}, '--name'),
    ({'hosts': 0}, '--hosts'),
    ({'config': 'c.py\n#SBATCH --x'}, '--config'),
    ({'workdir': ''}, '--workdir'),
    ({'overrides': (('a b', '1'),)}, '--config.a b'),
    ({'overrides': (('a.b', 'x\x1b[31m'),)}, '--config.a.b'),
  ],
)
def test_what_cannot_be_rendered_is_refused_by_every_engine(changes, where):
  fields = {'name': 'l16', 'hosts': 1, 'config': 'c.py', 'workdir': 'w'} | changes
  for render in (
    lambda job: batch_file(job, Slurm()),
    lambda job: steps(job, TpuVm('t', 'z')),
    lambda job: workload_argv(job, Xpk('c', 'i', tpu_type='t')),
    lambda job: manifest(job, JobSet('i')),
    lambda job: task(job, SkyPilot()),
    lambda job: driver_argv(job, Ray()),
  ):
    with pytest.raises(ConfigError) as caught:
      render(Job(**fields))
    assert [problem.where for problem in caught.value.problems] == [where]


@pytest.mark.parametrize(
  'settings',
  [
    Slurm(partition='x\n#SBATCH --y'), Slurm(time='1; x'), Slurm(log='a b'), Slurm(constraint='a b'), Slurm(qos='$(x)'),
  ],
)  # fmt: skip
def test_directives_take_only_words(settings):
  with pytest.raises(ConfigError):
    batch_file(JOB, settings)


def test_every_engine_has_a_page_whose_commands_it_takes(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  pages = sorted((ROOT / 'launch').rglob('README.md'))
  shown = set()
  for page in pages:
    for block in re.findall(r'```\n(.*?)```', page.read_text(), re.DOTALL):
      for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] != ['python', '-m', 'launch']:
          continue
        shown.add(words[3])
        argv = [word for word in words[3:] if not word.startswith('--run=')]
        if words[3] == 'local':
          continue  # tests/faults runs it
        assert cli.main(argv) == 0, (page, line, capsys.readouterr())
        for step in (word.removeprefix('--run=') for word in words if word.startswith('--run=')):
          assert f'# {step}: ' in capsys.readouterr().out, (page, line)
  assert shown == set(cli.ENGINES)


def test_command_line(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert cli.main([]) == 0
  assert cli.main(['borg']) == 2
  flags = ['--name=x', '--config=c.py', '--workdir=w', '--config.optim.peak_lr=1e-3']
  assert cli.main(['slurm', *flags, '--out=job.sbatch']) == 0
  assert '--config.optim.peak_lr=1e-3' in (tmp_path / 'job.sbatch').read_text()
  assert cli.main(['slurm', *flags, '--run=fly']) == 2
  assert "--run = 'fly': expected submit" in capsys.readouterr().err


def test_rendering_is_light():
  modules = list(cli.ENGINES.values())
  code = f'import importlib, sys; [importlib.import_module(m) for m in {modules}]; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
  )
  assert {'jax', 'numpy', 'ray'}.isdisjoint(done.stdout.split())
