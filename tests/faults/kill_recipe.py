"""The recipe that the kill tests train: dropout, mixup, averaged weights, random crops; everything that must resume."""

from vitjax.config import default_config, evaluator, evaluators, source_config


def get_config(arg: str = ''):
  del arg
  config = default_config()
  config.model.variant = 'Ti/4'
  config.model.width = 48
  config.model.depth = 2
  config.model.mlp_dim = 96
  config.model.num_heads = 4
  config.model.dropout_rate = 0.1
  config.model.stochastic_depth_rate = 0.1
  config.data.source = source_config(kind='digits', split='train[:200]')
  config.data.image_size = (16, 16)
  config.data.batch_size = 16
  config.data.mixup_alpha = 0.2
  config.data.num_threads = 2
  config.optim.warmup = '5 steps'
  config.optim.ema_decay = 0.9
  config.total = '120 steps'
  config.checkpoint.every = '5 steps'
  config.log.every = '1 steps'
  config.log.tensorboard = False
  config.evals = evaluators(
    val=evaluator(source=source_config(kind='digits', split='test[:50]'), batch_size=25, every='20 steps')
  )
  return config
