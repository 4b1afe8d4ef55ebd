"""CNN, ViT and hybrid as the training data grow, and what their pretraining is worth elsewhere (Figures 3 and 4).

  vitjax experiment --config=configs/experiments/data_scale.py --workdir=runs/data_scale

Cost: see the results page. Expected: the CNN ahead on few images; the gap closes as they grow. The paper sees the ViT
overtake beyond tens of millions of images, far above what is here.
Arguments: model, num_train, seed, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, grid, load_config, parse_args

SMALL = pathlib.Path(__file__).with_name('small.py')
MODELS = ('resnet', 'hybrid', 'vit')
# Images -> steps of 100: more images, longer training, as in the paper's subsets of JFT.
STEPS = {300: 200, 1000: 300, 3000: 500, 10000: 800, 60000: 1500}
# LRCOMMENT
RATES = {'resnet': 1e-2, 'hybrid': 1e-3, 'vit': 1e-3}


def get_config(arg: str = ''):
  args = parse_args(arg, model=MODELS, num_train=10000, seed=0, lr=0.0, smoke=False)
  rate = args.lr or RATES[args.model]
  spec = (
    f'model={args.model},num_train={args.num_train},steps={STEPS[args.num_train]},lr={rate},seed={args.seed}'
  )
  return load_config(f'{SMALL}:{spec}' + ',smoke' * args.smoke)


def get_experiment(smoke: bool) -> Experiment:
  sizes = (300,) if smoke else tuple(STEPS)
  cells = tuple(
    Cell(labels, {**labels, **({'smoke': True} if smoke else {})})
    for labels in grid(num_train=sizes, model=MODELS, seed=(0,) if smoke else (0, 1, 2))
  )
  return Experiment(
    title='CNN, hybrid and ViT as training data grow',
    question='On how many images does a ViT catch up with a CNN that has locality built in?',
    method=(
      'Three networks of about equal cost (ResNet of 3 units; ViT of 4 blocks, width 64, 16 tokens; hybrid: one '
      'residual unit before the same blocks) on the first 300 to 60,000 images of Fashion-MNIST at 32 pixels, 200 to '
      '1,500 steps of 100, scored on all 10,000 test images.'
    ),
    limits=(
      'One data set of small grey images, networks of some 100,000 parameters, at most 2.5 passes over the largest '
      'set. It cannot show the region in which the paper sees the ViT ahead (above 30 million images).'
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
  )
