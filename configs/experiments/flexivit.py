"""One model for many patch sizes (FlexiViT, arXiv 2212.08013) against a model of one size, resized.

  vitjax experiment --config=configs/experiments/flexivit.py --workdir=runs/flexivit

Cost: see the results page. Expected: a model trained at patch 16 falls apart when its patch embedding and positions are
resized to 8 or 32; one that drew its patch size at every step serves all three (FlexiViT figures 1 and 3).
Arguments: stage, train, patch, steps, seed, checkpoint, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
PATCHES = (8, 16, 32)
TRAIN = ('fixed', 'flexible')
SIZE = 64


def get_config(arg: str = ''):
  args = parse_args(
    arg, stage=('pretrain', 'judge'), train=TRAIN, patch=16, steps=600, seed=0, checkpoint='', smoke=False
  )
  smoke = ',smoke' * args.smoke
  steps = args.steps if args.stage == 'pretrain' else 1
  checkpoint = f',checkpoint={args.checkpoint}' if args.checkpoint else ''
  spec = f'num_train=10000,size={SIZE},steps={steps},seed={args.seed}{checkpoint}'
  config = load_config(f'{SMALL}:{spec}{smoke}')
  config.model.patch_size = 16
  config.data.shift = 6
  if not args.smoke:
    config.evals.test.source.split = 'test[:4000]'
  if args.stage == 'judge':
    config.optim.peak_lr = 0.0  # One step that changes nothing: what counts is the evaluation after it.
    config.init.head = 'keep'
    config.evals.test.patch_sizes = (args.patch,)
  elif args.train == 'flexible':
    config.model.patch_sizes = PATCHES
  return config


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  seeds = (0,) if smoke else (0, 1, 2)
  cells = [
    Cell(
      {'pretrain': labels['train'], 'seed': labels['seed']},
      {'stage': 'pretrain', **labels, **more},
      reported=False,
    )
    for labels in grid(train=TRAIN, seed=seeds)
  ]
  for labels in grid(train=TRAIN, patch=PATCHES, seed=seeds):
    start = {'pretrain': labels['train'], 'seed': labels['seed']}
    cells.append(Cell(labels, {'stage': 'judge', **labels, **more}, start=start))
  claims = [
    Claim(
      'over the three sizes together, patch sizes drawn in training beat patch 16 alone',
      {'train': 'flexible'},
      {'train': 'fixed'},
      'FlexiViT 3.2',
    )
  ]
  claims += [
    Claim(
      f'at patch {patch}, patch sizes drawn in training beat patch 16 alone',
      {'train': 'flexible', 'patch': patch},
      {'train': 'fixed', 'patch': patch},
      'FlexiViT 3.2',
    )
    for patch in (8, 32)
  ]
  claims.append(
    Claim(
      'at patch 16, a model trained at that size alone for as many steps is ahead',
      {'train': 'fixed', 'patch': 16},
      {'train': 'flexible', 'patch': 16},
    )
  )
  return Experiment(
    title='One model for patches of 8, 16 and 32 pixels',
    question='What does one checkpoint lose at other patch sizes, with and without patch sizes drawn in training?',
    method=(
      'A ViT of 4 blocks and width 64, its patch embedding stored for 16 pixels, trained for 600 steps of 100 on '
      '10,000 images of Fashion-MNIST enlarged to 64 pixels: at patch 16 alone (fixed), or at 8, 16 or 32, drawn at '
      'every step (flexible). Each checkpoint is then judged on 4,000 test images at all three sizes, its embedding '
      'resized by the pseudo-inverse and its positions linearly: 64, 16 and 4 patches.'
    ),
    limits=(
      'Enlarged images of 28 pixels, and as many steps for both: the flexible model saw patches of 16 in a third of '
      'them. The paper trains long, with distillation.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=tuple(cells),
    rows=('train',),
    column='patch',
    claims=tuple(claims),
    chance=0.1,
  )
