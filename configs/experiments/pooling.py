"""Class token against mean pooling at several learning rates (the paper's D.3 and Figure 9).

  vitjax experiment --config=configs/experiments/pooling.py --workdir=runs/pooling

Cost: 6 minutes of one core (benchmarks/experiments/pooling/results.md). Expected: both reach the same accuracy, at
different learning rates.
Arguments: pool, lr, seed, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
POOLS = ('token', 'gap')
RATES = (1e-3, 3e-3, 1e-2)


def get_config(arg: str = ''):
  args = parse_args(arg, pool=POOLS, lr=1e-3, seed=0, smoke=False)
  config = load_config(
    f'{SMALL}:num_train=10000,steps=300,lr={args.lr},seed={args.seed}' + ',smoke' * args.smoke
  )
  config.model.pool = args.pool
  return config


def get_experiment(smoke: bool) -> Experiment:
  axes = {'pool': POOLS, 'lr': RATES[:1] if smoke else RATES, 'seed': (0,) if smoke else (0, 1, 2)}
  more = {'smoke': True} if smoke else {}
  return Experiment(
    title='Class token or mean pooling, by learning rate',
    question='Is a class token needed, or does the mean of the patches do as well at its own learning rate?',
    method=(
      'A ViT of 4 blocks, width 64, patch 8 (16 tokens), 300 steps of 100 on 10,000 images of Fashion-MNIST at 32 '
      'pixels, three peak learning rates, scored on all 10,000 test images.'
    ),
    limits='One data set, one length of training; the paper compares B/16 on ImageNet after pretraining on JFT.',
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=tuple(Cell(labels, {**labels, **more}) for labels in grid(**axes)),
    rows=('pool',),
    column='lr',
    log_x=True,
    claims=tuple(
      Claim(
        f'the class token beats the mean at {rate:g}',
        {'pool': 'token', 'lr': rate},
        {'pool': 'gap', 'lr': rate},
        'D.3',
      )
      for rate in axes['lr']
    ),
  )
