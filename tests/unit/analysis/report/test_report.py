"""The report of `vitjax analyze`: what is chosen, refused, left out and written."""

import csv
import html.parser
import json

import numpy as np
import PIL.Image
import pytest
import tiny
from tiny_loaded import RESNET, tiny_loaded

from vitjax.analysis import report
from vitjax.analysis.report.page import page
from vitjax.cli.main import main
from vitjax.errors import ConfigError, DataError
from vitjax.training import build, train


@pytest.fixture
def photos(tmp_path):
  """Eight images in folders that carry the names of classes."""
  rng = np.random.default_rng(0)
  for i in range(8):
    folder = tmp_path / 'photos' / f'class {i % 2}'
    folder.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f'{i} <&>.png')
  return tmp_path / 'photos'


class Page(html.parser.HTMLParser):
  """Collects what a browser would fetch, and ids."""

  def __init__(self, text):
    super().__init__()
    self.sources, self.links, self.ids = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    assert tag not in ('script', 'link', 'iframe', 'object')
    self.sources += [values['src']] if 'src' in values else []
    self.links += [values['href']] if 'href' in values else []
    self.ids += [values['id']] if 'id' in values else []


def test_unknown_analyses_are_refused_with_the_names():
  with pytest.raises(ConfigError, match='distnace') as caught:
    report.choose('features,distnace')
  assert 'distance' in str(caught.value)
  assert report.choose('shuffle, features') == ('features', 'shuffle')


def test_images_are_found_thinned_out_and_missing_ones_named(photos, tmp_path):
  assert len(report.find_images(photos, limit=100)) == 8
  few = report.find_images(photos, limit=2)
  assert [path.parent.name for path in few] == ['class 0', 'class 1']
  with pytest.raises(DataError, match='no such folder'):
    report.find_images(tmp_path / 'nowhere', limit=1)


def test_labels_come_from_folders_and_damaged_images_are_all_named(photos):
  loaded = tiny_loaded()
  subject = report.make_subject(loaded, report.find_images(photos, limit=8), name='tiny')
  np.testing.assert_array_equal(subject.labels, [0] * 4 + [1] * 4)
  other = tiny_loaded(num_classes=1)
  assert report.make_subject(other, subject.paths, name='tiny').labels is None
  for path in subject.paths[:2]:
    path.write_bytes(b'no image')
  with pytest.raises(DataError) as caught:
    report.make_subject(loaded, subject.paths, name='tiny')
  assert len(caught.value.problems) == 2


def test_a_resnet_and_a_model_without_positions_leave_studies_out(photos):
  paths = report.find_images(photos, limit=2)
  resnet = report.make_subject(tiny_loaded(RESNET), paths, name='tiny')
  for name in ('attention', 'distance', 'positions', 'norms'):
    assert 'ResNet' in report.STUDIES[name](resnet).reason
  blind = report.make_subject(tiny_loaded(position='none'), paths, name='tiny')
  assert report.STUDIES['positions'](blind).reason == 'it has no positions'
  assert 'at least 4 images' in report.STUDIES['similarity'](blind).reason


def test_the_page_stands_alone_and_escapes_names(photos):
  subject = report.make_subject(tiny_loaded(), report.find_images(photos, limit=3), name='<tiny> & co')
  sections = [report.STUDIES[name](subject) for name in ('positions', 'filters')]
  text = page(subject, sections, [report.LeftOut('x', 'X?', 'because')], [('a', '<b>')])
  found = Page(text)
  assert found.ids == ['positions', 'filters']
  assert found.links == ['#positions', '#filters']
  assert len(found.sources) == 3 + 2
  assert all(source.startswith('data:image/webp;base64,') for source in found.sources)
  assert 'width=device-width' in text
  assert '<tiny>' not in text
  assert 'Left out: because.' in text


@pytest.mark.slow
def test_analyze_end_to_end(photos, tmp_path, capsys):
  workdir, out = tmp_path / 'run', tmp_path / 'report'
  train(build(tiny.tiny_recipe()), workdir)
  images = ['--images', str(photos), '--out', str(out)]
  assert main(['analyze', f'--checkpoint={workdir}', f'--compare={workdir}', *images, '--num_shown=3']) == 0
  printed = capsys.readouterr().out
  assert '[1/10]' in printed
  assert 'left out' not in printed
  written = json.loads((out / 'report.json').read_text())
  assert list(written['sections']) == list(report.STUDIES)
  assert written['left_out'] == {}
  assert len(written['images']) == 8
  shuffled = written['sections']['shuffle']['numbers']
  assert list(shuffled) == ['run', 'run (2)']
  assert shuffled['run'] == shuffled['run (2)']
  assert all(0 <= value <= 1 for value in shuffled['run']['accuracy'])
  text = (out / 'report.html').read_text()
  assert all(source.startswith('data:') for source in Page(text).sources)
  pictures = sorted((out / 'figures').glob('*.png'))
  assert len(pictures) == len(Page(text).sources) - 3
  for path in pictures:
    with PIL.Image.open(path) as picture:
      assert picture.width <= 1200
  with (out / 'numbers' / 'distance.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * 4
  assert all(0 < float(row['distance_pixels']) < 16 * 2**0.5 for row in rows)


def test_analyze_refuses_before_it_loads(photos, capsys):
  code = main(
    ['analyze', '--checkpoint=nowhere', f'--images={photos}', '--out=x', '--max_images=0', '--num_shown=0']
  )
  assert code == 2
  printed = capsys.readouterr().err
  assert '--max_images = 0' in printed
  assert '--num_shown = 0' in printed
