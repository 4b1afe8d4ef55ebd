"""The recipe of start.py: a step of real depth, S/16 at 224 pixels on made-up images, so that no data set is needed."""

from vitjax.config import default_config, source_config


def get_config(arg: str = ''):
  assert not arg, 'no arguments'
  config = default_config()
  config.model.variant = 'S/16'
  config.data.source = source_config(kind='synthetic', num_examples=64, num_classes=1000)
  config.data.batch_size = 8
  config.optim.warmup = '2 steps'
  config.total = '20 steps'
  return config
