"""Manifests and flags against the engines' own schemas, dry runs and help texts."""

import functools
import json
import re
import shlex
import subprocess

import pytest
import yaml
from engine_programs import ROOT, program

from launch.gke.jobset import JobSet, manifest
from launch.gke.xpk import Xpk, workload_argv
from launch.job import Job
from launch.ray.render import Ray, driver_argv
from launch.skypilot.render import SkyPilot, task
from launch.slurm.render import Slurm, batch_file
from launch.tpu.render import TpuVm, steps

pytestmark = pytest.mark.engines
JOB = Job(
  'l16', 4, 'configs/pretrain.py:model=L/16', 'gs://b/l16', 8, (('optim.peak_lr', "it's"), ('a.b', '$(X)'))
)
# Which program, with the words that choose a subcommand, and the environment it lives in.
TOOLS = {'xpk': ('xpk', 'xpk'), 'sky': ('sky', 'skypilot'), 'ray': ('ray', 'ray')}


def run(argv, **more):
  return subprocess.run(argv, capture_output=True, text=True, timeout=120, **more)


# Pydantic models that Kubeflow generates from JobSet's and Kubernetes' OpenAPI documents. They pass over unknown
# fields, so what they read is written again and compared.
CHECK = """
import json, sys
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
found = json.load(sys.stdin)
read = JobsetV1alpha2JobSet.from_dict(found)
print(json.dumps(json.loads(read.to_json())))
"""


@pytest.mark.parametrize(
  'settings',
  [
    JobSet('img:1', gpu_type='nvidia-h100-80gb', queue='q'),
    JobSet('img:1', tpu_type='tpu-v5-lite-podslice', tpu_topology='4x4', slices=2),
  ],
)
def test_jobset_is_one_by_its_published_schema(settings):
  python = program('python', 'jobset')
  rendered = manifest(JOB, settings)
  done = run([python, '-c', CHECK], input=json.dumps(rendered))
  if 'No module named' in done.stderr:
    pytest.skip('kubeflow-trainer-api is not installed: see `make engines`')
  assert done.returncode == 0, done.stderr[-2000:]
  assert json.loads(done.stdout) == rendered


def test_the_schema_check_can_fail():
  python = program('python', 'jobset')
  rendered = manifest(JOB, JobSet('img'))
  rendered['spec']['failurePolicy']['maxRestart'] = 3
  done = run([python, '-c', CHECK], input=json.dumps(rendered))
  if 'No module named' in done.stderr:
    pytest.skip('kubeflow-trainer-api is not installed: see `make engines`')
  assert done.returncode != 0 or json.loads(done.stdout) != rendered


@pytest.mark.parametrize('device', [{'tpu_type': 'v5litepod-16'}, {'device_type': 'h100-80gb-8'}])
def test_xpk_takes_the_workload(device, tmp_path):
  xpk = program('xpk', 'xpk')
  job = Job(
    'l16', 2, 'configs/pretrain.py:model=L/16', 'gs://b/l16', overrides=(('optim.name', 'a b; x & #'),)
  )
  argv = workload_argv(job, Xpk('c', 'gcr.io/p/img:1', project='p', zone='us-west4-a', **device))
  out = tmp_path / 'manifest.yaml'
  extra = ['--dry-run', '--skip-validation', f'--output-manifest-file={out}']
  done = run([xpk, *argv[1:], *extra], env={'HOME': str(tmp_path), 'PATH': f'{tmp_path}:/usr/bin:/bin'})
  assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
  (found,) = [one for one in yaml.safe_load_all(out.read_text()) if one['kind'] == 'JobSet']
  assert found['metadata']['name'] == 'l16'
  # xpk folds the line where it stands inside a script.
  assert any(job.shell_line() in ' '.join(text.split()) for text in texts(found))


def texts(node):
  """Yields every text of nested dicts and lists."""
  if isinstance(node, str):
    yield node
  elif isinstance(node, dict | list):
    for child in node.values() if isinstance(node, dict) else node:
      yield from texts(child)


