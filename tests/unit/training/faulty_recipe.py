"""What the tests with two processes train: 60 steps of a tiny model, with evaluations and saves."""

from vitjax.config import default_config, evaluator, evaluators, source_config


def get_config(arg: str = ''):
  del arg
  config = default_config()
  config.model.variant = 'Ti/4'
  config.model.width = 32
  config.model.depth = 2
  config.model.mlp_dim = 64
  config.model.num_heads = 4
  config.data.source = source_config(kind='synthetic', num_examples=64, num_classes=4)
  config.data.image_size = (16, 16)
  config.data.batch_size = 16
  config.data.crop = 'resize'
  config.data.num_threads = 1
  config.parallel.fsdp = 2
  config.optim.warmup = '2 steps'
  config.total = '60 steps'
  config.checkpoint.every = '5 steps'
  config.log.every = '1 steps'
  config.log.tensorboard = False
  config.evals = evaluators(
    val=evaluator(
      source=source_config(kind='synthetic', num_examples=24, num_classes=4), batch_size=16, every='10 steps'
    )
  )
  return config
