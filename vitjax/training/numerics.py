"""The watch on numbers that are not finite."""

from __future__ import annotations

import collections

import jax

from vitjax.errors import Problem, TrainingError


class FiniteWatch:
  """Looks at each step's 'finite' flag two steps late, so that the device never waits for the host.

  The flag is a global value, so every process stops at the same step.
  """

  def __init__(self):
    self._pending: collections.deque[tuple[int, jax.Array]] = collections.deque()

  def add(self, step: int, flag: jax.Array) -> None:
    """Notes the flag of a step that has just been dispatched; looks at the one before the last.

    Raises:
      TrainingError: an earlier step was not finite.
    """
    self._pending.append((step, flag))
    if len(self._pending) > 2:
      self._look()

  def check(self) -> None:
    """Looks at every step so far; called before anything is written. Raises as `add`."""
    while self._pending:
      self._look()

  def _look(self) -> None:
    step, flag = self._pending.popleft()
    if not bool(flag):
      problem = Problem(
        f'step {step}', 'not finite', 'finite loss, gradients and updates',
        'Earlier checkpoints are intact; start again with a lower optim.peak_lr, a longer optim.warmup or '
        'optim.clip_norm, and look at the images of this step with `vitjax data`',
      )  # fmt: skip
      raise TrainingError(
        'training stopped: the loss, a gradient or an update is not a finite number', [problem]
      )
