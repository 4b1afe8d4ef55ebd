"""Classify images with any checkpoint: the five most likely classes of each, with their probabilities.

vitjax predict cat.jpg dog.jpg --checkpoint=runs/pets
vitjax predict photos/*.png --checkpoint=runs/pets/checkpoints/500 --top=3
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Declares the flags."""
  parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
  parser.add_argument(
    '--checkpoint',
    required=True,
    metavar='PATH',
    help='anything that vitjax.load reads: a workdir, .npz, .safetensors ...',
  )
  parser.add_argument('--top', type=int, default=5, metavar='K', help='how many classes to print (default 5)')


def run(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> int:
  """Prints the classes of each image; unreadable images are named and make the exit code 2."""
  from vitjax.cli.environment import prepare

  prepare()
  import numpy as np
  import scipy.special

  import vitjax
  from vitjax.errors import ConfigError, DataError, Problem

  if args.top < 1:
    raise ConfigError('nothing to print', [Problem('--top', str(args.top), 'at least 1')])
  loaded = vitjax.load(args.checkpoint)
  faults: list[Problem] = []
  readable = []
  for image in args.images:
    try:
      loaded.preprocess(image)
      readable.append(image)
    except DataError as error:
      faults += error.problems or [Problem(image, '', error.headline)]
  if readable:
    logits = loaded.predict(readable)
    # Foreign files do not say how their scores were trained; softmax is the habit.
    sigmoid = loaded.recipe is not None and loaded.recipe.objective.loss == 'sigmoid'
    scores = scipy.special.expit(logits) if sigmoid else scipy.special.softmax(logits, axis=-1)
    for image, row in zip(readable, scores, strict=True):
      print(image)
      for index in np.argsort(-row)[: args.top]:
        print(f'  {row[index]:7.2%}  {loaded.class_names[index]}')
  if faults:
    raise DataError(f'{len(faults)} of {len(args.images)} images cannot be read:', faults)
  return 0
