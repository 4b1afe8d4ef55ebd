"""A recipe file for the tests of vitjax.config."""

from vitjax.config import default_config, evaluator, evaluators, parse_args, source_config


def get_config(arg: str = ''):
  """Returns a small run on synthetic images."""
  args = parse_args(arg, variant='S/16', lr=1e-3, steps=100, smoke=False, loss=('softmax', 'sigmoid'))
  config = default_config()
  config.model.variant = args.variant
  config.objective.loss = args.loss
  config.data.source = source_config(kind='synthetic', num_classes=10)
  config.data.batch_size = 64
  config.data.image_size = 32
  config.optim.peak_lr = args.lr
  config.optim.warmup = '10 steps'
  config.evals = evaluators(
    val=evaluator(source=source_config(config.data.source, split='test'), batch_size=64, every='20 steps'),
    train=evaluator(source=config.data.source, batch_size=64),
  )
  config.evals.val.resize_short = 64
  config.total = '20 steps' if args.smoke else f'{args.steps} steps'
  return config
