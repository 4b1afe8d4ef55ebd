"""The input pipelines that input_peers.py times: JPEG files to batches of 224 x 224 random crops, mirrored or not.

Each function returns an endless iterator; an item is anything with the batch on its first axis. Crops take 5 to 100 %
of the area with an aspect of 3/4 to 4/3, as in TensorFlow's examples. What is not in the name is each library's
default.
"""

from __future__ import annotations

import itertools
import pathlib
import sys
import types

SIZE = 224
AREA = (0.05, 1.0)
RATIO = (3 / 4, 4 / 3)


def files_of(folder):
  return sorted(str(path) for path in pathlib.Path(folder).rglob('*.jpg'))


def vitjax(folder, batch, cores):
  """The pipeline of `vitjax train`, as it comes."""
  del cores
  from vitjax.config.schema import DataConfig, SourceConfig
  from vitjax.data import open_source, train_batches

  source = SourceConfig(kind='image_folder', path=folder)
  for rows in train_batches(DataConfig(batch_size=batch), open_source(source), seed=0):
    yield rows['image']


def vitjax_library(folder, batch, cores):
  """The same without its compiled part: libjpeg-turbo decodes every image as a whole."""
  from vitjax.data import decode

  decode.jpeg_region = None
  return vitjax(folder, batch, cores)


def tensorflow(folder, batch, cores, *, dct='INTEGER_ACCURATE', fancy=True, antialias=False):
  """tf.data with the fused decode_and_crop_jpeg; accurate DCT and filtered chroma, as vitjax decodes."""
  import tensorflow as tf

  def load(path):
    data = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      tf.io.extract_jpeg_shape(data),
      tf.zeros([0, 0, 4]),
      area_range=AREA,
      aspect_ratio_range=RATIO,
      min_object_covered=0,
      use_image_if_no_bounding_boxes=True,
    )
    box = tf.concat([begin[:2], size[:2]], 0)
    image = tf.io.decode_and_crop_jpeg(data, box, channels=3, dct_method=dct, fancy_upscaling=fancy)
    image = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
    return tf.cast(tf.image.random_flip_left_right(image), tf.uint8)

  files = files_of(folder)
  data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).repeat()
  data = data.map(load, num_parallel_calls=cores, deterministic=False).batch(batch).prefetch(2)
  options = tf.data.Options()
  options.threading.private_threadpool_size = cores
  return iter(data.with_options(options))


def tensorflow_fast(folder, batch, cores):
  """The same with the fast DCT and without the chroma filter: lower quality."""
  return tensorflow(folder, batch, cores, dct='INTEGER_FAST', fancy=False)


def timm(folder, batch, cores):
  """timm's dataset, training transform and collation in PyTorch's loader, one worker process per core.

  PIL resizes with antialiasing.
  """
  # torchvision declares shape rules for compiled operators when it starts, which fails where it was built for another
  # torch. Nothing here calls one.
  sys.modules.setdefault('torchvision._meta_registrations', types.ModuleType('_meta_registrations'))
  import torch
  from timm.data import ImageDataset, create_transform
  from timm.data.loader import fast_collate

  torch.set_num_threads(1)
  transform = create_transform(
    SIZE,
    is_training=True,
    use_prefetcher=True,
    scale=AREA,
    ratio=RATIO,
    color_jitter=0,
    interpolation='bilinear',
  )
  data = ImageDataset(folder, transform=transform)
  endless = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**7)
  loader = torch.utils.data.DataLoader(
    data, batch, sampler=endless, num_workers=cores, collate_fn=fast_collate
  )
  for images, _ in loader:
    yield images


def pil(folder, batch, cores):
  """PIL in threads: decode, RandomResizedCrop's box, antialiased resize, mirror."""
  from concurrent.futures import ThreadPoolExecutor

  import numpy as np
  from PIL import Image, ImageOps

  from vitjax.data.transforms import example_rng, sample_crop

  files = files_of(folder)

  def load(i):
    rng = example_rng(0, i)
    with Image.open(files[int(rng.integers(len(files)))]) as opened:
      image = opened.convert('RGB')
    top, left, height, width = sample_crop(rng, (image.height, image.width), area=AREA, ratio=RATIO)
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    return np.asarray(ImageOps.mirror(image) if rng.random() < 0.5 else image)

  with ThreadPoolExecutor(cores) as pool:
    for step in itertools.count():
      yield np.stack(list(pool.map(load, range(step * batch, (step + 1) * batch))))


LOADERS = {
  'vitjax': vitjax,
  'vitjax, libjpeg-turbo alone': vitjax_library,
  'tf.data, fused crop': tensorflow,
  'tf.data, fused crop, fast DCT': tensorflow_fast,
  'timm': timm,
  'PIL': pil,
}
