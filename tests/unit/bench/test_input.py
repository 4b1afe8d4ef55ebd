"""The input report adds up, says what an accelerator needs, and warns where this host is too slow."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from vitjax.bench import input_command
from vitjax.bench.input import MODELS, InputReport, feeding_table, measure_input, needed_rate, shortage
from vitjax.bench.input_report import input_text
from vitjax.bench.photos import write_photos
from vitjax.config import default_config, parse_recipe
from vitjax.config.schema import DataConfig, ModelConfig, SourceConfig
from vitjax.data import open_source

REPORT = InputReport(
  stages={'read': 0.1e-3, 'decode': 0.5e-3, 'resize': 0.1e-3, 'batch': 0.3e-3},
  images_per_core_s=1000.0,
  images_per_s=1900.0,
  num_cores=2,
  image_size=(224, 224),
  where='photographs',
  compiled=True,
  seconds=1,
)
H100 = types.SimpleNamespace(device_kind='NVIDIA H100 80GB HBM3')


def recipe(**model):
  config = default_config()
  for name, value in model.items():
    config.model[name] = value
  return parse_recipe(config)


def test_photographs_have_the_size_of_real_ones_and_differ(tmp_path):
  files = write_photos(tmp_path, 4)
  assert len({path.read_bytes() for path in files}) == 4
  for path in files:
    assert 45_000 < path.stat().st_size < 85_000
    with Image.open(path) as image:
      assert image.size == (500, 375)
  assert open_source(SourceConfig(kind='image_folder', path=str(tmp_path))).class_names == ('china', 'flower')


@pytest.mark.parametrize('crop', ['inception', 'shift'])
def test_the_stages_add_up_to_the_pipeline(tmp_path, crop):
  write_photos(tmp_path, 8)
  config = DataConfig(batch_size=8, image_size=(32, 32), crop=crop, num_threads=2)
  source = open_source(SourceConfig(kind='image_folder', path=str(tmp_path)))
  report = measure_input(config, source, seconds=0.3)
  assert list(report.stages) == ['read', 'decode', 'resize', 'batch']
  assert sum(report.stages.values()) >= 1 / report.images_per_core_s * 0.999
  assert report.stages['decode'] > report.stages['read']
  assert report.images_per_s > 10


def test_an_h100_needs_what_its_peak_and_the_models_flops_say():
  rate = needed_rate(
    ModelConfig(variant='B/16'), image_size=(224, 224), num_classes=1000, peak=989e12, mfu=0.4
  )
  assert rate == pytest.approx(9385 * 0.4, rel=0.01)  # 105.4 GFLOP an image
  table = dict(feeding_table(REPORT, mfu=0.4))
  assert table['NVIDIA H100 80GB HBM3'][MODELS.index('B/16')] == pytest.approx(rate / 1000)
  small = dataclasses.replace(REPORT, image_size=(28, 28))
  assert [n is None for n in dict(feeding_table(small, mfu=0.4))['TPU v4']] == [True, True, True, True, False]


def test_a_host_that_is_too_slow_is_told_so():
  text = shortage(recipe(), REPORT, num_classes=1000, devices=[H100] * 8, mfu=0.4)
  assert '8 x NVIDIA H100' in text
  assert 'About 31 cores' in text
  assert shortage(recipe(variant='H/14'), REPORT, num_classes=1000, devices=[H100], mfu=0.4) == ''
  cpu = types.SimpleNamespace(device_kind='cpu')
  assert shortage(recipe(), REPORT, num_classes=1000, devices=[cpu], mfu=0.4) == ''


def test_the_report_fits_on_a_screen_and_names_its_assumption():
  text = input_text(REPORT, mfu=0.4)
  assert max(len(line) for line in text.splitlines()) <= 100
  assert 'at 40% MFU' in text
  assert '95% of 2 x one core' in text
  assert 'not installed' in input_text(dataclasses.replace(REPORT, compiled=False), mfu=0.4)


def test_the_command_writes_a_page_and_a_picture(tmp_path, monkeypatch):
  monkeypatch.setattr(input_command, '_NUM_PHOTOS', 4)
  peers = tmp_path / 'peers.md'
  peers.write_text('| who | rate |\n')
  config = default_config()
  config.data.image_size, config.data.batch_size = 32, 8
  text = input_command.bench_input(
    parse_recipe(config), photos=True, out=str(tmp_path), peers=str(peers), seconds=0.1
  )
  assert 'photographs' in text
  page = (tmp_path / 'INPUT.md').read_text()
  assert '| who | rate |' in page
  assert '(INPUT.png)' in page
  with Image.open(tmp_path / 'INPUT.png') as picture:
    assert np.asarray(picture).std() > 10
