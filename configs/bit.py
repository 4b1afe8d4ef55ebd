"""Pretrain a BiT ResNet-v2 (arXiv 1912.11370) on ImageNet (BiT-S) or ImageNet-21k (BiT-M).

Purpose: the convolutional baseline of the ViT paper, with its own recipe.

  vitjax train --config=configs/bit.py:model=R50x1 --workdir=DIR --config.data.source.path=TFDS_DATA_DIR
  vitjax train --config=configs/bit.py:model=R101x3,data=imagenet21k --workdir=DIR
  vitjax train --config=configs/bit.py:smoke --workdir=DIR                      four steps, no download

Hardware and cost: R50x1 on ImageNet takes about 32 minutes on a TPUv3-128 (big_vision); 3 x forward, 90 epochs are 2.8
exaFLOP.
Expected: BiT-M R50x1 after the HyperRule (configs/finetune.py:rule=bit): ImageNet 80.68, CIFAR-10 97.3, CIFAR-100 86.4
(big_vision; no spread given).
Differs from the paper: rates, decay, warm-up and cosine are those of big_vision's later runs (0.1 and 1e-4, or 0.03 and
3e-5 on I21k, per 256 examples of the batch; the decay does not depend on the rate), where the paper stepped down at
fixed epochs.
Arguments: model, data=imagenet|imagenet21k, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config
from vitjax.config.smoke import make_smoke


def get_config(arg: str = ''):
  args = parse_args(arg, model='R50x1', data=('imagenet', 'imagenet21k'), smoke=False)
  config = default_config()
  config.model.variant = args.model
  config.model.dtype = 'bfloat16'
  config.data.batch_size = 4096
  config.optim.name = 'sgd'
  config.optim.momentum = 0.9
  config.optim.momentum_dtype = 'bfloat16'
  config.optim.schedule = 'cosine'
  config.optim.weight_decay_form = 'independent'
  config.optim.clip_norm = 1.0
  config.total = '90 epochs'
  if args.data == 'imagenet':
    config.optim.peak_lr = 0.1 * 4096 / 256
    config.optim.weight_decay = 1e-4 * 4096 / 256
    config.optim.warmup = '1000 steps'
    config.data.source = source_config(kind='tfds', name='imagenet2012:5.1.0', split='train[:99%]')
    validation = 'train[99%:]'
  else:
    config.optim.peak_lr = 0.03 * 4096 / 256
    config.optim.weight_decay = 3e-5 * 4096 / 256
    config.optim.warmup = '5000 steps'
    config.objective.loss = 'sigmoid'
    config.model.head_bias_init = -10.0
    config.data.source = source_config(kind='tfds', name='imagenet21k', split='full[51200:]')
    validation = 'full[25600:51200]'
  config.evals = evaluators(
    val=evaluator(
      source=source_config(config.data.source, split=validation),
      batch_size=1024,
      resize_short=256,
      every='5 epochs',
    )
  )
  if args.smoke:
    make_smoke(config)
  return config
