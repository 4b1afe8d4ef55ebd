"""Pretraining resolution against fine-tuning resolution, and ways to resample positions (the paper's 3.2).

  vitjax experiment --config=configs/experiments/resolution.py --workdir=runs/resolution

Cost: see the results page. Found there: twice the resolution costs 0.23 at once, most of which a hundred steps bring
back; the enlarged images end no higher, as they hold no more detail; zoom is no better than bilinear or bicubic.
Arguments: stage, pretrained, size, method, steps, seed, checkpoint, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
SIZES = (24, 32, 48)
METHODS = ('zoom', 'bilinear', 'bicubic')


def get_config(arg: str = ''):
  args = parse_args(
    arg,
    stage=('pretrain', 'tune'),
    pretrained=24,
    size=32,
    method=METHODS,
    steps=100,
    seed=0,
    checkpoint='',
    smoke=False,
  )
  smoke = ',smoke' * args.smoke
  if args.stage == 'pretrain':
    return load_config(f'{SMALL}:num_train=10000,size={args.pretrained},steps=500,seed={args.seed}{smoke}')
  spec = f'num_train=10000,size={args.size},steps={max(args.steps, 1)},seed={args.seed},checkpoint={args.checkpoint}'
  config = load_config(f'{SMALL}:{spec}{smoke}')
  config.init.head = 'keep'
  config.init.position_resize = args.method
  config.optim.peak_lr = 3e-4 if args.steps else 0.0
  return config


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  seeds, sizes = ((0,), SIZES[:2]) if smoke else ((0, 1, 2), SIZES)
  cells = [
    Cell(
      {'pretrained': labels['pretrained'], 'seed': labels['seed']},
      {'stage': 'pretrain', **labels, **more},
      reported=False,
    )
    for labels in grid(pretrained=sizes[: 2 - smoke], seed=seeds)
  ]
  for labels in grid(pretrained=sizes[: 2 - smoke], size=sizes, method=METHODS, steps=(0, 100), seed=seeds):
    same = labels['size'] == labels['pretrained']
    # Nothing is resampled at the same size, and after a hundred steps one method stands for all.
    if labels['method'] == 'zoom' or not (same or labels['steps']):
      start = {'pretrained': labels['pretrained'], 'seed': labels['seed']}
      cells.append(Cell(labels, {'stage': 'tune', **labels, **more}, start=start))
  top = {'pretrained': 24, 'size': sizes[-1], 'steps': 0}
  claims = [
    Claim(
      f'100 steps at {sizes[-1]} pixels improve on none',
      {'pretrained': 24, 'size': sizes[-1], 'steps': 100},
      {**top, 'method': 'zoom'},
      '3.2',
    ),
    Claim('zoom beats bicubic at once', {**top, 'method': 'zoom'}, {**top, 'method': 'bicubic'}),
    Claim('zoom beats bilinear at once', {**top, 'method': 'zoom'}, {**top, 'method': 'bilinear'}),
    Claim(
      f'pretrained at 24, tuned at {sizes[-1]} beats tuned at 24',
      {'pretrained': 24, 'size': sizes[-1], 'steps': 100},
      {'pretrained': 24, 'size': 24, 'steps': 100},
      '3.2',
    ),
  ]
  return Experiment(
    title='Pretraining and fine-tuning resolution, and how positions are resampled',
    question='What does another resolution cost before fine-tuning, and what does it bring after it?',
    method=(
      'A ViT of 4 blocks, width 64, patch 8, trained for 500 steps of 100 on 10,000 images of Fashion-MNIST at 24 or '
      '32 pixels; its positions resampled for 24, 32 or 48 pixels (3, 4 or 6 patches a side), the head kept; scored at '
      'once, and after 100 more steps. The images have 28 pixels: sizes above are upsampled.'
    ),
    limits='Upsampled images hold no more detail, so what a higher resolution brings in the paper cannot show here.',
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=tuple(cells),
    rows=('pretrained', 'method', 'steps'),
    column='size',
    claims=tuple(claims),
  )
