"""All cases: importing this fills the registry."""

from faults import crash, group, inputs, memory, numerics, preemption, refusals, storage  # noqa: F401
from faults.registry import CASES

__all__ = ['CASES']
