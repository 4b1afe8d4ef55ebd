"""What a training step costs on this machine, and beside other implementations.

`make` hands the step of `vitjax train` to a timing harness; `measure` times it for a recipe.
"""

from vitjax.bench.adapter import make

__all__ = ['make']
