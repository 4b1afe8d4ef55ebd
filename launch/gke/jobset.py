"""A JobSet: for any Kubernetes cluster with the JobSet controller, with TPUs or GPUs.

  python -m launch jobset --name=l16 --hosts=2 --devices=8 --gpu_type=nvidia-h100-80gb --image=IMAGE \\
    --config=configs/pretrain.py:model=L/16 --workdir=gs://bucket/runs/l16 --run=submit
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import yaml

from launch.job import Job, check, refuse
from launch.rendered import Rendered
from vitjax.errors import Problem

_PORT = 8476
_CONTAINER = 'vitjax'
_GROUP = 'hosts'
_COMPLETION_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# vitjax/errors.py: a run that failed or was refused would fail again.
_FINAL_EXIT_CODES = [1, 2]


@dataclasses.dataclass(frozen=True)
class JobSet:
  """What the cluster needs besides the job.

  Attributes:
    image: container image with vitjax and the recipes.
    gpu_type: GKE's label of the GPU, such as 'nvidia-h100-80gb', or None.
    tpu_type: GKE's label of the TPU, such as 'tpu-v5-lite-podslice', or None. Neither: any node.
    tpu_topology: such as '4x4', for tpu_type.
    slices: TPU slices; the hosts are divided among them.
    queue: Kueue's local queue, None: without Kueue.
    max_restarts: how often the set is started again.
    grace_s: seconds between SIGTERM and SIGKILL, for the save.
  """

  image: str
  gpu_type: str | None = None
  tpu_type: str | None = None
  tpu_topology: str | None = None
  slices: int = 1
  queue: str | None = None
  max_restarts: int = 100
  grace_s: int = 300


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  add = parser.add_argument_group('JobSet').add_argument
  add('--image', required=True, help='container image with vitjax and the recipes')
  add('--gpu_type', help="GKE's label, such as nvidia-h100-80gb")
  add('--tpu_type', help="GKE's label, such as tpu-v5-lite-podslice")
  add('--tpu_topology', help='such as 4x4')
  add('--slices', type=int, default=1, help='TPU slices among which --hosts are divided (1)')
  add('--queue', help="Kueue's local queue")
  add('--max_restarts', type=int, default=100, help='how often it is started again (100)')
  add('--grace_s', type=int, default=300, help='seconds from SIGTERM to SIGKILL, for the save (300)')


def render(job: Job, args: argparse.Namespace) -> Rendered:
  """Returns the manifest of the flags."""
  settings = JobSet(**{f.name: getattr(args, f.name) for f in dataclasses.fields(JobSet)})
  file_name = args.out or f'{job.name}.jobset.yaml'
  text = yaml.safe_dump(manifest(job, settings), sort_keys=False, width=1000)
  return Rendered({'submit': ['kubectl', 'apply', '-f', file_name]}, text, file_name)


def manifest(job: Job, settings: JobSet) -> dict[str, Any]:
  """Returns the JobSet as nested dicts.

  Raises:
    ConfigError: values that Kubernetes would not take.
  """
  names = ('image', 'gpu_type', 'tpu_type', 'tpu_topology', 'queue')
  check(job, [(f'--{name}', getattr(settings, name)) for name in names])
  _check_devices(job, settings)
  metadata: dict[str, Any] = {'name': job.name}
  if settings.queue is not None:
    metadata['labels'] = {'kueue.x-k8s.io/queue-name': settings.queue}
  if settings.tpu_type is not None:
    # One slice per node pool, so that the hosts of a slice are neighbours.
    exclusive = {'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'}
    metadata['annotations'] = exclusive
  final = {'name': 'final', 'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}
  group = {'name': _GROUP, 'replicas': settings.slices, 'template': {'spec': _job_spec(job, settings)}}
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': metadata,
    'spec': {
      'failurePolicy': {'maxRestarts': settings.max_restarts, 'rules': [final]},
      'replicatedJobs': [group],
    },
  }


def _check_devices(job: Job, settings: JobSet) -> None:
  problems = []
  if settings.gpu_type is not None and settings.tpu_type is not None:
    problems.append(Problem('--gpu_type, --tpu_type', '', 'one of the two'))
  if (settings.tpu_type is None) != (settings.tpu_topology is None):
    problems.append(Problem('--tpu_type, --tpu_topology', '', 'both or none'))
  if (settings.gpu_type or settings.tpu_type) and job.devices < 1:
    problems.append(Problem('--devices', str(job.devices), 'the accelerators of each host'))
  if (
    settings.slices < 1 or job.hosts % settings.slices or (settings.tpu_type is None and settings.slices != 1)
  ):
    expected = f'a divisor of --hosts={job.hosts}; 1 without TPUs'
    problems.append(Problem('--slices', str(settings.slices), expected))
  refuse(problems)


def _job_spec(job: Job, settings: JobSet) -> dict[str, Any]:
  per_slice = job.hosts // settings.slices
  final = {'containerName': _CONTAINER, 'operator': 'In', 'values': _FINAL_EXIT_CODES}
  return {
    'parallelism': per_slice,
    'completions': per_slice,
    'completionMode': 'Indexed',
    'backoffLimit': 0,
    'podFailurePolicy': {'rules': [{'action': 'FailJob', 'onExitCodes': final}]},
    'template': {'spec': _pod_spec(job, settings)},
  }


def _pod_spec(job: Job, settings: JobSet) -> dict[str, Any]:
  container: dict[str, Any] = {
    'name': _CONTAINER,
    'image': settings.image,
    # Kubernetes expands $(NAME) in these words; $$( stands for $( itself. No shell reads them.
    'command': [word.replace('$(', '$$(') for word in job.argv()],
    'ports': [{'containerPort': _PORT, 'protocol': 'TCP'}],
  }
  spec: dict[str, Any] = {'restartPolicy': 'Never', 'terminationGracePeriodSeconds': settings.grace_s}
  if job.folder is not None:
    container['workingDir'] = job.folder
  if settings.tpu_type is not None:
    # GKE tells TPU pods their names and ranks, and jax reads them.
    container['resources'] = {'limits': {'google.com/tpu': job.devices}}
    spec['nodeSelector'] = {
      'cloud.google.com/gke-tpu-accelerator': settings.tpu_type,
      'cloud.google.com/gke-tpu-topology': settings.tpu_topology,
    }
  else:
    container['env'] = _environment(job)
  if settings.gpu_type is not None:
    container['resources'] = {'limits': {'nvidia.com/gpu': job.devices}}
    spec['nodeSelector'] = {'cloud.google.com/gke-accelerator': settings.gpu_type}
  return {**spec, 'containers': [container]}


def _environment(job: Job) -> list[dict[str, Any]]:
  """Returns the variables that tell a process its rank, without asking the cluster's API for it."""
  # JobSet names pods SET-GROUP-JOB-POD, below a headless service with the set's own name.
  coordinator = f'{job.name}-{_GROUP}-0-0.{job.name}:{_PORT}'
  return [
    {'name': 'JAX_COORDINATOR_ADDRESS', 'value': coordinator},
    {'name': 'JAX_NUM_PROCESSES', 'value': str(job.hosts)},
    {'name': 'JAX_PROCESS_ID', 'valueFrom': {'fieldRef': {'fieldPath': _COMPLETION_INDEX}}},
  ]
