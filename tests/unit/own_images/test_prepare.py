"""Images as ArrayRecord shards: the same bytes, labels, classes and order, and a second call goes on."""

import json

import numpy as np
import pytest
from PIL import Image

from vitjax.cli.main import main
from vitjax.config.schema import SourceConfig
from vitjax.data.sources import open_source
from vitjax.errors import DataError
from vitjax.own_images import prepare as module
from vitjax.own_images.layout import find_layout, find_splits
from vitjax.own_images.prepare import find_parts, prepare


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / 'meine Bilder'
  for split, count in (('train', 7), ('val', 3)):
    for number, name in enumerate(('Äpfel', '猫')):
      (root / split / name).mkdir(parents=True)
      for i in range(count):
        image = np.full((8, 9, 3), 20 * i + number, np.uint8)
        Image.fromarray(image).save(root / split / name / f'{i} ü.png')
  return root


def content(source):
  return [
    (record['image'], np.asarray(record['label']).tolist())
    for record in (source[i] for i in range(len(source)))
  ]


def test_shards_hold_the_same_bytes_labels_and_classes_in_the_same_order(folder, tmp_path, capsys):
  out = tmp_path / 'shards'
  assert main(['data', 'prepare', str(folder), f'--out={out}', '--num_shards=3']) == 0
  assert 'read back and compared' in capsys.readouterr().out
  for split, config in find_parts(str(folder)).items():
    before = open_source(config)
    after = open_source(SourceConfig(kind='array_record', path=str(out), split=split))
    assert content(before) == content(after)
    assert before.class_names == after.class_names == ('Äpfel', '猫')
  layout = find_layout(str(out), split_seed=0)
  assert (layout.train.kind, layout.val.split, layout.made) == ('array_record', 'val', False)


def test_an_interrupted_call_goes_on_with_the_next_shard(folder, tmp_path, monkeypatch):
  out, write, calls = tmp_path / 'shards', module._write_shard, []

  def dying(source, examples, file):
    calls.append(file.name)
    if len(calls) == 3:
      file.with_name(f'{file.name}.partial').write_bytes(b'half')
      raise KeyboardInterrupt
    write(source, examples, file)

  monkeypatch.setattr(module, '_write_shard', dying)
  with pytest.raises(KeyboardInterrupt):
    prepare(str(folder), out, num_shards=2)
  assert not (out / 'prepared.json').exists()
  monkeypatch.undo()
  assert prepare(str(folder), out, num_shards=2).written == 2
  assert not [*out.glob('*.partial')]
  assert prepare(str(folder), out, num_shards=2).written == 0
  assert json.loads((out / 'prepared.json').read_text())['counts']['train'] == {'Äpfel': 7, '猫': 7}


def test_a_folder_with_other_things_in_it_is_refused(folder, tmp_path):
  prepare(str(folder), tmp_path / 'shards')
  (folder / 'train' / '猫' / '0 ü.png').unlink()
  with pytest.raises(DataError, match='holds other data'):
    prepare(str(folder), tmp_path / 'shards')
  with pytest.raises(DataError, match='in use'):
    prepare(str(folder), folder)


def test_shards_are_made_into_other_shards(folder, tmp_path):
  prepare(str(folder), tmp_path / 'shards')
  assert prepare(str(tmp_path / 'shards'), tmp_path / 'more', num_shards=2).num_shards == {
    'train': 2,
    'val': 2,
  }
  before, after = (
    open_source(SourceConfig(kind='array_record', path=str(tmp_path / name))) for name in ('shards', 'more')
  )
  assert content(before) == content(after)


def test_what_tfds_prepared_is_known_by_its_own_account(tmp_path):
  info = tmp_path / 'dataset_info.json'
  info.write_text(json.dumps({'fileFormat': 'tfrecord', 'splits': [{'name': 'train'}, {'name': 'test'}]}))
  source, splits = find_splits(str(tmp_path))
  assert (source.kind, splits) == ('tfrecord', ('train', 'test'))
  layout = find_layout(str(tmp_path), split_seed=0)
  assert (layout.train.kind, layout.val.split, layout.made) == ('tfrecord', 'test', False)
  info.write_text('{"name": 3')
  with pytest.raises(DataError, match='TFDS metadata'):
    find_splits(str(tmp_path))


def test_a_path_that_is_not_there_gives_its_nearest_neighbour(folder, tmp_path):
  with pytest.raises(DataError, match='Did you mean .*meine Bilder'):
    prepare(str(folder.with_name('mine Bilder')), tmp_path / 'shards')


def test_several_classes_per_image_survive(folder, tmp_path):
  rows = ['{"image": "train/猫/0 ü.png", "label": ["a", "b"]}', '{"image": "train/猫/1 ü.png", "label": []}']
  (folder / 'm.jsonl').write_text('\n'.join(rows))
  prepare(str(folder / 'm.jsonl'), tmp_path / 'shards')
  layout = find_layout(str(tmp_path / 'shards'), split_seed=0)
  assert layout.train.multi_label
  source = open_source(SourceConfig(kind='array_record', path=str(tmp_path / 'shards'), multi_label=True))
  assert source.labels().tolist() == [[1, 1], [0, 0]]
