"""The architecture as a test: imports point down the list of rooms, and a few habits stay out."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / 'vitjax').rglob('*.py'))

# A room (a folder or a module directly in vitjax/) imports itself and rooms listed before it.
ROOMS = (
  'errors',
  'config',
  'trees',
  'parallel',
  'ops',
  'models',
  'objectives',
  'data',
  'optim',
  'evaluators',
  'checkpoint',
  'golden',
  'weights',
  'loaded',
  'loading',
  'exporting',
  'training',
  'own_images',
  'analysis',
  'bench',
  'planning',
  'cli',
)
NEIGHBOURS = {('analysis', 'training')}  # listed one after the other, yet strangers
LINEN_ROOMS = {'models', 'objectives'}
WITHOUT_JAX = {'errors', 'config'}
HEAVY = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tensorflow', 'torch')


def room_of(path):
  return path.relative_to(ROOT / 'vitjax').parts[0].removesuffix('.py')


def imports_of(tree):
  """Yields (line, dotted name) of everything imported, at any depth; `from a import b` gives 'a.b'."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield node.lineno, f'{"." * node.level}{node.module or ""}.{alias.name}'


def problem_of(room, name):
  """Returns what is wrong with importing `name` in `room`, or None."""
  parts = name.split('.')
  if name.startswith('.'):
    return 'relative import'
  if parts[:2] == ['flax', 'linen'] and room not in LINEN_ROOMS:
    return f'flax.linen outside of {sorted(LINEN_ROOMS)}'
  if parts[0] in HEAVY and room in WITHOUT_JAX:
    return f'{room} stays light: no {parts[0]}'
  if parts[0] != 'vitjax' or room in ('__init__', '__main__') or name in ('vitjax', 'vitjax.__version__'):
    return None
  if parts[1] not in ROOMS:
    return f'{parts[1]!r} is not a room; add it to ROOMS in its place'
  if (room, parts[1]) in NEIGHBOURS or ROOMS.index(parts[1]) > ROOMS.index(room):
    return f'{room} may not import {parts[1]}'
  return None


def complaints(check):
  """Returns 'file:line: message' for every (line, message) that check(path, syntax tree) yields."""
  found = []
  for path in FILES:
    for line, message in check(path, ast.parse(path.read_text())):
      found.append(f'{path.relative_to(ROOT)}:{line}: {message}')
  return found


def test_there_are_files_and_every_room_is_listed():
  assert len(FILES) > 20
  assert {room_of(path) for path in FILES} - {'__init__', '__main__'} <= set(ROOMS)


def test_imports_point_down():
  def check(path, tree):
    for line, name in imports_of(tree):
      problem = problem_of(room_of(path), name)
      if problem:
        yield line, problem

  assert complaints(check) == []


@pytest.mark.parametrize(
  ('room', 'name', 'allowed'),
  [
    ('models', 'vitjax.ops.losses', True),
    ('ops', 'vitjax.models', False),
    ('analysis', 'vitjax.training.build', False),
    ('training', 'vitjax.analysis', False),
    ('data', 'flax.linen', False),
    ('objectives', 'flax.linen.Module', True),
    ('config', 'jax.numpy', False),
    ('data', '.sources.open_source', False),
    ('data', 'vitjax.utils', False),
  ],
)
def test_the_checker_itself(room, name, allowed):
  assert (problem_of(room, name) is None) is allowed


def test_no_type_checking_escapes():
  def check(_, tree):
    for node in ast.walk(tree):
      name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ''
      if name == 'TYPE_CHECKING':
        yield node.lineno, 'TYPE_CHECKING hides an import that points up'

  assert complaints(check) == []


def test_no_get_with_a_default():
  def check(_, tree):
    for node in ast.walk(tree):
      is_get = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get'
      if is_get and (len(node.args) > 1 or any(keyword.arg == 'default' for keyword in node.keywords)):
        yield node.lineno, '.get() with a default: a knob has its default in the schema'

  assert complaints(check) == []


def test_no_drawer_for_everything():
  names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
  assert names.isdisjoint({'utils', 'util', 'helpers', 'misc', 'common'})


def imported_by(code):
  """Returns the names of all modules loaded in a fresh process that has run `code`."""
  command = [sys.executable, '-c', f'{code}\nimport sys; print(*sys.modules)']
  run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
  return set(run.stdout.split())


@pytest.mark.parametrize(
  'code', ['import vitjax', 'import vitjax.config.schema, vitjax.config.variants', 'import vitjax.cli.main']
)
def test_light_imports_pull_in_nothing_heavy(code):
  assert imported_by(code).isdisjoint(HEAVY)
