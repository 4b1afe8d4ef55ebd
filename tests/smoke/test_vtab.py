"""The 19 tasks of VTAB-1k, read without TensorFlow from TFDS's mock data: its own features and class names."""

import io
import pathlib
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vitjax.config import load_config
from vitjax.config.load import call_in_file
from vitjax.config.schema import SourceConfig
from vitjax.data.decode import decode_image
from vitjax.data.sources import open_source
from vitjax.data.splits import parse_split

VTAB = pathlib.Path(__file__).parents[2] / 'configs' / 'vtab.py'
TASKS = call_in_file(VTAB, lambda module: module.TASKS)
# Examples per split as TFDS prepares them (its catalogue), and classes.
SIZES = {
  'caltech101': {'train': 3_059, 'test': 6_084}, 'cifar100': {'train': 50_000, 'test': 10_000},
  'dtd': {'train': 1_880, 'validation': 1_880, 'test': 1_880},
  'oxford_flowers102': {'train': 1_020, 'validation': 1_020, 'test': 6_149},
  'oxford_iiit_pet': {'train': 3_680, 'test': 3_669},
  'sun397/tfds': {'train': 76_128, 'validation': 10_875, 'test': 21_750},
  'svhn_cropped': {'train': 73_257, 'test': 26_032},
  'patch_camelyon': {'train': 262_144, 'validation': 32_768, 'test': 32_768}, 'eurosat/rgb': {'train': 27_000},
  'resisc45': {'train': 31_500},
  'diabetic_retinopathy_detection/btgraham-300': {'train': 35_126, 'validation': 10_906, 'test': 42_670},
  'clevr': {'train': 70_000, 'validation': 15_000}, 'dmlab': {'train': 65_550, 'validation': 22_628, 'test': 22_735},
  'kitti': {'train': 6_347, 'validation': 423, 'test': 711}, 'dsprites': {'train': 737_280},
  'smallnorb': {'train': 24_300, 'test': 24_300},
}  # fmt: skip
CLASSES = {
  'caltech101': 102, 'cifar100': 100, 'dtd': 47, 'flowers102': 102, 'pets': 37, 'sun397': 397, 'svhn': 10,
  'camelyon': 2, 'eurosat': 10, 'resisc45': 45, 'retinopathy': 5, 'clevr_count': 8, 'clevr_distance': 6, 'dmlab': 6,
  'kitti_distance': 4, 'dsprites_location': 16, 'dsprites_orientation': 16, 'smallnorb_azimuth': 18,
  'smallnorb_elevation': 9,
}  # fmt: skip
NUM_EXAMPLES = 4


def test_there_are_19_tasks_of_800_and_200_disjoint_examples():
  assert TASKS.keys() == CLASSES.keys()
  assert len(TASKS) == 19
  for task, (name, _, *splits) in TASKS.items():
    rows = []
    for split, count in zip(splits, (800, 200, None), strict=True):
      (part,) = parse_split(split, where=task)
      size = SIZES[name][part.name]
      low, high = part.bounds(size)
      rows.append({(part.name, i) for i in range(low, high)})
      assert len(rows[-1]) == (count or len(rows[-1])), (task, split)
      assert rows[-1], (task, split)
    assert not rows[0] & rows[1], task
    assert not (rows[0] | rows[1]) & rows[2], task
    last = max(i for _, i in rows[2])
    assert last == SIZES[name][parse_split(splits[2], where=task)[0].name] - 1, task


def objects(rng, names):
  """Returns 3 to 10 objects: mock lists have a length of their own in each feature."""
  count = int(rng.integers(3, 11))
  values = {
    'size': lambda: rng.integers(0, 2, count),
    'pixel_coords': lambda: rng.uniform(7, 12, (count, 3)).astype(np.float32),
    'type': lambda: rng.integers(0, 8, count),
    'location': lambda: rng.uniform(-5, 40, (count, 3)).astype(np.float32),
  }
  return {name: values[name]() for name in names}


def image(rng, feature, name):
  height, width = (side or 24 for side in feature.shape[:2])
  largest = 1 if name == 'dsprites' else 255
  pixels = rng.integers(0, largest + 1, (height, width, feature.shape[2] or 3)).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(buffer, 'PNG')
  return io.BytesIO(buffer.getvalue())


def prepare(full_name, data_dir):
  """Writes a few examples of a TFDS data set, with the labels of tfds.testing.mock_data, as TFDS lays them out."""
  name, _, config = full_name.partition('/')
  with tfds.testing.mock_data(num_examples=NUM_EXAMPLES):
    known = tfds.builder(full_name, data_dir=str(data_dir / 'none'))
    mock = list(known.as_data_source('train'))
  declared = known.info.features
  labels = [n for n, f in declared.items() if isinstance(f, tfds.features.ClassLabel)]
  features = {n: declared[n] for n in ['image', *labels]}
  if 'objects' in declared:
    wanted = {'clevr': ('size', 'pixel_coords'), 'kitti': ('type', 'location')}[name]
    features['objects'] = tfds.features.Sequence({n: declared['objects'].feature[n] for n in wanted})

  def generate(split):
    rng = np.random.default_rng(len(split))
    for i, example in enumerate(mock):
      row = {n: int(example[n]) for n in labels} | {'image': image(rng, declared['image'], name)}
      if 'objects' in features:
        row['objects'] = objects(rng, wanted)
      yield i, row

  with tfds.core.registered.skip_registration():

    class Mocked(tfds.core.GeneratorBasedBuilder):
      VERSION = known.version
      BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, description='mocked')] if config else []
      code_path = None

      def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

      def _split_generators(self, dl_manager):
        return {split: generate(split) for split in SIZES[full_name]}

      def _generate_examples(self):
        raise NotImplementedError

  Mocked.name = name
  Mocked(data_dir=str(data_dir), file_format='array_record', config=config or None).download_and_prepare()


@pytest.mark.parametrize('name', SIZES)
def test_tasks_load_through_mock_data(name, tmp_path):
  prepare(name, tmp_path)
  for task, (tfds_name, *_) in TASKS.items():
    if tfds_name != name:
      continue
    source = load_config(f'{VTAB}:task={task}').data.source
    splits = {part.name for split in TASKS[task][2:] for part in parse_split(split, where=task)}
    for split in splits:
      opened = open_source(
        SourceConfig(kind='tfds', name=source.name, label=source.label, path=str(tmp_path), split=split)
      )
      assert len(opened) == NUM_EXAMPLES
      assert opened.num_classes == CLASSES[task]
      assert set(opened.labels().tolist()) <= set(range(CLASSES[task]))
      pixels = opened[0]['image']
      pixels = decode_image(pixels) if isinstance(pixels, bytes) else pixels
      assert pixels.dtype == np.uint8
      assert pixels.shape[-1] == 3
      assert pixels.max() > 200, 'dsprites holds zeros and ones'
  assert 'tensorflow' not in sys.modules
