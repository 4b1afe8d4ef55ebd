"""Parameter paths: every tree of arrays seen as {'a/b/c': leaf}, the names that rules, masks and reports key on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Tree = Any


def path_text(path: tuple[Any, ...]) -> str:
  """Returns a jax key path as 'a/b/0/c': dict keys, attributes and indices joined by slashes."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def flatten(tree: Tree) -> dict[str, Any]:
  """Returns {'a/b/c': leaf} for any pytree, in the tree's own order."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_text(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the nested dict of {'a/b/c': leaf}; the inverse of `flatten` for nested dicts with text keys.

  Raises:
    ValueError: one path is a prefix of another, so no tree holds both.
  """
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        raise ValueError(f'{path!r}: {parent!r} is a leaf already')
    if name in node:
      raise ValueError(f'{path!r} stands twice, or is a prefix of another path')
    node[name] = leaf
  return tree


def map_with_path(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """Maps fn('a/b/c', leaf, *leaves of rest) over a pytree; returns a tree of the same structure."""
  return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_text(path), *leaves), tree, *rest)


def matching(tree: Tree, pattern: str) -> list[str]:
  """Returns the paths that `pattern` (a regular expression) matches in full."""
  regex = re.compile(pattern)
  return [path for path in flatten(tree) if regex.fullmatch(path)]


def num_params(tree: Tree) -> int:
  """Returns the number of scalars in all arrays (or ShapeDtypeStructs) of a tree."""
  return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))
