"""One implementation in one process: builds it, then times a block of steps for every number read from stdin.

Called by compare.py: peers.py NAME MODEL BATCH THREADS. Each answer is one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

SIZES = {'Ti': (192, 768, 3), 'S': (384, 1536, 6), 'B': (768, 3072, 12)}
CLASSES, IMAGE, RATE, DECAY = 1000, 224, 1e-4, 0.05


def timm_module() -> Any:
  """Returns timm; a torchvision built for another torch has no compiled operators, and none is needed."""
  rules = 'torchvision._meta_registrations'
  sys.modules.setdefault(rules, types.ModuleType(rules))
  return importlib.import_module('timm')


def torch_steps(
  name: str, model: str, batch: int, threads: int
) -> tuple[Callable[[int], float], dict[str, str]]:
  """Returns a function that takes some steps and gives the loss, and versions, of a PyTorch peer."""
  torch = importlib.import_module('torch')
  torch.set_num_threads(threads)
  torch.manual_seed(0)
  width, mlp_dim, heads = SIZES[model.partition('/')[0]]
  timm = timm_module()
  if name.startswith('timm'):
    size = {'Ti': 'tiny', 'S': 'small', 'B': 'base'}[model.partition('/')[0]]
    net = timm.create_model(f'vit_{size}_patch16_224', num_classes=CLASSES)
    versions = {'timm': timm.__version__, 'torch': torch.__version__}
    logits = net
  else:
    transformers = importlib.import_module('transformers')
    config = transformers.ViTConfig(
      hidden_size=width, num_hidden_layers=12, num_attention_heads=heads, intermediate_size=mlp_dim,
      image_size=IMAGE, patch_size=16, num_labels=CLASSES, attn_implementation='sdpa',
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config)
    versions = {'transformers': transformers.__version__, 'torch': torch.__version__}

    def logits(x: Any) -> Any:
      return net(pixel_values=x).logits

  net.train()
  kernels = [p for p in net.parameters() if p.ndim > 1]
  rest = [p for p in net.parameters() if p.ndim <= 1]
  groups = [{'params': kernels, 'weight_decay': DECAY}, {'params': rest, 'weight_decay': 0.0}]
  optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
  images = torch.rand(batch, 3, IMAGE, IMAGE) * 2 - 1
  labels = torch.randint(0, CLASSES, (batch,))

  def loss_fn() -> Any:
    return torch.nn.functional.cross_entropy(logits(images), labels)

  if name.endswith('-compile'):
    loss_fn = torch.compile(loss_fn)

  def steps(count: int) -> float:
    loss = None
    for _ in range(count):
      optimizer.zero_grad(set_to_none=True)
      loss = loss_fn()
      loss.backward()
      optimizer.step()
    return float(loss)

  return steps, versions


def vitjax_steps(model: str, batch: int) -> tuple[Callable[[int], float], dict[str, str]]:
  """Returns the same of vitjax: the step of `vitjax train`."""
  prepare = importlib.import_module('vitjax.cli.environment').prepare
  prepare()
  make = importlib.import_module('vitjax.bench').make
  step, state, data = make(model=model, batch=batch, image_size=IMAGE, num_classes=CLASSES)
  return jax_steps(step, state, data), jax_versions('vitjax')


def big_vision_steps(model: str, batch: int) -> tuple[Callable[[int], float], dict[str, str]]:
  """Returns the same of big_vision's ViT, with optax's AdamW as its trainer uses optax."""
  import jax
  import jax.numpy as jnp
  import optax

  sys.path.insert(0, os.environ['BIG_VISION'])
  # Its utilities want TensorFlow, its models only name them.
  sys.modules['big_vision.utils'] = stub = types.ModuleType('big_vision.utils')
  package = importlib.import_module('big_vision')
  package.utils = stub
  vit = importlib.import_module('big_vision.models.vit')
  net = vit.Model(num_classes=CLASSES, variant=model, pool_type='tok')
  images = jax.random.uniform(jax.random.key(1), (batch, IMAGE, IMAGE, 3), minval=-1.0)
  labels = jax.random.randint(jax.random.key(2), (batch,), 0, CLASSES)
  params = jax.jit(lambda key: net.init(key, images[:1])['params'])(jax.random.key(0))
  kernels = jax.tree.map(lambda p: p.ndim > 1, params)
  optimizer = optax.adamw(RATE, weight_decay=DECAY, mask=kernels)

  def loss_fn(params: Any, batch: Any) -> Any:
    logits, _ = net.apply({'params': params}, batch[0], train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), batch[1]).mean()

  def step(state: Any, batch: Any) -> Any:
    params, moments = state
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, moments = optimizer.update(grads, moments, params)
    return (optax.apply_updates(params, updates), moments), loss

  state = (params, jax.jit(optimizer.init)(params))
  jitted = jax.jit(step, donate_argnums=0)
  return jax_steps(jitted, state, (images, labels)), jax_versions('big_vision')


def jax_steps(step: Callable[..., Any], state: Any, data: Any) -> Callable[[int], float]:
  """Returns a function that takes some steps of a JAX implementation and waits for them."""
  import jax

  held = [state]

  def steps(count: int) -> float:
    loss = None
    for _ in range(count):
      held[0], loss = step(held[0], data)
    jax.block_until_ready((held[0], loss))
    return float(loss)

  return steps


def jax_versions(name: str) -> dict[str, str]:
  """Returns versions of jax and flax."""
  import flax
  import jax

  own = {'vitjax': importlib.import_module('vitjax').__version__} if name == 'vitjax' else {}
  return {**own, 'jax': jax.__version__, 'flax': flax.__version__}


def main() -> None:
  """Builds, warms up, then answers."""
  name, model, batch, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
  answers, sys.stdout = sys.stdout, sys.stderr
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
  os.environ['OMP_NUM_THREADS'] = str(threads)
  if name == 'vitjax':
    steps, versions = vitjax_steps(model, batch)
  elif name == 'big_vision':
    steps, versions = big_vision_steps(model, batch)
  else:
    steps, versions = torch_steps(name, model, batch, threads)
  loss = steps(1)
  steps(2)
  print(json.dumps({'loss': loss, 'versions': versions}), file=answers, flush=True)
  for line in sys.stdin:
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    steps(int(line))
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    print(json.dumps({'seconds': seconds, 'cpu_s': cpu_s}), file=answers, flush=True)


if __name__ == '__main__':
  main()
