"""Evaluators of frozen features inside recipes: in the training loop, on any mesh, and across processes."""

import os
import pathlib
import socket
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vitjax.config import evaluator, evaluators, source_config
from vitjax.errors import DataError, TrainingError
from vitjax.training import build, train
from vitjax.training.metrics import read_metrics

TEST = source_config(kind='digits', split='test[:90]')
SUPPORT = source_config(kind='digits', split='train[:150]')


def probes(**edits):
  """Returns one evaluator of each kind on scikit-learn's digits, whatever the run is trained on."""
  shared = {'source': TEST, 'train_source': SUPPORT, 'batch_size': 32, 'every': '4 steps', **edits}
  return evaluators(
    few=evaluator(kind='fewshot', shots=(1, 5), num_draws=2, ridge_l2=(1.0,), **shared),
    near=evaluator(kind='knn', num_neighbours=(1, 20), **shared),
    linear=evaluator(kind='linear_probe', probe_l2=(1e-3, 1e-1), **shared),
  )


METRICS = {
  'few/accuracy_1shot', 'few/accuracy_1shot_std', 'few/accuracy_5shot', 'few/accuracy_5shot_std',
  'near/accuracy_1nn', 'near/accuracy_20nn', 'linear/accuracy_top1', 'linear/loss', 'linear/l2',
  'few/num_examples', 'near/num_examples', 'linear/num_examples',
}  # fmt: skip


def test_the_loop_reports_them_and_keeps_the_best_step(tmp_path):
  edits = {
    'evals': probes(),
    'checkpoint__keep_best': 'near/accuracy_20nn',
    'total': '8 steps',
    'checkpoint__every': '4 steps',
  }
  final = train(build(tiny.tiny_recipe(**edits)), tmp_path / 'a')
  assert set(final) == METRICS
  assert {final[name] for name in METRICS if name.endswith('num_examples')} == {90.0}
  rows = [row for row in read_metrics(tmp_path / 'a') if 'near/accuracy_1nn' in row]
  assert [row['step'] for row in rows] == [4, 8]
  assert all(
    0.15 < final[name] <= 1 for name in METRICS if 'accuracy' in name and not name.endswith('_std')
  ), final
  assert train(build(tiny.tiny_recipe(**edits)), tmp_path / 'b') == final


def features_of(run, params, name='near'):
  """Returns (train, test) features of an evaluator."""
  found = run.evaluators[name]
  return tuple(
    found.extractor.collect(params, batches(), where='x')
    for batches in (found.train_batches, found.test_batches)
  )


def on_devices(num_devices, **edits):
  """Returns a run of the probes on some devices, with the same weights every time."""
  run = build(tiny.tiny_recipe(evals=probes(**edits)), devices=jax.devices()[:num_devices])
  return run, run.init_fn().params


def test_every_example_counts_once_and_in_order_on_one_and_eight_devices():
  sources = build(tiny.tiny_recipe(evals=probes())).evaluators['near']
  collected = {}
  for devices, batch_size in ((1, 32), (8, 64), (1, 7)):
    run, params = on_devices(devices, batch_size=batch_size)
    collected[devices, batch_size] = features_of(run, params)
  for train_features, test_features in collected.values():
    np.testing.assert_array_equal(train_features.labels, sources.probe.support.labels())
    np.testing.assert_array_equal(train_features.index, np.arange(150))
    assert len(test_features.labels) == 90
    assert test_features.values.dtype == np.float32
    for mine, first in zip((train_features, test_features), collected[1, 32], strict=True):
      np.testing.assert_allclose(mine.values, first.values, atol=1e-5)


def test_features_are_what_the_head_sees():
  run, params = on_devices(2)
  train_features, _ = features_of(run, params)
  head = {'kernel': jax.random.normal(jax.random.key(0), (32, 4)), 'bias': jnp.zeros(4)}
  source, preprocess = run.evaluators['near'].probe.support, run.preprocess()
  images = np.stack([preprocess(source.load(i)[0]) for i in range(4)])
  logits = run.objective.predict({**params, 'head': head}, images)
  np.testing.assert_allclose(train_features.values[:4] @ head['kernel'], logits, atol=1e-4)


