"""Parameters of encoder blocks in two forms: one subtree per block, or stacked for nn.scan."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitjax import trees
from vitjax.errors import CheckpointError, Problem

_BLOCK = re.compile(r'(?P<head>(?:.*/)?)encoderblock_(?P<index>\d+)/(?P<tail>.*)')
_STACKED = re.compile(r'(?P<head>(?:.*/)?)encoderblock/(?P<tail>.*)')


def stack_blocks(params: Any) -> dict[str, Any]:
  """Returns the tree with .../encoderblock_{i}/x stacked on axis 0 into .../encoderblock/x (layers='scan').

  Host-side or traced; leaves may be numpy, jax or ShapeDtypeStruct. A tree without such blocks (already
  stacked, or a ResNet's) comes back as it is, and blocks may stand at any depth, such as below 'params/'.

  Args:
    params: nested dicts of arrays.

  Raises:
    CheckpointError: a block is missing, or blocks differ in their parameters, shapes or dtypes.
  """
  flat: dict[str, Any] = {}
  groups: dict[tuple[str, str], dict[int, Any]] = {}
  for path, leaf in trees.flatten(params).items():
    if match := _BLOCK.fullmatch(path):
      groups.setdefault((match['head'], match['tail']), {})[int(match['index'])] = leaf
    else:
      flat[path] = leaf
  depth: dict[str, int] = {}
  for (head, _), blocks in groups.items():
    depth[head] = max(*blocks, depth[head] - 1 if head in depth else -1) + 1
  problems = []
  for (head, tail), blocks in groups.items():
    missing = [i for i in range(depth[head]) if i not in blocks]
    kinds = {(tuple(leaf.shape), str(leaf.dtype)) for leaf in blocks.values()}
    if missing:
      problems.append(
        Problem(f'{head}encoderblock_*/{tail}', f'missing in {missing}', f'blocks 0 to {depth[head] - 1}')
      )
    elif len(kinds) > 1:
      found = ', '.join(f'{shape} {dtype}' for shape, dtype in sorted(kinds))
      problems.append(Problem(f'{head}encoderblock_*/{tail}', found, 'one shape and dtype in all blocks'))
    else:
      flat[f'{head}encoderblock/{tail}'] = _stack([blocks[i] for i in range(depth[head])])
  if problems:
    raise CheckpointError('encoder blocks cannot be stacked', problems)
  return trees.unflatten(flat)


def unstack_blocks(params: Any) -> dict[str, Any]:
  """Returns the tree with .../encoderblock/x split along axis 0 into .../encoderblock_{i}/x (layers='loop').

  The inverse of stack_blocks; host-side or traced. A tree without stacked blocks comes back as it is.

  Raises:
    CheckpointError: stacked parameters that disagree on the number of blocks.
  """
  flat: dict[str, Any] = {}
  depth: dict[str, int] = {}
  problems = []
  for path, leaf in trees.flatten(params).items():
    match = _STACKED.fullmatch(path)
    if match is None:
      flat[path] = leaf
      continue
    length = leaf.shape[0] if leaf.shape else 0
    expected = depth.setdefault(match['head'], length)
    if length != expected:
      problems.append(Problem(path, f'{length} blocks', f'{expected} as in the other parameters'))
    for i in range(length):
      flat[f'{match["head"]}encoderblock_{i}/{match["tail"]}'] = _take(leaf, i)
  if problems:
    raise CheckpointError('encoder blocks cannot be unstacked', problems)
  return trees.unflatten(flat)


def _stack(leaves: Sequence[Any]) -> Any:
  """Returns leaves stacked on a new axis 0, numpy for numpy, abstract for abstract."""
  if all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
    return jax.ShapeDtypeStruct((len(leaves), *leaves[0].shape), leaves[0].dtype)
  return np.stack(leaves) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp.stack(leaves)


def _take(leaf: Any, index: int) -> Any:
  """Returns leaf[index]; for an abstract leaf its shape without axis 0."""
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
  return leaf[index]


def attention_by_block(intermediates: Any) -> list[jax.Array]:
  """Returns each block's attention [n, k, l, l] from what apply(..., mutable=['intermediates']) kept."""
  maps = trees.flatten(unstack_blocks(intermediates))
  name = 'Transformer/encoderblock_{}/MultiHeadDotProductAttention_0/attention/0'
  depth = sum(path.startswith('Transformer/') for path in maps)
  return [maps[name.format(i)] for i in range(depth)]


def stack_attention(intermediates: Any) -> jax.Array:
  """Returns every block's attention as one array [n, depth, k, l, l]; see `attention_by_block`."""
  return jnp.stack(attention_by_block(intermediates), axis=1)
