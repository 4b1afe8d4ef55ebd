"""The look at all images: what is said of those that cannot be read, that are the same, and of uneven classes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from vitjax.config.schema import SourceConfig
from vitjax.data import open_source
from vitjax.errors import DataError
from vitjax.own_images.survey import survey

WORDS = {'data.source': 'training', 'evals.val.source': 'val'}


@pytest.fixture
def folder(tmp_path):
  for number, (split, name, count) in enumerate(
    (('train', 'a', 20), ('train', 'b', 2), ('val', 'a', 2), ('val', 'b', 1))
  ):
    (tmp_path / split / name).mkdir(parents=True)
    for i in range(count):
      Image.fromarray(np.full((4, 4, 3), 50 * number + i, np.uint8)).save(
        tmp_path / split / name / f'{i} ü.png'
      )
  return tmp_path


def look(folder, **options):
  opened = {
    where: open_source(SourceConfig(kind='image_folder', path=str(folder), split=split), where=where)
    for where, split in zip(WORDS, ('train', 'val'), strict=True)
  }
  return survey(opened, WORDS, **options)


def test_nothing_to_find(folder):
  lines = look(folder).lines()
  assert lines[0] == 'looked at the images: 22 of training, 3 of val'
  assert 'all of them can be read' in lines
  assert 'no image twice (compared pixel by pixel)' in lines
  assert any('imbalanced' in line for line in lines), '20 images of one class, 2 of the other'


def test_each_sort_of_repetition_is_said_once_with_a_line_per_image(folder):
  a, b = folder / 'train' / 'a', folder / 'train' / 'b'
  shutil.copy(a / '0 ü.png', folder / 'val' / 'a' / 'learnt.png')
  shutil.copy(a / '1 ü.png', b / 'contradicts.png')
  shutil.copy(a / '2 ü.png', a / 'again.png')
  found = look(folder)
  assert len(found.repeated) == 3
  assert [len(group) for group in (*found.shared(), *found.contradictory())] == [2, 2]
  lines = found.lines()
  for text in ('1 image both in training and in validation', '1 image under different labels', '(1 copy)'):
    assert sum(text in line for line in lines) == 1, text
  same = {f'{a / name} (a)' for name in ('2 ü.png', 'again.png')}
  first = next(i for i, line in enumerate(lines) if line.strip() in same)
  assert {lines[first].strip(), lines[first + 1].removeprefix('    = ')} == same
  assert sum(line.startswith('    = ') for line in lines) == 3


def test_unreadable_images_are_named_and_more_than_the_budget_refused(folder):
  broken = folder / 'val' / 'b' / '0 ü.png'
  broken.write_bytes(b'\x89PNG broken')
  found = look(folder)
  assert any(str(broken) in line for line in found.lines())
  with pytest.raises(DataError, match=r'evals\.val\.source\.max_corrupt = 0: expected at least 1'):
    found.check()


def test_of_many_images_an_even_sample_is_looked_at(folder):
  found = look(folder, limit=5)
  assert found.sizes['data.source'] == (5, 22)
  assert '5 of 22 of training' in found.lines()[0]
