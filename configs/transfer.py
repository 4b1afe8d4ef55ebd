"""Fine-tune a pretrained checkpoint on your own images: a folder with one sub-folder per class.

Purpose: transfer as the paper's Table 4 does it: SGD with momentum, cosine, no weight decay, clipping at 1, a higher
resolution than in pretraining.

  vitjax train --config=configs/transfer.py:data=/path/to/images,checkpoint=runs/pretrained --workdir=runs/mine
  vitjax train --config=configs/transfer.py:smoke --workdir=DIR            four steps on embedded digits

DATA holds train/CLASS/*.jpg and val/CLASS/*.jpg. Look at what the model will see first:
  vitjax data --config=configs/transfer.py:data=/path/to/images,checkpoint=runs/pretrained --out=samples.png
Arguments: data=FOLDER, checkpoint=WORKDIR ('' trains from scratch), model (that of the checkpoint), size (pixels),
steps, lr, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config


def get_config(arg: str = ''):
  args = parse_args(arg, data='', checkpoint='', model='B/16', size=384, steps=500, lr=0.01, smoke=False)
  config = default_config()
  config.model.variant = args.model
  config.data.source = source_config(kind='image_folder', path=args.data or None, split='train')
  config.data.image_size = (args.size, args.size)
  config.data.batch_size = 512
  config.optim.name = 'sgd'
  config.optim.peak_lr = args.lr
  config.optim.momentum_dtype = 'bfloat16'
  config.optim.weight_decay = 0.0
  config.optim.clip_norm = 1.0
  config.total = f'{args.steps} steps'
  config.optim.warmup = f'{min(500, args.steps // 5)} steps'
  config.checkpoint.every = f'{max(args.steps // 5, 1)} steps'
  config.checkpoint.keep_best = 'val/accuracy_top1'
  config.log.every = '20 steps'
  config.evals = evaluators(
    val=evaluator(
      source=source_config(config.data.source, split='val'),
      batch_size=512,
      every=f'{max(args.steps // 5, 1)} steps',
    )
  )
  if args.checkpoint:
    config.init.checkpoint = args.checkpoint
  if args.smoke:
    _smoke(config)
  return config


def _smoke(config):
  """Four steps of a tiny model on the embedded digits."""
  config.model.variant = 'Ti/8'
  config.model.depth = 2
  config.model.width = 64
  config.model.mlp_dim = 128
  config.model.num_heads = 2
  config.data.source = source_config(kind='digits', split='train[:64]')
  config.data.image_size = (32, 32)
  config.data.batch_size = 16
  config.evals.val.source = source_config(kind='digits', split='test[:40]')
  config.evals.val.batch_size = 16
  config.evals.val.every = '2 steps'
  config.checkpoint.every = '2 steps'
  config.total = '4 steps'
  config.optim.warmup = '1 steps'
  config.log.every = '2 steps'
