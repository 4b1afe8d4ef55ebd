"""train, resume, eval, predict and --dry_run, as a person calls them, on a tiny recipe."""

import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from vitjax.cli.main import main
from vitjax.training.metrics import read_metrics

QUICKSTART = pathlib.Path(__file__).parents[3] / 'configs' / 'quickstart.py'


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A workdir of the quickstart's smoke recipe."""
  path = tmp_path_factory.mktemp('cli') / 'run'
  assert main(['train', f'--config={QUICKSTART}:smoke', f'--workdir={path}']) == 0
  return path


@pytest.fixture
def digit(tmp_path):
  path = tmp_path / 'a digit.png'
  cv2.imwrite(str(path), np.full((28, 28), 128, np.uint8))
  return str(path)


def test_train_leaves_metrics_and_checkpoints(workdir):
  rows = read_metrics(workdir)
  assert [row['step'] for row in rows] == [2, 4]
  assert rows[-1]['val/num_examples'] == 40
  assert {'train/loss', 'perf/images_per_s', 'val/accuracy_top1'} <= rows[-1].keys()
  assert 'perf/mfu' not in rows[-1], 'the peak rate of a CPU is unknown, and unknown figures are left out'
  assert (workdir / 'checkpoints' / '4').is_dir()


def test_train_again_finds_nothing_left_to_do(workdir, capsys):
  before = (workdir / 'metrics.jsonl').read_text()
  assert main(['train', f'--config={QUICKSTART}:smoke', f'--workdir={workdir}']) == 0
  assert (workdir / 'metrics.jsonl').read_text() == before
  assert 'val/accuracy_top1' in capsys.readouterr().out


def test_eval_repeats_the_figures_of_training(workdir, capsys):
  assert main(['eval', f'--checkpoint={workdir}']) == 0
  lines = dict(line.split(' = ') for line in capsys.readouterr().out.splitlines() if ' = ' in line)
  last = read_metrics(workdir)[-1]
  assert float(lines['val/accuracy_top1']) == pytest.approx(last['val/accuracy_top1'], abs=1e-6)
  assert float(lines['val/loss']) == pytest.approx(last['val/loss'], rel=1e-5)


def test_eval_on_another_split(workdir, capsys):
  assert main(['eval', f'--checkpoint={workdir}', '--config.evals.val.source.split=test[:17]']) == 0
  assert 'val/num_examples = 17' in capsys.readouterr().out


def test_predict_prints_five_named_classes(workdir, digit, capsys):
  assert main(['predict', digit, f'--checkpoint={workdir}']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == digit
  assert len(lines) == 6
  assert all(line.strip().split()[0].endswith('%') for line in lines[1:])


def test_predict_names_unreadable_images_and_still_reads_the_others(workdir, digit, tmp_path, capsys):
  broken = tmp_path / 'broken.jpg'
  broken.write_bytes(b'\xff\xd8\xff no jpeg')
  missing = tmp_path / 'missing.png'
  assert main(['predict', str(broken), digit, str(missing), f'--checkpoint={workdir}']) == 2
  output = capsys.readouterr()
  assert digit in output.out
  assert 'broken.jpg' in output.err
  assert 'missing.png' in output.err


def test_predict_imports_neither_tensorflow_nor_torch(workdir, digit):
  code = (
    'import sys; from vitjax.cli.main import main; '
    f'code = main(["predict", {digit!r}, "--checkpoint={workdir}"]); '
    'loaded = [m for m in ("tensorflow", "torch") if m in sys.modules]; assert not loaded, loaded; sys.exit(code)'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120, capture_output=True)


def test_dry_run_shows_everything_and_writes_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert (
    main(
      [
        'train',
        f'--config={QUICKSTART}',
        '--dry_run',
        '--config.parallel.fsdp=2',
        '--config.data.batch_size=96',
        '--config.evals.val.batch_size=200',
      ]
    )
    == 0
  )
  text = capsys.readouterr().out
  for part in (
    'optim.peak_lr',
    'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel',
    'GFLOP',
    'fsdp',
    'MiB',
    'steps',
  ):
    assert part in text
  assert not list(tmp_path.iterdir())


def test_data_writes_a_contact_sheet_and_counts(tmp_path, capsys):
  sheet = tmp_path / 'sheet.png'
  assert main(['data', f'--config={QUICKSTART}', f'--out={sheet}']) == 0
  assert cv2.imread(str(sheet)) is not None
  assert 'train' in capsys.readouterr().out


def test_eval_of_nothing_says_what_was_expected(tmp_path, capsys):
  assert main(['eval', f'--checkpoint={tmp_path / "nowhere"}']) == 2
  assert 'nowhere' in capsys.readouterr().err
