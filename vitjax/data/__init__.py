"""Labelled images from many kinds of files to batches of uint8 arrays, the same on any number of hosts."""

from vitjax.data.augmentation_page import augmentation_page
from vitjax.data.contact_sheet import contact_sheet
from vitjax.data.decode import UnreadableError, decode_image
from vitjax.data.pipeline import Batches, eval_batches, train_batches
from vitjax.data.preprocess import Preprocess
from vitjax.data.records import write_array_record
from vitjax.data.sources import Source, check_same_classes, counts_per_class, open_source
from vitjax.data.transforms import Augment, example_rng, resize

__all__ = [
  'Augment',
  'Batches',
  'Preprocess',
  'Source',
  'UnreadableError',
  'augmentation_page',
  'check_same_classes',
  'contact_sheet',
  'counts_per_class',
  'decode_image',
  'eval_batches',
  'example_rng',
  'open_source',
  'resize',
  'train_batches',
  'write_array_record',
]
