"""How attention distance and the position table change while a ViT trains (Figure 7 of the paper, over time).

  vitjax experiment --config=configs/experiments/training_course.py --workdir=runs/training_course

Cost: 5 minutes of one core (benchmarks/experiments/training_course/results.md). Expected: rows and columns appear in
the position table; blocks part in how far they look.
Arguments: patch, seed, smoke.
"""

import pathlib

from vitjax.config import (
  Cell,
  Claim,
  Course,
  Experiment,
  evaluator,
  grid,
  load_config,
  parse_args,
  source_config,
)

SMALL = pathlib.Path(__file__).with_name('small.py')
DEPTH = 4
DISTANCES = {f'look/attention_distance_block{i:02d}': f'block {i + 1}' for i in range(DEPTH)}


def get_config(arg: str = ''):
  args = parse_args(arg, patch=4, seed=0, smoke=False)
  config = load_config(f'{SMALL}:num_train=10000,steps=300,seed={args.seed}' + ',smoke' * args.smoke)
  config.model.variant = f'Ti/{args.patch}'
  test = config.evals.test
  images = source_config(
    test.source, split='test[:50]' if args.smoke else 'test[:128]'
  )  # 128: the paper's D.7
  every = '2 steps' if args.smoke else '20 steps'
  config.evals.look = evaluator(kind='attention', source=images, batch_size=64, every=every)
  return config


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  names = list(DISTANCES)
  return Experiment(
    title='Attention distance and positions in the course of training',
    question='When does a ViT learn where its patches lie, and when do its blocks part in how far they look?',
    method=(
      'A ViT of 4 blocks, width 64, patch 4 (64 tokens, 8 by 8), trained for 300 steps of 100 on 10,000 images of '
      'Fashion-MNIST at 32 pixels. Every 20 steps, on 128 test images: the mean attention distance of each block (all '
      'heads and patches; attention to the class token left out), and which share of the variance of the learned 1-D '
      'position table depends on the row alone plus the column alone.'
    ),
    limits=(
      'A small network on small, centred images, trained briefly. The paper shows a trained L/16 at 224 pixels with 16 '
      'heads in 24 blocks; a mean over heads hides that some look near and others far.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=tuple(
      Cell({'model': 'ViT', **labels}, {**labels, **more})
      for labels in grid(patch=(4,), seed=(0,) if smoke else (0, 1, 2))
    ),
    rows=('model',),
    column='patch',
    claims=(
      Claim('the last block looks further than the first', {}, {}, 'Figure 7', metrics=(names[-1], names[0])),
      Claim(
        'the first block looks nearer than uniform attention would',
        {},
        {},
        'Figure 7',
        metrics=('look/attention_distance_uniform', names[0]),
      ),
      Claim(
        'rows and columns explain more of the positions than chance',
        {},
        {},
        'Figure 7',
        metrics=('look/position_structure', 'look/position_structure_chance'),
      ),
    ),
    courses=(
      Course(
        'Attention distance during training',
        'mean attention distance [pixels]',
        DISTANCES,
        ('look/attention_distance_uniform', 'uniform attention'),
      ),
      Course(
        'Structure of the position table during training',
        "share of the table's variance",
        {
          'look/position_rows': 'the row alone',
          'look/position_columns': 'the column alone',
          'look/position_structure': 'both together',
        },
        ('look/position_structure_chance', 'both, random vectors'),
      ),
    ),
  )
