"""`vitjax bench` times a small recipe, and its figures agree with one another; the report is written from files."""

import dataclasses
import json
import pathlib

import pytest

from vitjax.bench.measure import Measurement
from vitjax.bench.report import write_report
from vitjax.bench.show import table
from vitjax.cli.main import main

RECIPE = pathlib.Path(__file__).parents[3] / 'configs' / 'pretrain.py'


def test_the_command_times_a_recipe_without_its_data(tmp_path, capsys):
  flags = ['--steps=4', f'--out={tmp_path}', '--config.data.image_size=32', '--config.model.depth=1']
  flags += ['--config.data.batch_size=8', '--config.model.dtype=float32']
  assert main(['bench', f'--config={RECIPE}:model=Ti/16', *flags]) == 0
  text = capsys.readouterr().out
  found = Measurement(**json.loads((tmp_path / 'step.json').read_text()))
  assert len(found.step_s) == 4
  assert found.images_per_s == pytest.approx(8 / found.median_s)
  assert {'attention', 'MLP', 'rest'} <= set(found.components)
  assert found.losses[0] > 0
  assert (tmp_path / 'step.png').read_bytes().startswith(b'\x89PNG')
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert 'Ti/16, 32 x 32, batch 8, float32' in text
  assert all(len(line) <= 100 for line in table(found).splitlines()[2:])


def test_a_step_that_would_take_minutes_is_refused(capsys):
  flags = ['--config.model.depth=1', '--config.data.batch_size=80000000', '--config.optim.warmup=1 steps']
  assert main(['bench', f'--config={RECIPE}:model=Ti/16', *flags]) == 2
  assert '--config.data.batch_size=' in capsys.readouterr().err


def test_nothing_to_time_is_refused(capsys):
  assert main(['bench', '--steps=0']) == 2
  text = capsys.readouterr().err
  assert '--config' in text
  assert '--steps' in text


def test_flags_that_nothing_would_read_are_refused(capsys):
  assert main(['bench', '--report=x', '--steps=3', '--photos', '--config=y.py']) == 2
  text = capsys.readouterr().err
  assert all(flag in text for flag in ('--steps', '--photos', '--config'))


def test_the_report_holds_ratios_and_versions(tmp_path):
  row = {'step_s': [1.0, 1.1], 'cpu_s': [2.0, 2.0], 'others': [0, 0], 'versions': {'timm': '1.0'}}
  summary = {'images_per_s': 4.0, 'median_s': 1.0, 'best_s': 1.0, 'worst_s': 1.1, 'cpu_s': 2.0, 'calm': 2}
  machine = {'processor': 'Some CPU', 'cores': 2, 'system': 'Linux'}
  data = {
    'model': 'Ti/16', 'batch': 4, 'threads': 1, 'machine': machine, 'date': '2026-01-01',
    'rows': {'vitjax': row, 'timm': row},
    'summary': {'vitjax': summary, 'timm': {**summary, 'median_s': 1.5, 'cpu_s': 3.0}},
  }  # fmt: skip
  (tmp_path / 'results').mkdir()
  (tmp_path / 'results' / 'compare.json').write_text(json.dumps(data))
  text = write_report(tmp_path).read_text()
  assert '1.50x | 1.50x' in text
  assert 'Some CPU' in text
  assert 'timm 1.0' in text


def test_the_report_sets_warm_starts_beside_cold_ones(tmp_path):
  def start(total):
    return {'total': total, 'imports': 1.0, 'build': 2.0, 'ready': 3.0, 'first step': 0.5}

  data = {
    'machine': {'processor': 'Some CPU', 'cores': 2, 'system': 'Linux'}, 'date': '2026-01-01',
    'versions': {'jax': '0.1'},
    'starts': {'r.py': {'what': 'small', 'cold': [start(20.0), start(24.0)], 'warm': [start(5.0), start(6.0)]}},
  }  # fmt: skip
  (tmp_path / 'results').mkdir()
  (tmp_path / 'results' / 'start.json').write_text(json.dumps(data))
  text = write_report(tmp_path).read_text()
  assert '| 22.0 (20.0 to 24.0) | 5.5 (5.0 to 6.0) | 0.25 | 1.0 | 2.0 | 3.0 | 0.5 |' in text


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
  assert main(['bench', f'--report={tmp_path}']) == 2
  assert 'compare.py' in capsys.readouterr().err


def test_utilisation_names_its_ceiling():
  found = Measurement(
    'r', 'S/16', 8, 'bfloat16', {'image_size': (224, 224), 'device': 'NVIDIA H100', 'num_devices': 1, 'cores': 1},
    {}, '', [0.1], [0.1], 1.0, 1.0, 1e10, 989e12, 700e12, {}, {'rest': 0.1}, (1.0, 0.5),
  )  # fmt: skip
  assert 'of 989 TFLOP/s' in table(found)
  assert 'unknown peak' in table(dataclasses.replace(found, peak_flops_per_s=None))
