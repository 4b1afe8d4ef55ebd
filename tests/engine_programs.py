"""Where the engines are: on PATH, or in the environments that `make engines` makes."""

import os
import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENTS = (
  pathlib.Path(os.environ['VITJAX_ENGINES']) if 'VITJAX_ENGINES' in os.environ else ROOT / '.venv-engines'
)


def program(name, environment=None):
  """Returns the path of a program; skips the test, saying so, where it is missing."""
  found = None if environment is None else shutil.which(str(ENVIRONMENTS / environment / 'bin' / name))
  found = found or shutil.which(name)
  if found is None:
    pytest.skip(f'{name} is not installed: see `make engines`')
  return found
