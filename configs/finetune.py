"""Fine-tune a pretrained checkpoint on a TFDS data set: the paper's Table 4, AugReg's form of it, or BiT-HyperRule.

Purpose: the transfer numbers that papers report. For your own images there is configs/transfer.py, for VTAB
configs/vtab.py.

  vitjax train --config=configs/finetune.py:data=pets,checkpoint=runs/b16 --workdir=DIR --config.data.source.path=TFDS
  vitjax train --config=configs/finetune.py:rule=augreg,data=cifar100,model=B/32,checkpoint=runs/b32 --workdir=DIR
  vitjax train --config=configs/finetune.py:rule=bit,data=flowers,model=R50x1,checkpoint=runs/r50 --workdir=DIR
  vitjax train --config=configs/finetune.py:smoke --workdir=DIR                 four steps, no download

The rate is chosen on a part of the training set; then the chosen one trains on all of it (final) and is tested once:

  vitjax sweep --config=configs/finetune.py:data=pets,checkpoint=runs/b16 --metric=val/accuracy_top1 --workdir=DIR
      --grid=optim.peak_lr=0.001,0.003,0.01,0.03
  vitjax train --config=configs/finetune.py:data=pets,checkpoint=runs/b16,lr=0.003,final --workdir=DIR

Table 4 (SGD, momentum 0.9, cosine, batch 512, no weight decay, clipping at 1, 384 pixels), rates of its grid:
  imagenet            20,000 steps    0.003, 0.01, 0.03, 0.06     1 % held out
  cifar10, cifar100   10,000          0.001, 0.003, 0.01, 0.03    2 %
  pets, flowers       500             0.001, 0.003, 0.01, 0.03    10 %
Warm-up is 500 steps, 100 of 500, as in the ViT code. rule=augreg differs in the images: CIFAR is resized to 448 pixels
and cut to 384 at random, and evaluation takes the middle 384 of 448. rule=bit asks vitjax/config/hyperrule.py.
Hardware and cost (3 x forward, computed): B/16 at 384 pixels 0.17 exaFLOP per 1,000 steps, B/32 0.04, L/16 0.59; pets
and flowers fit on one accelerator in minutes to an hour, ImageNet wants eight.
Expected test accuracy in %, of B/16 from I21k (Table 5): ImageNet 83.97, CIFAR-10 98.95, CIFAR-100 91.67, Flowers
99.38, Pets 94.43. rule=augreg, B/32, mean and range of five runs (big_vision): ImageNet 83.27 (83.22 to 83.33) at
0.03, CIFAR-10 98.55 (98.46 to 98.6) at 0.003, CIFAR-100 91.35 (91.09 to 91.62) at 0.01, Pets 93.78 (93.62 to 94.00) at
0.003, Flowers 99.43 (99.42 to 99.45) at 0.003. rule=bit, BiT-M R50x1: ImageNet 80.68, CIFAR-10 97.3, CIFAR-100 86.4.
Differs from the paper: its flagship runs at 512 and 518 pixels with averaged weights are
--config.optim.ema_decay=0.9999 and size=512. Held out is the end of the training split, whose order in TFDS is
shuffled.
Arguments: rule=paper|augreg|bit, data, model, checkpoint, lr=0 (0: 0.01; AugReg's best, or BiT's), size=384, final,
smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config
from vitjax.config.hyperrule import apply_hyper_rule, hyper_rule
from vitjax.config.smoke import make_smoke

_DATA = {  # TFDS name, percent trained on, test split, steps, AugReg's rate for B/32, examples, side of an image
  'pets': ('oxford_iiit_pet', 90, 'test', 500, 0.003, 3_680, 224),
  'flowers': ('oxford_flowers102', 90, 'test', 500, 0.003, 1_020, 224),
  'cifar10': ('cifar10', 98, 'test', 10_000, 0.003, 50_000, 32),
  'cifar100': ('cifar100', 98, 'test', 10_000, 0.01, 50_000, 32),
  'imagenet': ('imagenet2012:5.1.0', 99, 'validation', 20_000, 0.03, 1_281_167, 224),
}


def get_config(arg: str = ''):
  args = parse_args(
    arg, rule=('paper', 'augreg', 'bit'), data=tuple(_DATA), model='B/16', checkpoint='', lr=0.0, size=384,
    final=False, smoke=False,
  )  # fmt: skip
  name, percent, test, steps, augreg_rate, num_examples, side = _DATA[args.data]
  config = default_config()
  config.model.variant = args.model
  config.data.source = source_config(
    kind='tfds', name=name, split='train' if args.final else f'train[:{percent}%]'
  )
  every = f'{max(steps // 10, 100)} steps'
  if args.final:
    test_source = source_config(config.data.source, split=test)
    config.evals = evaluators(test=evaluator(source=test_source, every=f'{steps} steps'))
  else:
    held_out = source_config(config.data.source, split=f'train[{percent}%:]')
    config.evals = evaluators(val=evaluator(source=held_out, every=every))
  config.checkpoint.every = every
  if args.rule == 'bit':
    apply_hyper_rule(config, hyper_rule(num_examples, side * side))
  else:
    _table_4(config, steps, args.size)
  if args.rule == 'augreg':
    config.optim.peak_lr = augreg_rate
    _augreg_images(config, random_crop=args.data.startswith('cifar'))
  if args.lr:
    config.optim.peak_lr = args.lr
  config.optim.momentum_dtype = 'bfloat16'
  if args.checkpoint:
    config.init.checkpoint = args.checkpoint
  if args.smoke:
    make_smoke(config)
  return config


def _table_4(config, steps, size):
  config.data.image_size = (size, size)
  config.data.batch_size = 512
  config.optim.name = 'sgd'
  config.optim.momentum = 0.9
  config.optim.peak_lr = 0.01
  config.optim.schedule = 'cosine'
  config.optim.warmup = f'{min(500, steps // 5)} steps'
  config.optim.weight_decay = 0.0
  config.optim.clip_norm = 1.0
  config.total = f'{steps} steps'


def _augreg_images(config, *, random_crop):
  precrop = round(max(config.data.image_size) * 448 / 384)
  if random_crop:
    config.data.crop = 'random'
    config.data.precrop_size = precrop
  for entry in config.evals.values():
    entry.resize_short = precrop
