"""A student that learns from a teacher's predictions against one that learns from labels, briefly and patiently.

  vitjax experiment --config=configs/experiments/distillation.py --workdir=runs/distillation

Cost: 7 minutes of one core (benchmarks/experiments/distillation/results.md). Expected: distilled students end above
those of labels after a long training ("a good teacher is patient and consistent", arXiv 2106.05237).
Arguments: train, steps, seed, checkpoint (of the teacher), smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
STUDENTS = ('labels', 'distilled')
SHORT, LONG = 100, 400
# The best of data_scale's sweep for each network.
TEACHER, STUDENT = 'model=resnet,lr=0.03', 'model=vit,lr=0.003'


def get_config(arg: str = ''):
  args = parse_args(arg, train=(*STUDENTS, 'teacher'), steps=SHORT, seed=0, checkpoint='', smoke=False)
  network = TEACHER if args.train == 'teacher' else STUDENT
  spec = f'{network},num_train=1000,steps={args.steps},seed={args.seed}'
  config = load_config(f'{SMALL}:{spec}' + ',smoke' * args.smoke)
  if not args.smoke:
    config.evals.test.source.split = 'test[:4000]'
  if args.train == 'distilled':
    config.objective.name = 'distillation'
    config.distill.checkpoint = args.checkpoint
  return config


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  seeds = (0,) if smoke else (0, 1, 2)
  teachers = {seed: {'train': 'teacher', 'steps': LONG, 'seed': seed} for seed in seeds}
  cells = [Cell(labels, {**labels, **more}) for labels in teachers.values()]
  for labels in grid(train=STUDENTS, steps=(SHORT, LONG), seed=seeds):
    start = None if labels['train'] == 'labels' else teachers[labels['seed']]
    cells.append(Cell(labels, {**labels, **more}, start=start))
  paper = 'arXiv 2106.05237'
  claims = tuple(
    Claim(text, {'train': better, 'steps': steps}, {'train': worse, 'steps': steps}, source)
    for text, better, worse, steps, source in (
      (f'after {LONG} steps the teacher beats a student of labels', 'teacher', 'labels', LONG, ''),
      (f'after {LONG} steps a distilled student beats one of labels', 'distilled', 'labels', LONG, paper),
      (f'after {LONG} steps the teacher beats a distilled student', 'teacher', 'distilled', LONG, ''),
      (f'after {SHORT} steps a distilled student beats one of labels', 'distilled', 'labels', SHORT, ''),
    )
  )
  return Experiment(
    title='A patient teacher',
    question='Does a ViT learn more from the predictions of a CNN than from labels, and does patience pay?',
    method=(
      'The teacher is a ResNet of 3 units (33,000 parameters), trained for 400 steps of 100 on labels of the first '
      '1,000 images of Fashion-MNIST, at 32 pixels, shifted and flipped; each seed has a teacher of its own. Students '
      'are ViTs of 4 blocks, width 64 and 16 tokens (148,000 parameters), trained for 100 or 400 steps on the same '
      "images: on labels, or on the teacher's probabilities of the same view (temperature 1, no labels). Scored on "
      '4,000 test images.'
    ),
    limits=(
      'Students have more parameters than their teacher and are weaker without it: this is a CNN teaching a ViT, not a '
      'large model made small. 40 passes over the images are few beside the thousands of the paper, and its mixup is '
      'left out. One learning rate for all students, chosen on labels and 10,000 images.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on Fashion-MNIST',
    cells=tuple(cells),
    rows=('train',),
    column='steps',
    claims=claims,
    chance=0.1,
  )
