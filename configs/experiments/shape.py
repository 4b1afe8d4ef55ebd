"""Where to spend compute: smaller patches or more steps, width or depth (after the paper's D.2).

  vitjax experiment --config=configs/experiments/shape.py --workdir=runs/shape

Cost: 12 minutes of one core (benchmarks/experiments/shape/results.md). Every cell spends about the same training FLOPs.
Arguments: shape, seed, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
# shape -> patch, width, depth, steps: tokens x width^2 x depth x steps is the same in all.
SHAPES = {
  'patch 4, 100 steps': (4, 64, 4, 100),
  'patch 8, 400 steps': (8, 64, 4, 400),
  'patch 16, 1600 steps': (16, 64, 4, 1600),
  'width 128, depth 1': (8, 128, 1, 400),
  'width 32, depth 16': (8, 32, 16, 400),
}
NAMES = {name.replace(', ', '-').replace(' ', ''): name for name in SHAPES}


def get_config(arg: str = ''):
  args = parse_args(arg, shape=tuple(NAMES), seed=0, smoke=False)
  patch, width, depth, steps = SHAPES[NAMES[args.shape]]
  config = load_config(f'{SMALL}:num_train=10000,steps={steps},seed={args.seed}' + ',smoke' * args.smoke)
  config.model.variant = f'Ti/{patch}'
  config.model.width, config.model.mlp_dim, config.model.num_heads = width, 2 * width, width // 16
  config.model.depth = depth
  return config


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  names = ('patch8-400steps', 'width128-depth1') if smoke else tuple(NAMES)
  cells = tuple(
    Cell({'shape': NAMES[labels['shape']], 'seed': labels['seed'], 'model': 'ViT'}, {**labels, **more})
    for labels in grid(shape=names, seed=(0,) if smoke else (0, 1, 2))
  )
  base = {'shape': 'patch 8, 400 steps'}
  return Experiment(
    title='Patch size, width and depth at equal compute',
    question='For the same training FLOPs: many small patches for few steps, or few large ones for many? Wide or deep?',
    method=(
      'ViTs that all spend about the same FLOPs in training on 10,000 images of Fashion-MNIST at 32 pixels (batches of '
      '100): the middle one has patch 8, width 64, 4 blocks and trains for 400 steps. Scored on all 10,000 test images.'
    ),
    limits=(
      'One learning rate for all shapes, one budget, one data set. More steps also mean more passes over the images: '
      '1, 4 and 16 for the three patch sizes.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=cells,
    rows=('model',),
    column='shape',
    claims=tuple(
      Claim(f'the middle shape beats {cell}', base, {'shape': cell})
      for cell in dict.fromkeys(cell.labels['shape'] for cell in cells)
      if cell != base['shape']
    ),
  )
