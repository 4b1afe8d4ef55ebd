#!/usr/bin/env python3
"""Times `vitjax train` from the command to its first step: with an empty compilation cache, then with the filled one.

Each round takes a new cache folder and two new workdirs; both starts run the same command. The figure is the run's own
line 'first step done after', which counts from the start of the process.

  python benchmarks/start.py --rounds=3 --python=.venv/bin/python
  vitjax bench --report=benchmarks

Writes OUT/start.json after every round; a second run adds its rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

from compare import HERE, processor

RECIPES = {
  'configs/quickstart.py': 'a small ViT on MNIST, 28 px',
  'configs/quickstart.py:model=resnet': 'a small ResNet on MNIST, 28 px',
  'benchmarks/start_recipe.py': 'S/16, 224 px, made-up images',
}
_LINE = re.compile(r'first step done after ([\d.]+) s: ([^(]*)\(([^)]*)\)')


def start(recipe: str, python: str, cache: pathlib.Path, workdir: pathlib.Path) -> dict[str, float]:
  """Returns the seconds of one start: 'total', and every part by its name."""
  env = dict(
    os.environ, JAX_PLATFORMS='cpu', PYTHONPATH=str(HERE.parent), JAX_COMPILATION_CACHE_DIR=str(cache)
  )
  command = [python, '-m', 'vitjax', 'train', f'--config={recipe}', f'--workdir={workdir}']
  command += ['--config.stop_after=1 steps']
  run = subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, timeout=300)
  output = run.stdout + run.stderr
  found = _LINE.search(output)
  if run.returncode or found is None:
    sys.exit(f'{" ".join(command)}\n{output[-3000:]}')
  parts = {'total': float(found[1])}
  for text in f'{found[2]}, {found[3]}'.replace(' side by side', '').split(','):
    name, _, seconds = text.strip().rpartition(' ')
    parts |= {name: float(seconds)} if name else {}
  return parts


def main() -> None:
  """Starts every recipe in turn, round after round, and writes the file."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--python', default=sys.executable)
  parser.add_argument('--only', default=','.join(RECIPES), help='comma-separated recipes')
  parser.add_argument('--out', type=pathlib.Path, default=HERE / 'results')
  args = parser.parse_args()
  code = 'import jax, flax, sys; print(jax.__version__, flax.__version__, sys.version.split()[0])'
  versions = subprocess.run(
    [args.python, '-c', code], capture_output=True, text=True, check=True
  ).stdout.split()
  path = args.out / 'start.json'
  rows = json.loads(path.read_text())['starts'] if path.exists() else {}
  for turn in range(args.rounds):
    for recipe in args.only.split(','):
      row = rows.setdefault(recipe, {'what': RECIPES[recipe], 'cold': [], 'warm': []})
      with tempfile.TemporaryDirectory(prefix='vitjax-start-') as name:
        folder = pathlib.Path(name)
        for kind in ('cold', 'warm'):
          row[kind].append(start(recipe, args.python, folder / 'cache', folder / kind))
          print(f'{recipe}, round {turn + 1}, {kind}: {row[kind][-1]}', flush=True)
    write(path, rows, versions)


def write(path: pathlib.Path, rows: dict, versions: list[str]) -> None:
  """Writes the file."""
  found = {
    'kind': 'start',
    'machine': {
      'processor': processor(),
      'cores': os.cpu_count(),
      'system': f'{platform.system()} {platform.machine()}',
    },
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='minutes'),
    'versions': dict(zip(('jax', 'flax', 'Python'), versions, strict=True)),
    'starts': rows,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
  main()
