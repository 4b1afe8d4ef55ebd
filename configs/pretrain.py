"""Pretrain a ViT, hybrid or ResNet as the paper's Table 3 does, on a TFDS data set.

Purpose: supervised pretraining at scale. The defaults are ViT-B/16 on ImageNet, 300 epochs (arXiv 2010.11929, Table 3).

  vitjax train --config=configs/pretrain.py:model=B/16 --workdir=DIR --config.data.source.path=TFDS_DATA_DIR
  vitjax train --config=configs/pretrain.py:data=imagenet21k,model=L/16 --workdir=DIR       I21k, 90 epochs; TFDS has
    no public builder of it, so `imagenet21k` is one of your own with a split `full`, as in the ViT code
  vitjax train --config=configs/pretrain.py:smoke --workdir=DIR                             four steps, no download

Hardware: a pod for the real sizes; the same command runs on every host. ImageNet wants array_record preparation; a data
set that TFDS prepared as tfrecord is read with --config.data.source.kind=tfrecord.
Expected: after fine-tuning at 384 pixels, B/16 reaches 77.91 % ImageNet top-1 from ImageNet, 83.97 % from I21k
(Table 5).
Arguments: model, data=imagenet|imagenet21k, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config
from vitjax.config.variants import parse_variant

_TRAIN = {
  'imagenet': source_config(kind='tfds', name='imagenet2012:5.1.0', split='train[:99%]'),
  'imagenet21k': source_config(kind='tfds', name='imagenet21k', split='full[102400:]'),
}
_VALIDATION = {
  'imagenet': source_config(kind='tfds', name='imagenet2012:5.1.0', split='train[99%:]'),
  'imagenet21k': source_config(kind='tfds', name='imagenet21k', split='full[:102400]'),
}


def get_config(arg: str = ''):
  args = parse_args(arg, model='B/16', data=('imagenet', 'imagenet21k'), smoke=False)
  config = default_config()
  config.model.variant = args.model
  config.model.dtype = 'bfloat16'
  if '/' in args.model:
    config.model.dropout_rate = 0.1
    config.model.representation_size = parse_variant(args.model).size.width
  config.data.source = _TRAIN[args.data]
  config.data.batch_size = 4096
  config.optim.warmup = '10000 steps'
  config.optim.clip_norm = 1.0
  if args.data == 'imagenet':
    config.total = '300 epochs'
    config.optim.peak_lr = 3e-3
    config.optim.weight_decay = 0.3
    config.optim.schedule = 'cosine'
  else:
    config.total = '90 epochs'
    config.optim.peak_lr = 1e-3
    config.optim.weight_decay = 0.03
    config.optim.schedule = 'linear'
    config.optim.end_lr = 1e-5
    config.objective.loss = 'sigmoid'
    config.model.head_bias_init = -10.0
  config.evals = evaluators(
    val=evaluator(source=_VALIDATION[args.data], batch_size=1024, resize_short=256, every='5 epochs')
  )
  if args.smoke:
    _smoke(config)
  return config


def _smoke(config):
  """Four steps of a tiny model on synthetic images."""
  config.model.dtype = 'float32'
  if '/' in config.model.variant:
    config.model.variant = 'Ti/16'
    config.model.depth = 2
    config.model.width = 64
    config.model.mlp_dim = 128
    config.model.num_heads = 2
    config.model.representation_size = 64
  else:
    config.model.variant = 'R-tiny'
  config.data.source = source_config(kind='synthetic', num_examples=32, num_classes=4)
  config.data.image_size = (32, 32)
  config.data.batch_size = 16
  config.evals.val.source = source_config(config.data.source)
  config.evals.val.batch_size = 16
  config.evals.val.resize_short = 36
  config.total = '4 steps'
  config.optim.warmup = '1 steps'
  config.log.every = '2 steps'
