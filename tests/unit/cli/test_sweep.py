"""Grids, what chooses, job files for engines; and, slowly, a sweep that trains."""

import json
import pathlib

import pytest

from vitjax.cli import sweep
from vitjax.cli.main import main
from vitjax.errors import ConfigError

CONFIG = str(pathlib.Path(__file__).parents[3] / 'configs' / 'quickstart.py')
HELD_OUT = ['--metric=val/accuracy_top1', '--config.evals.val.source.split=train[3000:3100]']


def test_every_combination_is_a_point():
  points = sweep.grid_points(['optim.peak_lr=0.1,0.2', 'data.image_size=(28, 28),(32, 32)', 'seed=0'])
  assert len(points) == 4
  assert points[1] == {'optim.peak_lr': '0.1', 'data.image_size': '(32, 32)', 'seed': '0'}


@pytest.mark.parametrize('grids', [['optim.peak_lr'], ['=1'], ['a=1,,2'], ['a=1,1'], ['a=1', 'a=2']])
def test_unreadable_grids_are_refused(grids):
  with pytest.raises(ConfigError, match='--grid'):
    sweep.grid_points(grids)


def results(*scores):
  return [{'score': score, 'steps': 10} for score in scores]


def test_the_mean_over_seeds_chooses():
  points = sweep.grid_points(['lr=1,2', 'seed=0,1'])
  rows = sweep.summarise(points, results(0.9, 0.1, 0.6, 0.5))
  assert [row['labels'] for row in rows] == [{'lr': '2'}, {'lr': '1'}]
  assert rows[0] | {'labels': 0} == {
    'labels': 0, 'score': pytest.approx(0.55), 'lowest': 0.5, 'highest': 0.6, 'runs': 2, 'steps': 10,
  }  # fmt: skip
  text = sweep.table(rows, 'val/accuracy_top1')
  assert text.splitlines()[1].split() == ['2', '0.5500', '0.5000', '..', '0.6000', '2', '10']
  assert max(map(len, text.splitlines())) <= 100


def test_losses_fall_and_points_that_are_not_done_come_last():
  points = sweep.grid_points(['lr=1,2,3,4'])
  rows = sweep.summarise(points, results(0.5, None, 0.3, float('nan')), smallest=True)
  assert [row['labels']['lr'] for row in rows] == ['3', '1', '2', '4']
  assert 'not done' in sweep.table(rows, 'val/loss')


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--metric=val/accuracy_top1'], 'A test split never chooses'),
    (['--metric=best/accuracy_top1'], 'EVALUATOR/NAME'),
    ([*HELD_OUT, '--grid=optim.peek_lr=1'], 'optim.peak_lr'),
    ([*HELD_OUT, '--grid=shots=3,x'], 'shots'),
  ],
)
def test_wrong_sweeps_are_refused_before_anything_runs(flags, message, tmp_path, capsys):
  assert (
    main(['sweep', f'--config={CONFIG}', '--grid=optim.b2=0.9', f'--workdir={tmp_path / "w"}', *flags]) == 2
  )
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'w').exists()


def launched(tmp_path, *more):
  grid = ['--grid=optim.peak_lr=0.001,0.01', '--grid=model=vit,resnet']
  return main(['sweep', f'--config={CONFIG}:smoke', *grid, *HELD_OUT, f'--workdir={tmp_path}', *more])


def test_an_engine_gets_one_job_per_point(tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(pathlib.Path(CONFIG).parents[1])
  assert launched(tmp_path, '--launcher=slurm', '--', '--hosts=1', '--devices=8', '--time=1:00:00') == 0
  out = capsys.readouterr().out
  assert f'sbatch {tmp_path}/jobs/sweep-0' in out
  jobs = sorted((tmp_path / 'jobs').iterdir())
  assert len(jobs) == 4
  text = jobs[3].read_text()
  assert '#SBATCH --time=1:00:00' in text
  assert f"'--config={CONFIG}:smoke,model=resnet'" in text or f'--config={CONFIG}:smoke,model=resnet' in text
  assert '--config.optim.peak_lr=0.01' in text
  assert launched(tmp_path, '--launcher=slurm', '--', '--hosts=1', '--time=soon') == 2
  assert '--time' in capsys.readouterr().err


def test_what_has_been_trained_elsewhere_is_collected(tmp_path, capsys):
  names = [f'optim.peak_lr-{rate}_model-{model}' for rate in ('0.001', '0.01') for model in ('vit', 'resnet')]
  for i, name in enumerate(names):
    (tmp_path / name).mkdir()
    row = {'step': 2 if i == 3 else 4, 'val/accuracy_top1': 0.1 * i}
    (tmp_path / name / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
  assert launched(tmp_path, '--collect') == 1
  captured = capsys.readouterr()
  assert 'at step 2 of 4' in captured.err
  assert 'chosen' not in captured.out
  (tmp_path / names[3] / 'metrics.jsonl').write_text('{"step": 4, "val/accuracy_top1": 0.05}\n')
  assert launched(tmp_path, '--collect') == 0
  chosen = capsys.readouterr().out.splitlines()[-1]
  assert ':smoke,model=vit' in chosen
  assert '--config.optim.peak_lr=0.01' in chosen
  assert len(json.loads((tmp_path / 'results.json').read_text())['points']) == 4


@pytest.mark.slow
def test_a_sweep_trains_chooses_and_resumes(tmp_path, capsys):
  command = [
    'sweep', f'--config={CONFIG}:smoke', '--grid=optim.peak_lr=0.001,0.01', *HELD_OUT, f'--workdir={tmp_path}',
  ]  # fmt: skip
  assert main(command) == 0
  first = capsys.readouterr().out
  assert 'chosen: ' in first
  done = {path: path.stat().st_mtime_ns for path in tmp_path.glob('*/result.json')}
  assert len(done) == 2
  assert main(command) == 0
  assert {path: path.stat().st_mtime_ns for path in tmp_path.glob('*/result.json')} == done
