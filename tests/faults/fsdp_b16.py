"""One step of a B/16 under FSDP, on small images: for the test that several processes write what one reads."""

from vitjax.config import default_config, source_config


def get_config(arg: str = ''):
  del arg
  config = default_config()
  config.model.variant = 'B/16'
  config.model.layers = 'scan'
  config.data.source = source_config(kind='synthetic', num_examples=16, num_classes=10)
  config.data.image_size = (32, 32)
  config.data.batch_size = 8
  config.data.crop = 'resize'
  config.data.num_threads = 1
  config.parallel.fsdp = 8
  config.optim.name = 'sgd'
  config.optim.weight_decay = 0.0
  config.optim.warmup = '0 steps'
  config.total = '1 steps'
  config.log.every = '1 steps'
  config.log.tensorboard = False
  return config
