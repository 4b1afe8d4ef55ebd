"""Every experiment in configs/experiments runs in its smoke form, resumes, and writes its page."""

import pathlib
import re
import shlex

import pytest

from vitjax.cli.main import main

FOLDER = pathlib.Path(__file__).parents[2] / 'configs' / 'experiments'
NAMES = sorted(path.stem for path in FOLDER.glob('*.py') if path.stem != 'small')


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_smoke_form_writes_a_page(name, tmp_path, capsys):
  command = ['experiment', f'--config={FOLDER / name}.py', f'--workdir={tmp_path}', '--smoke']
  command += ['--config.log.tensorboard=False']
  assert main(command) == 0
  page = (tmp_path / 'results.md').read_text()
  assert 'Smoke form' in page
  assert shlex.join(['vitjax', *command]) in page, 'the command that repeats it'
  assert 'nan' not in page
  assert {path.name for path in tmp_path.glob('results.*')} >= {f'results.{s}' for s in ('md', 'csv', 'json')}
  pictures = re.findall(r'!\[[^]]*\]\((.*?)\)', page)
  assert pictures
  assert {path.name for path in tmp_path.glob('*.png')} == set(pictures)
  trained = (tmp_path / 'results.csv').read_text()
  assert main(command) == 0, 'a second call reads the cells back'
  assert (tmp_path / 'results.csv').read_text() == trained
