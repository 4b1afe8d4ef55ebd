"""Run by test_pod.py with 512 virtual devices: compiles ViT-22B, fsdp 128 x model 4; prints its collectives as JSON."""

import dataclasses
import json

from vitjax.config import load_config
from vitjax.planning.compiling import compile_step
from vitjax.planning.expected import expected_collectives
from vitjax.planning.standin import stand_in
from vitjax.training import build

KNOBS = {'model.layers': 'scan', 'model.remat': 'full', 'parallel.fsdp': '128', 'parallel.model': '4'}


def main():
  config = load_config('configs/pretrain.py:model=22B/14', list(KNOBS.items()))
  run = build(stand_in(config, num_devices=512).recipe)
  step = compile_step(run, None)
  rows = {'compiled': step.collectives, 'expected': expected_collectives(run)}
  print(json.dumps({name: [dataclasses.asdict(c) for c in found] for name, found in rows.items()}))


if __name__ == '__main__':
  main()
