"""Judge frozen features by few-shot classification, as the ViT papers do: closed-form ridge regression, 1 to 25 shots.

Purpose: a cheap score of a representation that follows fine-tuned accuracy; no training of weights, no rate to choose.

  vitjax eval --checkpoint=runs/b16 --evals=configs/fewshot.py --config.evals.pets.source.path=TFDS_DATA_DIR ...
  vitjax eval --checkpoint=runs/b16 --evals=configs/fewshot.py:path=TFDS_DATA_DIR
  vitjax train --config=configs/fewshot.py:smoke --workdir=DIR             four steps and its evaluators, no download

`vitjax eval` reads the evaluators of this file alone: model, normalisation and image size are the checkpoint's. A
recipe that pretrains may take them over for scores along the way: they need no head. On your own images: vitjax probe.
Data: Caltech-101, Cars, CIFAR-100, DTD, Pets and UC Merced, prepared by TFDS; imagenet adds the 5-shot score that the
paper's figures show (65,000 training images hold 30 of each class).
Recipe: features before the head, whitened with the support set's mean and deviation, a bias of 100, targets +-1, L2
2^10, three draws of the support set; images resized so that the short side is 256 for a crop of 224.
Hardware and cost: a forward pass over at most 99,000 images (115,000 more with imagenet): minutes on one accelerator.
Expected: 5-shot ImageNet in % of B/16 pretrained on JFT 64.21 (ViT Table 8: learned 1-D positions; no spread given).
Differs from the source: it resizes to 256 x 256 and takes the middle; here the sides keep their ratio.
Arguments: path (TFDS data_dir), imagenet, smoke.
"""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config
from vitjax.config.smoke import make_smoke

_DATA = {  # TFDS name, support, test
  'caltech': ('caltech101', 'train', 'test'),
  'cars': ('cars196:2.1.0', 'train', 'test'),
  'cifar100': ('cifar100', 'train', 'test'),
  'dtd': ('dtd', 'train', 'test'),
  'pets': ('oxford_iiit_pet', 'train', 'test'),
  'uc_merced': ('uc_merced', 'train[:1000]', 'train[1000:]'),
}
_IMAGENET = ('imagenet2012:5.1.0', 'train[:65000]', 'validation')


def get_config(arg: str = ''):
  args = parse_args(arg, path='', imagenet=False, smoke=False)
  config = default_config()
  config.data.source = source_config(kind='tfds', name='imagenet2012:5.1.0', path=args.path or None)
  wanted = {**_DATA, 'imagenet': _IMAGENET} if args.imagenet else _DATA
  config.evals = evaluators(**{name: _fewshot(*entry, args.path or None) for name, entry in wanted.items()})
  if args.smoke:
    config.evals = evaluators(pets=_fewshot(*_DATA['pets'], None))
    make_smoke(config)
  return config


def _fewshot(name, support, test, path):
  return evaluator(
    kind='fewshot',
    source=source_config(kind='tfds', name=name, split=test, path=path),
    train_source=source_config(kind='tfds', name=name, split=support, path=path),
    resize_short=256,
    shots=(1, 5, 10, 25),
    num_draws=3,
    ridge_l2=(1024.0,),
    every='25000 steps',
  )