SKY = """
import json, sys, jsonschema
from sky.utils import schemas
task = json.load(sys.stdin)
jsonschema.validate(task, schemas.get_task_schema())
jsonschema.validate(task['resources'], schemas.get_resources_schema())
"""


def test_skypilot_takes_the_task(tmp_path):
  python = program('python', 'skypilot')
  rendered = task(JOB, SkyPilot(accelerators='H100:8', infra='gcp/us-central1', spot=True))
  done = run(
    [python, '-c', SKY], input=json.dumps(rendered), env={'HOME': str(tmp_path), 'PATH': '/usr/bin:/bin'}
  )
  if 'No module named' in done.stderr:
    pytest.skip('skypilot is not installed: see `make engines`')
  assert done.returncode == 0, done.stderr[-2000:]


@functools.cache
def help_of(path, *words):
  done = run([path, *words, '--help'], env={'HOME': '/tmp', 'PATH': '/usr/bin:/bin', 'COLUMNS': '200'})
  assert done.returncode == 0, done.stderr[-1000:]
  return done.stdout


def commands():
  """Yields the commands of TOOLS that the pages show and that are rendered."""
  for page in sorted((ROOT / 'launch').rglob('README.md')):
    for block in re.findall(r'```\n(.*?)```', page.read_text(), re.DOTALL):
      for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] in TOOLS:
          yield words
  xpk = Xpk('c', 'i', tpu_type='t', project='p', zone='z')
  yield [
    *workload_argv(Job('l16', 1, 'c.py', 'w'), xpk),
    '--dry-run',
    '--skip-validation',
    '--output-manifest-file=x',
  ]
  yield workload_argv(Job('l16', 1, 'c.py', 'w'), Xpk('c', 'i', device_type='d'))
  yield ['sky', 'jobs', 'launch', '--yes', '--name', 'l16', 'l16.sky.yaml']
  yield ['ray', 'job', 'submit', '--address=a', '--working-dir=.', '--', *driver_argv(JOB, Ray())]


@pytest.mark.parametrize('tool', TOOLS)
def test_flags_exist(tool):
  path = program(*TOOLS[tool])
  seen = 0
  for words in commands():
    if words[0] != tool:
      continue
    words = words[: words.index('--')] if '--' in words else words
    chosen = [word for word in words[1:4] if re.fullmatch('[a-z]+', word)]
    text = help_of(path, *chosen[:2])
    for flag in (word.partition('=')[0] for word in words if word.startswith('--')):
      assert re.search(rf'{re.escape(flag)}\b', text), f'{tool} {" ".join(chosen[:2])} has no {flag}'
      seen += 1
  assert seen > 1


def test_sbatch_directives_exist(tmp_path):
  sbatch, srun = program('sbatch'), program('srun')
  # They want a cluster even to print their help.
  (tmp_path / 'slurm.conf').write_text('ClusterName=none\nSlurmctldHost=none\n')
  env = {'SLURM_CONF': str(tmp_path / 'slurm.conf'), 'PATH': '/usr/bin:/bin'}
  text = run([sbatch, '--help'], env=env).stdout
  batch = batch_file(
    Job('l16', 4, 'c.py', 'w', 8, folder='/x'), Slurm(partition='p', account='a', qos='q', constraint='c')
  )
  directives = re.findall(r'^#SBATCH (--[a-z-]+)', batch, re.MULTILINE)
  assert len(directives) == 14
  for flag in directives:
    # --help leaves two out; the manual has them.
    assert flag in text or flag in ('--gpus-per-node', '--open-mode'), flag
  text = run([srun, '--help'], env=env).stdout
  for flag in re.findall(r'(--[a-z-]+)', batch.partition('\nsrun ')[2].partition(' vitjax')[0]):
    assert flag in text, flag


def test_gcloud_flags_exist():
  gcloud = program('gcloud')
  for queued in (True, False):
    vm = TpuVm('v5litepod-16', 'z', project='p', queued=queued, spot=True)
    for argv in steps(JOB, vm).values():
      text = help_of(gcloud, *[word for word in argv[1:5] if not word.startswith('-')])
      for flag in (word.partition('=')[0] for word in argv if word.startswith('--')):
        assert flag in text, (argv, flag)
