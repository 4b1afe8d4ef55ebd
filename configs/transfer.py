"""Fine-tune a pretrained checkpoint on your own images; everything that follows from the images is derived.

Purpose: transfer to a few hundred or thousand images of your own. Size, steps and mixup are those of the BiT-HyperRule
(arXiv 1912.11370, 3.3); a transformer trains with AdamW and layer-wise decay (BEiT, arXiv 2106.08254), a ResNet as the
rule says. Against the linear probe of the same checkpoint: benchmarks/experiments/hyperrule/results.md.

  vitjax train --config=configs/transfer.py:data=/path/to/images,checkpoint=runs/pretrained --workdir=runs/mine
  vitjax train --config=configs/transfer.py:data=/path/to/images,model=S/16 --workdir=runs/mine     from scratch
  vitjax train --config=configs/transfer.py:smoke --workdir=DIR            four steps on embedded digits

DATA is a folder with a sub-folder per class, or with train/ and val/ (or test/) that hold those; a manifest (.csv,
.tsv, .jsonl) with the columns image, label and perhaps split, labels being lists where images have several; a folder
from datasets.save_to_disk or with Parquet files; a version folder that TFDS prepared; or what `vitjax data prepare`
wrote. Without a split, 20 % of each class is set aside. Size, batch, steps and rate follow from the images; they are
printed with their reasons first and kept in the checkpoints. Afterwards WORKDIR/report holds a confusion matrix, the
worst mistakes and a table per class.
Look at what the model will see first:
  vitjax data --config=configs/transfer.py:data=/path/to/images,checkpoint=runs/pretrained --out=samples.png
Arguments: data, checkpoint (whatever vitjax.load reads: a workdir, .npz, .safetensors, its folder ...; '' trains from
scratch), model (that of the checkpoint; else B/16), size (pixels), steps, batch, lr, seed (of run and split), smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config


def get_config(arg: str = ''):
  asked = {'data': '', 'checkpoint': '', 'model': '', 'size': 0, 'steps': 0, 'batch': 0, 'lr': 0.0, 'seed': 0}
  args = parse_args(arg, smoke=False, **asked)
  config = default_config()
  if args.smoke:
    _smoke(config)
    return config
  from vitjax.own_images import Asked, fit_recipe

  fit_recipe(config, Asked(**{name: getattr(args, name) for name in asked}))
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
  config.optim.name = 'sgd'
  config.optim.peak_lr = 0.01
  config.optim.weight_decay = 0.0
  config.optim.warmup = '1 steps'
  val = source_config(kind='digits', split='test[:40]')
  config.evals = evaluators(val=evaluator(source=val, batch_size=16, every='2 steps'))
  config.checkpoint.every = '2 steps'
  config.checkpoint.keep_best = 'val/accuracy_top1'
  config.report.evals = ('val',)
  config.log.every = '2 steps'
  config.total = '4 steps'
