"""The recipe of the fault cases: dropout, mixup, averaged weights, random crops; all that must resume, in seconds.

96 examples in batches of 8: 12 steps an epoch, 30 steps in all.
"""

from vitjax.config import default_config, evaluator, evaluators, source_config


def get_config(arg: str = ''):
  del arg
  config = default_config()
  config.model.variant = 'Ti/4'
  config.model.width = 16
  config.model.depth = 1
  config.model.mlp_dim = 32
  config.model.num_heads = 2
  config.model.dropout_rate = 0.1
  config.model.stochastic_depth_rate = 0.1
  config.data.source = source_config(kind='synthetic', num_examples=96, num_classes=10)
  config.data.image_size = (8, 8)
  config.data.batch_size = 8
  config.data.mixup_alpha = 0.2
  config.data.num_threads = 1
  config.optim.warmup = '5 steps'
  config.optim.ema_decay = 0.9
  config.total = '30 steps'
  config.checkpoint.every = '5 steps'
  # Killed again and again, on purpose.
  config.resilience.max_starts_without_progress = None
  config.log.every = '1 steps'
  config.log.tensorboard = False
  config.log.progress = False
  config.evals = evaluators(
    val=evaluator(
      source=source_config(kind='synthetic', num_examples=20, num_classes=10), batch_size=24, every='15 steps'
    )
  )
  return config
