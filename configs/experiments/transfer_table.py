"""One pretrained checkpoint on three targets: few-shot ridge, nearest neighbours, linear probe, full fine-tuning.

  vitjax experiment --config=configs/experiments/transfer_table.py --workdir=runs/transfer_table

Cost: see the results page. Found there: a linear probe is ahead of 100 untuned steps of fine-tuning on both digit sets.
Arguments: method, target, steps, lr, seed, checkpoint, smoke.
"""

import pathlib

from vitjax.config import Cell, Claim, Experiment, evaluator, grid, load_config, parse_args, source_config

SMALL = pathlib.Path(__file__).with_name('small.py')
SHOTS = 20
METHODS = ('few-shot ridge', 'nearest neighbours', 'linear probe', 'fine-tuning', 'from scratch')
NAMES = ('fewshot', 'knn', 'linear_probe', 'finetune', 'scratch', 'pretrain')
METRICS = {
  'fewshot': f'test/accuracy_{SHOTS}shot',
  'knn': 'test/accuracy_5nn',
  'linear_probe': 'test/accuracy_top1',
}
TARGETS = ('mnist', 'digits', 'fashion')
PRETRAIN_STEPS, TARGET_STEPS = 300, 100
# Pretraining sees the first half of Fashion-MNIST, so that the third target consists of images that are new.
HALF = 30_000


def get_config(arg: str = ''):
  args = parse_args(arg, method=NAMES, target=TARGETS, lr=1e-3, seed=0, checkpoint='', smoke=False)
  pretrains = args.method == 'pretrain'
  steps = PRETRAIN_STEPS if pretrains else TARGET_STEPS
  source = 'fashion' if pretrains else args.target
  config = load_config(
    f'{SMALL}:source={source},steps={steps},batch={100 if pretrains else 50},lr={3e-3 if pretrains else args.lr},'
    f'seed={args.seed}'
  )
  if source == 'fashion':
    config.data.source.split = f'train[:{HALF}]' if pretrains else f'train[{HALF}:]'
    config.evals.test.source.split = 'test[:2000]'
  if args.smoke:
    _smoke(config)
  if pretrains:
    return config
  config.data.source.examples_per_class = 10 if args.smoke else SHOTS
  config.data.source.subset_seed = args.seed
  if args.checkpoint:
    config.init.checkpoint = args.checkpoint
  if args.method in METRICS:
    _freeze(config, args.method, 10 if args.smoke else SHOTS)
  return config


def _freeze(config, kind: str, shots: int):
  """One step that changes nothing, then a classifier on the features of the same few images."""
  config.total = config.optim.warmup = '1 steps'
  config.checkpoint.every = config.log.every = '1 steps'
  config.optim.peak_lr = 0.0
  config.optim.weight_decay = 0.0
  knobs = {
    'fewshot': {'shots': (shots,), 'num_draws': 1},
    'knn': {'num_neighbours': (5,)},
    'linear_probe': {},
  }
  test, support = config.evals.test.source, config.data.source
  config.evals.test = evaluator(
    kind=kind,
    source=source_config(test),
    train_source=source_config(support),
    batch_size=config.evals.test.batch_size,
    every='1 steps',
    **knobs[kind],
  )


def _smoke(config):
  """Two steps; Fashion-MNIST need not be there."""
  for source in (config.data.source, config.evals.test.source):
    if source.kind == 'fashion_mnist':
      source.kind, source.path = 'mnist5k', None
  config.data.source.split = 'train[:200]'
  config.evals.test.source.split = 'test[:50]'
  config.data.batch_size = config.evals.test.batch_size = 16
  config.total = config.checkpoint.every = config.log.every = config.evals.test.every = '2 steps'
  config.optim.warmup = '1 steps'


def get_experiment(smoke: bool) -> Experiment:
  more = {'smoke': True} if smoke else {}
  start = {'method': 'pretrain', 'seed': 0}
  cells = [Cell(start, {'method': 'pretrain', 'seed': 0, **more}, reported=False)]
  axes = {
    'seed': (0,) if smoke else (0, 1, 2),
    'target': TARGETS[:1] if smoke else TARGETS,
    'method': METHODS,
  }
  for labels in grid(**axes):
    name = NAMES[METHODS.index(labels['method'])]
    metric = METRICS[name] if name in METRICS else ''
    cells.append(
      Cell(
        labels,
        {'method': name, 'target': labels['target'], 'seed': labels['seed'], **more},
        start=None if name == 'scratch' else start,
        metric=metric.replace(f'{SHOTS}shot', '10shot') if smoke else metric,
      )
    )
  return Experiment(
    title='One pretrained checkpoint, four ways to use it, three targets',
    question='With 20 labelled images per class: is a classifier on frozen features enough, or does fine-tuning pay?',
    method=(
      f'A ViT of 4 blocks, width 64, patch 8, pretrained {PRETRAIN_STEPS} steps of 100 on the first {HALF:,} images of '
      'Fashion-MNIST at 32 pixels (one checkpoint). Then 20 images per class, drawn with each seed: of MNIST, of '
      "scikit-learn's digits, and of the other half of Fashion-MNIST. Ridge regression (penalty 1024), 5 nearest "
      'neighbours and a linear probe (penalty chosen on a fifth of the images) see frozen features of those images; '
      f'fine-tuning and training from scratch take {TARGET_STEPS} steps of 50, AdamW at 1e-3. Scored on 1,000, 397 and '
      '2,000 test images.'
    ),
    limits=(
      'One small checkpoint; seeds vary the drawn images, the new head and the order, not pretraining. Rate and length '
      'of fine-tuning were not tuned, and its frozen rivals were given no augmented images.'
    ),
    metric='test/accuracy_top1',
    metric_name='accuracy on the test images',
    cells=tuple(cells),
    rows=('method',),
    column='target',
    chance=0.1,
    claims=tuple(
      Claim(
        f'{target}: fine-tuning beats {other}',
        {'method': 'fine-tuning', 'target': target},
        {'method': other, 'target': target},
      )
      for target in axes['target']
      for other in ('linear probe', 'from scratch')
    ),
  )
