"""The checkpoint of an earlier version that case 22 restores: tests/faults/fixture_0_1.tar.xz, made once by

  PYTHONPATH=.:tests python -m faults.fixture

and then left alone: when the format or the schema moves on, it is what tells whether old checkpoints still load.
"""

from __future__ import annotations

import json
import os
import pathlib
import tarfile
import tempfile

import numpy as np

ARCHIVE = pathlib.Path(__file__).with_name('fixture_0_1.tar.xz')


def images() -> np.ndarray:
  """Returns the images whose logits were stored, uint8 [3, 8, 8, 3]."""
  return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def command(workdir: pathlib.Path) -> list[str]:
  """Returns the command that trained it, without the length."""
  knobs = {
    'model.width': 8, 'model.mlp_dim': 16, 'data.source.num_examples': 32, 'data.source.num_classes': 4,
    'evals.val.source.num_classes': 4, 'checkpoint.keep_last': 1, 'optim.warmup': '1 steps',
    'optim.name': 'sgd', 'optim.weight_decay': 0.0,
  }  # fmt: skip
  recipe = pathlib.Path(__file__).with_name('small_recipe.py')
  overrides = [f'--config.{path}={value}' for path, value in knobs.items()]
  return ['train', f'--config={recipe}', f'--workdir={workdir}', *overrides]


def unpack(folder: pathlib.Path) -> None:
  """Writes the workdir, and expected.json with what it must restore to, into an empty folder."""
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(folder, filter='data')


def main() -> None:
  """Makes the fixture."""
  import conftest  # noqa: F401

  os.environ['XLA_FLAGS'] = ''
  from faults import runs

  import vitjax
  from vitjax.cli.main import main as vitjax_main

  assert not ARCHIVE.exists(), 'the fixture is of an earlier version: it is not made anew'
  with tempfile.TemporaryDirectory() as name:
    workdir = pathlib.Path(name)
    vitjax_main([*command(workdir), '--config.total=4 steps'])
    for left in ('.lock', 'metrics.jsonl'):
      (workdir / left).unlink(missing_ok=True)
    expected = {
      'version': vitjax.__version__,
      'state': runs.state_digest(workdir),
      'logits': vitjax.load(workdir).predict(images()).tolist(),
    }
    (workdir / 'expected.json').write_text(json.dumps(expected, indent=1) + '\n')
    with tarfile.open(ARCHIVE, 'w:xz') as archive:
      archive.add(workdir, '.')


if __name__ == '__main__':
  main()
