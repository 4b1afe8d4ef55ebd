"""Distil a large teacher into a smaller student by function matching (arXiv 2106.05237): "patient and consistent".

Purpose: a model that is affordable to run, at about the accuracy of one that is not.

  vitjax train --config=configs/distill.py:teacher=R152x2_T_224.npz --workdir=DIR --config.data.source.path=TFDS
  vitjax train --config=configs/distill.py:data=pets,teacher=runs/pets_r152x2,patience=medium --workdir=DIR
  vitjax train --config=configs/distill.py:data=flowers,teacher=runs/flowers_b16,model=Ti/16 --workdir=DIR

Four steps without a download, from a teacher made in the same way:

  vitjax train --config=configs/bit.py:smoke --workdir=DIR/teacher
  vitjax train --config=configs/distill.py:smoke,teacher=DIR/teacher --workdir=DIR/student

TEACHER is whatever vitjax.load reads, of any architecture, with the classes of `data`; the file above is big_vision's,
for ImageNet. Both see the same crop, flip and mixup; labels are looked at by metrics alone. Epochs by patience, with
the temperatures, rates and decays that big_vision has for them:
  imagenet   fast 300       medium 1,200      long 9,600
  pets       fast 1,000     medium 3,000      long 30,000
  flowers    fast 10,000    medium 100,000    long 1,000,000
Hardware and cost: on ImageNet 300 epochs took the authors 15 hours on a TPUv3-32; on pets 1,000 took half an hour on a
TPUv2-8, on flowers 10,000 took 70 minutes. 3 x forward and the teacher's forward pass, 300 epochs of R50x1 from R152x2
on ImageNet are 44 exaFLOP.
Expected: R50x1 on ImageNet after 9,600 epochs 82.8 %, from teachers of 83.0 (224 pixels) to 84.3 (384 pixels)
(big_vision, one run); for the other rows no numbers are at hand here. In small, with three seeds:
configs/experiments/distillation.py.
Differs from the paper: one mixup ratio per batch; on ImageNet 1 % is held out, where they hold out 2 %.
Arguments: data, teacher, model (R50x1), patience, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config
from vitjax.config.smoke import make_smoke

_PATIENCE = ('fast', 'medium', 'long')
# TFDS name, splits to train on, to choose by and to test on; batch, image, side before the central crop, warm-up.
_DATA = {
  'imagenet': ('imagenet2012:5.1.0', 'train[:99%]', 'train[99%:]', 'validation', 4096, 224, 256, 5_000),
  'pets': ('oxford_iiit_pet', 'train[:90%]', 'train[90%:]', 'test', 512, 128, 160, 1_500),
  'flowers': ('oxford_flowers102', 'train', 'validation', 'test', 512, 128, 160, 1_500),
}
# By patience: epochs, temperature, rate, decay.
_SCHEDULES = {
  'imagenet': ((300, 1.0, 0.03, 3e-4), (1_200, 1.0, 0.03, 3e-4), (9_600, 1.0, 0.03, 3e-4)),
  'pets': ((1_000, 5.0, 0.01, 1e-3), (3_000, 10.0, 0.003, 3e-4), (30_000, 2.0, 0.003, 1e-5)),
  'flowers': ((10_000, 10.0, 0.003, 3e-4), (100_000, 1.0, 0.001, 1e-4), (1_000_000, 1.0, 3e-4, 1e-5)),
}


def get_config(arg: str = ''):
  args = parse_args(arg, data=tuple(_DATA), teacher='', model='R50x1', patience=_PATIENCE, smoke=False)
  name, train, val, test, batch, size, resize_short, warmup = _DATA[args.data]
  epochs, temperature, rate, decay = _SCHEDULES[args.data][_PATIENCE.index(args.patience)]
  config = default_config()
  config.model.variant = args.model
  config.model.dtype = 'bfloat16'
  config.objective.name = 'distillation'
  if args.teacher:
    config.distill.checkpoint = args.teacher
  config.distill.temperature = temperature
  config.data.source = source_config(kind='tfds', name=name, split=train)
  config.data.image_size = (size, size)
  config.data.batch_size = batch
  config.data.mixup_alpha = 1.0
  config.optim.peak_lr = rate
  config.optim.schedule = 'cosine'
  config.optim.warmup = f'{warmup} steps'
  config.optim.weight_decay = decay
  config.optim.weight_decay_form = 'independent'
  config.optim.momentum_dtype = 'bfloat16'
  config.optim.clip_norm = 1.0
  config.total = f'{epochs} epochs'
  every = f'{epochs // 100} epochs'
  config.evals = evaluators(
    **{
      key: evaluator(
        source=source_config(config.data.source, split=split),
        batch_size=batch,
        resize_short=resize_short,
        every=every,
      )
      for key, split in (('val', val), ('test', test))
    }
  )
  if args.smoke:
    make_smoke(config)
  return config
