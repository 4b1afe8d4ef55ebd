"""Images at their own aspect ratio against the same images squashed to a square of as many patches.

  python benchmarks/boxed_fashion.py --out=runs/boxed_fashion
  vitjax experiment --config=configs/experiments/naflex.py --workdir=runs/naflex

Cost: see the results page. Expected: the native ratio ahead (NaViT, arXiv 2307.06304).
Arguments: shape, tokens, path, steps, seed, smoke.
"""

import math
import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args, source_config

SMALL = pathlib.Path(__file__).with_name('small.py')
SHAPES = ('native', 'squashed')
TOKENS = (36,)
PATCH = 5


def get_config(arg: str = ''):
  args = parse_args(arg, shape=SHAPES, tokens=36, path='runs/boxed_fashion', steps=400, seed=0, smoke=False)
  size = math.isqrt(args.tokens) * PATCH
  # The embedded digits stand in where the images have not been made: they are square, which is enough to run.
  made = 'source=mnist,smoke' if args.smoke else 'source=mnist'
  config = load_config(f'{SMALL}:{made},size={size},steps={args.steps},seed={args.seed}')
  config.model.patch_size = PATCH
  if not args.smoke:
    config.data.source = source_config(kind='array_record', path=args.path, split='train')
    config.evals.test.source = source_config(config.data.source, split='test')
  config.data.flip = True
  config.data.crop = 'resize'
  config.data.shift = 4
  if args.shape == 'native':
    config.data.max_tokens = args.tokens
  return config


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  seeds = (0,) if smoke else (0, 1, 2)
  cells = [Cell(labels, {**labels, **more}) for labels in grid(shape=SHAPES, tokens=TOKENS, seed=seeds)]
  return Experiment(
    title='Native aspect ratio against squashed images, at equal tokens',
    question='What does it bring to keep the shape of images instead of squashing them to a square?',
    method=(
      'Fashion-MNIST cut to its bounding boxes (benchmarks/boxed_fashion.py: 10,000 to train, 4,000 to test). A ViT of '
      '4 blocks, width 64 and patches of 5 pixels, 400 steps of 100, flips alone: images squashed to 30 pixels, 36 '
      'patches; or at their own ratio, resized to the largest grid of at most 36 patches and padded to 36 '
      '(data.max_tokens), positions resized from 6 x 6.'
    ),
    limits=(
      'The shape of a box tells classes apart here (trousers are narrow), which squashing hides: the gain need not '
      'carry over to photographs, whose shape says little. 400 steps are short of convergence. Native images fill '
      'fewer patches than squashed ones, and their grids are coarse: a ratio is met to within a patch of five pixels.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on boxed Fashion-MNIST',
    cells=tuple(cells),
    rows=('shape',),
    column='tokens',
    claims=(
      Claim(
        'images at their own aspect ratio beat squashed ones at equal tokens',
        {'shape': 'native'},
        {'shape': 'squashed'},
        'NaViT 2307.06304',
      ),
    ),
    chance=0.1,
  )
