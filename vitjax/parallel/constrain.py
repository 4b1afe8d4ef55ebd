"""Hints to the compiler about how activations lie on the mesh; without a mesh they do nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, PartitionSpec

from vitjax.parallel.mesh import AXES

Args = ParamSpec('Args')
Result = TypeVar('Result')


def on_mesh(mesh: Mesh, fn: Callable[Args, Result]) -> Callable[Args, Result]:
  """Returns `fn` with `constrain` active inside it: jax.jit(on_mesh(mesh, step)).

  The mesh becomes part of the function that is traced. A mesh held in a global of our own would not be part
  of jit's cache key, and a function traced once without a mesh would then stay without it.
  `jax.set_mesh(mesh)` works as well.
  """

  @functools.wraps(fn)
  def traced(*args: Args.args, **kwargs: Args.kwargs) -> Result:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return fn(*args, **kwargs)

  return traced


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
  """Returns `x` with a sharding hint; traced.

  Outside `on_mesh` and `jax.set_mesh`, and outside of jit, it returns `x` itself. Axes that the mesh lacks or
  handles by hand (shard_map), and axes that do not divide their dimension (3 heads over 2 devices), are left
  out of the hint.

  Args:
    x: an activation.
    *spec: for each leading dimension of `x` an axis name, a tuple of names, or None. Dimensions that are not
      named, and None, are replicated.

  Raises:
    ValueError: an unknown axis name, or more entries than dimensions. This is checked without a mesh too.
  """
  names = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]
  unknown = sorted({name for entry in names for name in entry} - set(AXES))
  if unknown or len(names) > x.ndim:
    raise ValueError(
      f'constrain{spec} on shape {x.shape}: entries are {AXES} or None, at most one per dimension'
    )
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or not isinstance(x, Tracer):
    return x
  sizes = {
    name: size
    for name, size, kind in zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    if kind == AxisType.Auto
  }
  if not sizes:
    return x
  entries = []
  for dim, entry in zip(x.shape, names, strict=False):
    present = tuple(name for name in entry if name in sizes)
    divides = dim % math.prod(sizes[name] for name in present) == 0
    entries.append(present if present and divides else None)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))
