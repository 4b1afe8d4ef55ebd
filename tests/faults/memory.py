"""F. The memory estimate: what `vitjax plan` says before training against what the compiler allocates."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pathlib
import random

from faults import makers
from faults.registry import Outcome, case


@case(
  49,
  'F',
  'a job that does not fit its devices',
  'said before training; the estimate against the compiler in %',
  full=1,
  slow=0,
)
def does_not_fit(rng: random.Random, count: int, folder: pathlib.Path) -> Outcome:
  del rng, count, folder
  if importlib.util.find_spec('libtpu') is None:
    return Outcome(skipped='libtpu, which compiles for TPUs that are not there, is not installed here')
  plan = makers.unit_module('planning/test_tpu').plan
  outcome, errors = Outcome(), []
  for knobs in (('data.batch_size=256', 'model.remat=dots'), ('data.batch_size=256', 'model.remat=full')):
    found = plan(*knobs)
    errors.append(found['estimated'] / found['compiled'] - 1)
    outcome.count('' if abs(errors[-1]) < 0.1 else f'{knobs}: {errors[-1]:+.1%}')
  found = plan('data.batch_size=2048')
  errors.append(found['estimated'] / found['needed'] - 1)
  too_large = found['compiled'] is None and found['estimated'] > found['data_sheet']
  outcome.count('' if too_large and abs(errors[-1]) < 0.1 else f'accepted, or {errors[-1]:+.1%}')
  texts = ', '.join(f'{error:+.1%}' for error in errors)
  version = importlib.metadata.version('jax')
  outcome.figure = (
    f'B/16 of six blocks on v5e:2x2, jax {version}: estimate {texts} of the compiler; the third does not fit'
  )
  return outcome
