"""Cross-field checks of a recipe: what no single knob can tell."""

from __future__ import annotations

from vitjax.config.checks.base import Findings
from vitjax.config.checks.data import check_data
from vitjax.config.checks.ignored import check_ignored
from vitjax.config.checks.model import check_model
from vitjax.config.checks.naflex import check_native
from vitjax.config.checks.parallel import check_parallel
from vitjax.config.checks.tokens import check_tokens
from vitjax.config.checks.training import check_training
from vitjax.config.checks.transfer import check_transfer
from vitjax.config.schema import Recipe
from vitjax.errors import Problem

__all__ = ['check_recipe']


def check_recipe(recipe: Recipe, bad: set[str], num_devices: int | None) -> list[Problem]:
  """Returns all problems between knobs.

  Args:
    recipe: its knobs have the right types and ranges, except for those in `bad`, which hold defaults.
    bad: dotted paths that were refused already; nothing is said of them again.
    num_devices: devices of the run, None to skip what depends on it.
  """
  found = Findings(recipe, bad, num_devices)
  checks = (
    check_model, check_tokens, check_native, check_data, check_training, check_transfer, check_parallel, check_ignored,
  )  # fmt: skip
  for check in checks:
    check(found)
  return found.problems
