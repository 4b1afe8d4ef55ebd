"""vitjax probe: features of a checkpoint against raw pixels, on embedded digits and on image folders."""

import pathlib

import cv2
import numpy as np
import pytest

from vitjax.cli.main import main
from vitjax.config.schema import SourceConfig
from vitjax.data import open_source

QUICKSTART = pathlib.Path(__file__).parents[3] / 'configs' / 'quickstart.py'


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir of the quickstart's smoke recipe."""
  path = tmp_path_factory.mktemp('probe') / 'run'
  assert main(['train', f'--config={QUICKSTART}:smoke', f'--workdir={path}']) == 0
  return path


def write_images(root, per_class, skip=0):
  """Writes some of scikit-learn's digits 0, 1 and 2 as PNG files into a folder per class."""
  source = open_source(SourceConfig(kind='digits', split='all'))
  labels = source.labels()
  for label, name in enumerate(('zero', 'one', 'two')):
    (root / name).mkdir(parents=True)
    for i in np.flatnonzero(labels == label)[skip : skip + per_class]:
      cv2.imwrite(str(root / name / f'{i}.png'), source.load(int(i))[0])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Twenty images of each of three classes, without splits."""
  root = tmp_path_factory.mktemp('digits')
  write_images(root, 20)
  return root


@pytest.fixture(scope='module')
def split_folder(tmp_path_factory):
  """The same with train/ and val/."""
  root = tmp_path_factory.mktemp('split')
  write_images(root / 'train', 12)
  write_images(root / 'val', 8, skip=12)
  return root


def table_of(text):
  """Returns {metric: [features, pixels]} of what the command has printed."""
  lines = text.splitlines()
  header = next(i for i, line in enumerate(lines) if 'pixels 32x32 [3072]' in line)
  assert 'features [64]' in lines[header]
  rows = [line.replace(' +- ', '+-').split() for line in lines[header + 1 :]]
  return {row[0]: [float(cell.partition('+-')[0]) for cell in row[1:]] for row in rows}


@pytest.mark.parametrize(
  ('flags', 'metrics'),
  [
    (
      ['--kind=fewshot', '--shots=1,4', '--num_draws=2', '--ridge_l2=1'],
      ['accuracy_1shot', 'accuracy_4shot'],
    ),
    (['--kind=knn', '--num_neighbours=1'], ['accuracy_1nn']),
    (['--probe_l2=1e-2'], ['accuracy_top1', 'loss', 'l2']),
  ],
)
def test_every_kind_prints_features_beside_pixels(workdir, split_folder, flags, metrics, capsys):
  assert main(['probe', f'--checkpoint={workdir}', f'--data={split_folder}', *flags]) == 0
  text = capsys.readouterr().out
  table = table_of(text)
  assert list(table) == metrics
  accuracies = [cell for name in metrics for cell in table[name] if name.startswith('accuracy')]
  assert all(1 / 3 < cell <= 1 for cell in accuracies), table
  num_train = '36' if '--kind=fewshot' not in flags else ''
  assert f'{num_train} images to learn from, 24 to test on, 3 classes' in text
  assert 'always naming the largest class: 0.3333' in text


def test_embedded_digits_use_their_own_split(workdir, capsys):
  arguments = ['--kind=fewshot', '--shots=1', '--num_draws=1', '--batch_size=256']
  assert main(['probe', f'--checkpoint={workdir}', '--data=digits', *arguments]) == 0
  text = capsys.readouterr().out
  assert '10 images to learn from, 397 to test on, 10 classes' in text
  assert table_of(text)['accuracy_1shot'][1] > 0.3


def test_a_folder_without_splits_is_divided_by_a_seed(workdir, folder, capsys):
  def table(*flags):
    assert main(['probe', f'--checkpoint={workdir}', f'--data={folder}', '--probe_l2=0.01', *flags]) == 0
    text = capsys.readouterr().out
    return text.partition('to test on')[0].splitlines()[-1], table_of(text)

  sizes, default = table()
  assert '48 images to learn from, 12' in sizes
  assert table('--split_seed=0') == (sizes, default)
  assert table('--split_seed=1')[1]['loss'] != default['loss']
  assert '30 images to learn from, 30' in table('--train_share=0.5')[0]


@pytest.mark.parametrize(
  ('flags', 'part'),
  [
    (['--shots=5'], '--shots = 5: expected to be left out: it is read with --kind=fewshot'),
    (['--kind=knn', '--temperature=hot'], '--temperature = hot: expected a number'),
    (['--kind=knn', '--num_neighbours=0'], '--num_neighbours = 0'),
    (['--kind=fewshot', '--shots=1,x'], '--shots = 1,x'),
    (['--probe_l2=1', '--held_out=0.5'], '--held_out = 0.5: expected to be left out'),
    (['--pixels=0', '--batch_size=-1'], '--batch_size = -1: expected at least 1'),
    (['--image_size=0'], '--image_size = 0: expected at least 1'),
    (['--train_share=1'], '--train_share = 1'),
    (['--split_seed=-1'], '--split_seed = -1'),
  ],
)
def test_flags_that_are_wrong_or_unread_are_refused(flags, part, capsys):
  assert main(['probe', '--checkpoint=nowhere', '--data=nowhere', *flags]) == 2
  assert part in capsys.readouterr().err


def test_a_split_is_not_divided_again(split_folder, capsys):
  assert main(['probe', '--checkpoint=nowhere', f'--data={split_folder}', '--train_share=0.5']) == 2
  assert 'has a split of its own (train, val)' in capsys.readouterr().err


def test_a_class_with_fewer_images_than_shots_is_named(workdir, split_folder, capsys):
  arguments = ['--kind=fewshot', '--shots=13']
  assert main(['probe', f'--checkpoint={workdir}', f'--data={split_folder}', *arguments]) == 2
  assert "--shots = 13: expected at most 12: class 'one'" in capsys.readouterr().err


def test_folders_that_cannot_be_used_are_named(workdir, tmp_path, capsys):
  assert main(['probe', '--checkpoint=nowhere', f'--data={tmp_path / "missing"}']) == 2
  assert 'missing' in capsys.readouterr().err
  write_images(tmp_path / 'lonely', 1)
  assert main(['probe', '--checkpoint=nowhere', f'--data={tmp_path / "lonely"}']) == 2
  assert 'zero = 1 image: expected at least 2' in capsys.readouterr().err
  write_images(tmp_path / 'tests' / 'test', 2)
  write_images(tmp_path / 'tests' / 'val', 2)
  assert main(['probe', '--checkpoint=nowhere', f'--data={tmp_path / "tests"}']) == 2
  assert 'nothing to learn from' in capsys.readouterr().err


def test_a_damaged_image_is_named(workdir, tmp_path, capsys):
  write_images(tmp_path, 4)
  (tmp_path / 'two' / 'broken.png').write_bytes(b'no image')
  assert main(['probe', f'--checkpoint={workdir}', f'--data={tmp_path}', '--kind=knn']) == 2
  assert 'broken.png' in capsys.readouterr().err


def test_eval_judges_features_by_overrides_alone(workdir, capsys):
  overrides = {
    'kind': 'knn',
    'num_neighbours': '(3,)',
    'train_source.kind': 'digits',
    'source.kind': 'digits',
  }
  overrides |= {'train_source.split': 'train[:100]', 'source.split': 'test[:50]'}
  flags = [f'--config.evals.val.{name}={value}' for name, value in overrides.items()]
  assert main(['eval', f'--checkpoint={workdir}', *flags]) == 0
  text = capsys.readouterr().out
  assert 'val/accuracy_3nn = ' in text
  assert 'val/num_examples = 50' in text
