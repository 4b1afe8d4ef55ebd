"""The command line: instant help, refusals that name the way out, and nothing heavy imported for either."""

import re
import subprocess
import sys
import time

import pytest

from vitjax.cli.main import COMMANDS, main

HEAVY = ('jax', 'tensorflow', 'torch', 'numpy')


def test_help_answers_within_a_second_and_imports_nothing_heavy():
  code = (
    'import sys; from vitjax.cli.main import main; main(["--help"]); '
    f'loaded = [m for m in {HEAVY!r} if m in sys.modules]; assert not loaded, loaded'
  )
  began_s = time.perf_counter()
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
  elapsed_s = time.perf_counter() - began_s
  assert result.returncode == 0, result.stderr
  assert all(name in result.stdout for name in COMMANDS)
  assert elapsed_s < 1.0


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
  with pytest.raises(SystemExit) as stop:
    main([command, '--help'])
  assert stop.value.code == 0
  # The first line is the usage; the example stands further down.
  assert re.search(rf'^ *vitjax {command}\b', capsys.readouterr().out.split('\n\n', 1)[1], re.MULTILINE)


def test_unknown_command_is_refused_with_a_suggestion(capsys):
  assert main(['trian']) == 2
  assert "did you mean 'train'" in capsys.readouterr().err


def test_unknown_flag_is_refused_with_a_suggestion(capsys):
  with pytest.raises(SystemExit) as stop:
    main(['train', '--config=x.py', '--workdri=y'])
  assert stop.value.code == 2
  assert 'did you mean --workdir' in capsys.readouterr().err


def test_override_without_a_value_is_refused(capsys):
  with pytest.raises(SystemExit) as stop:
    main(['train', '--config=x.py', '--config.optim.peak_lr'])
  assert stop.value.code == 2
  assert '--config.optim.peak_lr=VALUE' in capsys.readouterr().err


def test_missing_workdir_is_refused_before_jax():
  code = (
    'import sys; from vitjax.cli.main import main; code = main(["train", "--config=configs/quickstart.py"]); '
    'assert "jax" not in sys.modules; sys.exit(code)'
  )
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
  assert result.returncode == 2
  assert '--workdir' in result.stderr


def test_wrong_overrides_and_what_else_is_wrong_are_reported_together(capsys):
  edits = ['optim.peek_lr=1', 'data.batch_size=many', 'model.patch_size=5', 'seed=-1']
  flags = ['--config=configs/quickstart.py', '--workdir=x', *(f'--config.{edit}' for edit in edits)]
  assert main(['train', *flags]) == 2
  text = capsys.readouterr().err
  for part in ('Did you mean optim.peak_lr', "data.batch_size = 'many'", 'model.patch_size = 5', 'seed = -1'):
    assert part in text
