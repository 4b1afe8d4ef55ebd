"""Which compiled program takes a step: with model.patch_sizes there is one per size, drawn by the step's number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# Tells these draws from others that are made of the run's seed.
_STREAM = 2212


def program_at(step: int, *, seed: int, num_programs: int) -> int:
  """Returns which of the programs takes `step`, evenly drawn; a function of seed and step alone.

  So every host draws the same, and a resumed run what the uninterrupted one would have drawn. Host-side.

  Args:
    step: from 1 on, steps that are passed over included.
    seed: the run's.
    num_programs: at least 1.

  Source: FlexiViT (arXiv 2212.08013) 3.3.
  """
  if num_programs == 1:
    return 0
  draw = np.random.SeedSequence(seed, spawn_key=(_STREAM, step)).generate_state(1)[0]
  return int(draw) * num_programs >> 32


class Programs:
  """The compiled train steps of a run as one function of step, state and batch.

  Args:
    programs: (state, batch) -> (state, metrics), in the order of Run.step_fns.
    seed: the run's.
  """

  def __init__(self, programs: Sequence[Any], seed: int):
    self._programs, self._seed = tuple(programs), seed

  def __call__(self, step: int, state: Any, batch: Any) -> tuple[Any, Any]:
    """Returns (state, metrics) after `step`."""
    chosen = program_at(step, seed=self._seed, num_programs=len(self._programs))
    return self._programs[chosen](state, batch)

  def as_text(self) -> str:
    """Returns the optimised program, of the first one where there are several."""
    return self._programs[0].as_text()
