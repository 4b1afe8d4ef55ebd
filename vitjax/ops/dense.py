"""Products of tokens and kernels whose gradients come out in the layout of the kernel."""

from __future__ import annotations

import functools
import math

import jax


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def contract(x: jax.Array, kernel: jax.Array, num_axes: int = 1) -> jax.Array:
  """Returns the product of the last `num_axes` axes of `x` with the first ones of `kernel`. Traced.

  The function is that of jax.lax.dot_general; its gradients are written by hand. Autodiff asks for the kernel's
  gradient transposed, and XLA:CPU then copies the tokens to get there. Here the tokens, whose rows are by far the
  longest axis, are contracted where they lie; a kernel that is taller than wide is done the other way round and
  turned afterwards, since the product is fastest with the longer side as its columns.

  Reverse mode alone: jax.jvp through it raises, as through every custom_vjp.

  Args:
    x: [..., *inner], any batch axes.
    kernel: [*inner, *outer], of the dtype of `x`.
    num_axes: how many axes `inner` has.

  Returns:
    [..., *outer], of the same dtype.
  """
  return _product(x, kernel, num_axes)


def _product(x: jax.Array, kernel: jax.Array, num_axes: int) -> jax.Array:
  inner = tuple(range(x.ndim - num_axes, x.ndim))
  return jax.lax.dot_general(x, kernel, ((inner, tuple(range(num_axes))), ((), ())))


def _forward(x: jax.Array, kernel: jax.Array, num_axes: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _product(x, kernel, num_axes), (x, kernel)


def _backward(num_axes: int, saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients of x and kernel for the cotangent g [..., *outer]."""
  x, kernel = saved
  rows = tuple(range(x.ndim - num_axes))
  outer = tuple(range(len(rows), g.ndim))
  dx = jax.lax.dot_general(g, kernel, ((outer, tuple(range(num_axes, kernel.ndim))), ((), ())))
  if math.prod(kernel.shape[:num_axes]) <= math.prod(kernel.shape[num_axes:]):
    return dx, jax.lax.dot_general(x, g, ((rows, rows), ((), ())))
  turned = jax.lax.dot_general(g, x, ((rows, rows), ((), ())))
  # Without the barrier the compiler merges product and transposition into the form that is avoided here.
  turned = jax.lax.optimization_barrier(turned)
  return dx, turned.transpose(*range(len(outer), kernel.ndim), *range(len(outer)))


contract.defvjp(_forward, _backward)