def test_metrics_are_the_same_on_one_and_eight_devices():
  results = []
  for num_devices in (1, 8):
    run, params = on_devices(num_devices)
    results.append({name: run.evaluators[name].run(params) for name in ('few', 'near')})
  assert results[0] == results[1]


def test_few_shot_reads_only_the_images_that_some_draw_needs():
  run = build(tiny.tiny_recipe(evals=probes()))
  assert len(run.evaluators['near'].probe.support) == 150
  assert 50 <= len(run.evaluators['few'].probe.support) <= 100


def test_a_class_that_is_too_small_is_named_before_training_starts():
  with pytest.raises(DataError, match="evals.few.shots = 5: expected at most 3: class '0'"):
    build(tiny.tiny_recipe(evals=probes(train_source=source_config(SUPPORT, examples_per_class=3))))


def test_other_classes_than_those_of_the_support_set_are_refused():
  other = source_config(kind='synthetic', num_classes=10)
  with pytest.raises(DataError, match='number their classes differently'):
    build(tiny.tiny_recipe(evals=probes(train_source=other)))


def test_a_missing_support_set_is_reported_at_its_path(tmp_path):
  (tmp_path / 'cat').mkdir()
  empty = source_config(kind='image_folder', path=str(tmp_path))
  with pytest.raises(DataError) as caught:
    build(tiny.tiny_recipe(evals=probes(train_source=empty)))
  assert str(tmp_path / 'cat') in str(caught.value)


def test_weights_that_are_not_numbers_end_the_run_with_a_message():
  run, params = on_devices(1)
  params['Transformer']['encoder_norm']['scale'] *= jnp.nan
  with pytest.raises(TrainingError, match='evals.near.train_source = 150 of 150 images'):
    run.evaluators['near'].run(params)


WORKER = """
  import json, sys
  import jax, numpy as np
  from vitjax.parallel import distributed
  distributed.initialize(start_timeout_s=60)
  import tiny
  from vitjax.config import evaluator, evaluators, source_config
  from vitjax.training import build
  source, support = (source_config(kind='digits', split=s) for s in ('test[:41]', 'train[:50]'))
  near = evaluator(kind='knn', source=source, train_source=support, batch_size=8, num_neighbours=(1, 5))
  run = build(tiny.tiny_recipe(evals=evaluators(near=near), parallel__fsdp=2))
  params = run.init_fn().params
  found = run.evaluators['near']
  train = found.extractor.collect(params, found.train_batches(), where='x')
  assert train.labels.tolist() == found.probe.support.labels().tolist()
  print('RESULT', json.dumps([found.run(params), float(np.abs(train.values).sum(dtype=np.float64))]), flush=True)
"""


def run_workers(num_processes, num_devices):
  """Returns the RESULT line of each process of WORKER."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  root = pathlib.Path(__file__).parents[3]
  processes = []
  for i in range(num_processes):
    env = os.environ | {
      'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(num_processes), 'JAX_PROCESS_ID': str(i),
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={num_devices} --xla_backend_optimization_level=0',
      'PYTHONPATH': f'{root}:{root / "tests"}',
    }  # fmt: skip
    command = [sys.executable, '-c', textwrap.dedent(WORKER)]
    processes.append(
      subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    )
  try:
    outputs = [process.communicate(timeout=300)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
      process.communicate()
  found = [line for output in outputs for line in output.splitlines() if line.startswith('RESULT')]
  assert len(found) == num_processes, outputs
  return found


def test_two_processes_get_the_features_of_one():
  first, second = run_workers(2, 2)
  assert first == second
  (alone,) = run_workers(1, 4)
  assert first == alone
