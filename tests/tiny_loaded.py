"""Tiny `Loaded` models with random parameters, made without training."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.config.schema import ModelConfig
from vitjax.data import Preprocess
from vitjax.loaded import Loaded
from vitjax.models import build_model

VIT = ModelConfig(variant='Ti/4', width=16, depth=2, mlp_dim=24, num_heads=2)
RESNET = ModelConfig(variant='R-tiny')


def tiny_loaded(config=VIT, *, num_classes=3, size=(16, 16), seed=0, **edits):
  """Returns a model whose parameters are all random, so that nothing is zero by initialisation."""
  config = dataclasses.replace(config, **edits)
  model = build_model(config, num_classes=num_classes)
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))['params']
  rng = np.random.default_rng(seed)
  params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.4, leaf.shape), jnp.float32), params)
  names = tuple(f'class {i}' for i in range(num_classes))
  return Loaded(model, config, params, Preprocess(size), names, None, 'vitjax', '')


def tiny_images(count=3, size=(16, 16), seed=1):
  """Returns normalised float32 images [count, h, w, 3]."""
  return np.random.default_rng(seed).normal(0, 1, (count, *size, 3)).astype(np.float32)
