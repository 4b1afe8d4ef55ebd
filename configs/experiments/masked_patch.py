"""Pretraining without labels, by masked patches (B.1.2), against pretraining with labels and none, on few labels.

  vitjax experiment --config=configs/experiments/masked_patch.py --workdir=runs/masked_patch

Cost: 7 minutes of one core (benchmarks/experiments/masked_patch/results.md). Expected: scratch < masked < supervised
(ViT 4.6: B/16 79.9 % on ImageNet after masked patch prediction, 2 % above scratch and 4 % below supervised
pretraining).
Arguments: stage, start, target, seed, checkpoint, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, evaluators, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
STARTS = ('scratch', 'masked', 'supervised')
TARGETS = ('fashion', 'mnist')


def get_config(arg: str = ''):
  args = parse_args(
    arg, stage=('pretrain', 'finetune'), start=STARTS, target=TARGETS, seed=0, checkpoint='', smoke=False
  )
  smoke = ',smoke' * args.smoke
  if args.stage == 'pretrain':
    config = load_config(f'{SMALL}:size=28,steps=600,seed={args.seed}{smoke}')
    if args.start == 'masked':
      config.objective.name = 'masked_patch'
      config.model.num_classes = 0
      config.evals = evaluators()
  else:
    spec = f'size=28,source={args.target},per_class=10,steps=150,batch=50,seed={args.seed}'
    checkpoint = f',checkpoint={args.checkpoint}' if args.checkpoint else ''
    config = load_config(f'{SMALL}:{spec}{checkpoint}{smoke}')
  config.model.variant = 'Ti/7'
  config.model.pool = 'gap'  # A class token would learn nothing from colours of patches.
  return config


def get_experiment(smoke: bool) -> Experiment:
  seeds, targets = ((0,), TARGETS[:1]) if smoke else ((0, 1, 2), TARGETS)
  more = {'smoke': True} if smoke else {}
  cells = []
  for labels in grid(start=STARTS[1:], seed=seeds):
    cells.append(
      Cell(
        {'pretrain': labels['start'], 'seed': labels['seed']},
        {'stage': 'pretrain', **labels, **more},
        reported=False,
      )
    )
  for labels in grid(target=targets, start=STARTS, seed=seeds):
    start = {'pretrain': labels['start'], 'seed': labels['seed']} if labels['start'] != 'scratch' else None
    cells.append(Cell(labels, {'stage': 'finetune', **labels, **more}, start=start))
  claims = []
  for target in targets:
    sides = [{'target': target, 'start': start} for start in STARTS]
    claims.append(Claim(f'masked patches beat scratch on {target}', sides[1], sides[0], 'ViT 4.6'))
    claims.append(Claim(f'labels beat masked patches on {target}', sides[2], sides[1], 'ViT 4.6'))
  return Experiment(
    title='Masked patch prediction against supervised pretraining and none',
    question='With ten labelled images per class: what is pretraining without labels worth?',
    method=(
      'A ViT of 4 blocks, width 64, patch 7 (16 tokens, mean-pooled), pretrained for 600 steps of 100 on the 60,000 '
      'training images of Fashion-MNIST, by the colours of masked patches or by labels; then all weights fine-tuned '
      'for 150 steps of 50 on ten images per class (seeds draw the images, too), scored on the whole test split.'
    ),
    limits=(
      'Grey images have 8 mean colours instead of 512, so the task is easier than in the paper. One learning rate for '
      'all starts, one pass over the pretraining images; supervised pretraining on Fashion-MNIST has seen '
      'the labels of the first target.'
    ),
    metric='test/accuracy_top1',
    metric_name='test accuracy after fine-tuning on 10 per class',
    cells=tuple(cells),
    rows=('start',),
    column='target',
    claims=tuple(claims),
    chance=0.1,
  )
