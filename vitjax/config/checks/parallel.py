"""The mesh, sharding rules, and batches that must divide over devices."""

from __future__ import annotations

from vitjax.config.checks.base import Findings
from vitjax.config.checks.training import regex_error
from vitjax.config.suggest import did_you_mean, nearest_divisors, nearest_multiples
from vitjax.config.values import shown
from vitjax.errors import Problem

_AXES = ('data', 'fsdp', 'model')
_SPEC_WORDS = "'replicated', or per dimension an axis of data, fsdp, model, several joined by '+', or 'none'"


def check_parallel(found: Findings) -> None:
  """Reports a mesh that does not fit the devices, batches that do not fit the mesh, and malformed rules."""
  parallel = found.recipe.parallel
  if parallel.data == 0:
    found.add('parallel.data', '-1 or at least 1', '-1 takes all devices that remain')
  elif found.good('parallel.data', 'parallel.fsdp', 'parallel.model') and _mesh_fits(found):
    _check_batches(found, _row_shards(found))
  for i, (pattern, spec) in enumerate(parallel.rules):
    if found.good('parallel.rules'):
      _check_rule(found, f'parallel.rules[{i}]', pattern, spec)


def _mesh_fits(found: Findings) -> bool:
  """Returns whether the mesh fits the devices (or they are unknown); reports the axis to change otherwise."""
  parallel, devices = found.recipe.parallel, found.num_devices
  if devices is None:
    return True
  before = len(found.problems)
  if devices % parallel.model:
    hint = f'Nearest: {nearest_divisors(parallel.model, devices)}'
    found.add('parallel.model', f'a divisor of the number of devices, {devices}', hint)
  elif devices // parallel.model % parallel.fsdp:
    remaining = devices // parallel.model
    hint = f'Nearest: {nearest_divisors(parallel.fsdp, remaining)}'
    found.add(
      'parallel.fsdp', f'a divisor of {remaining}, the {devices} devices divided by parallel.model', hint
    )
  else:
    remaining = devices // (parallel.model * parallel.fsdp)
    if parallel.data not in (-1, remaining):
      product = parallel.data * parallel.fsdp * parallel.model
      expected = f'-1 or {remaining}: data x fsdp x model is the number of devices, {devices}, not {product}'
      found.add('parallel.data', expected, '-1 takes all devices that remain')
  return len(found.problems) == before


def _row_shards(found: Findings) -> int:
  """Returns data x fsdp, or the part of it that is known."""
  parallel = found.recipe.parallel
  if parallel.data > 0:
    return parallel.data * parallel.fsdp
  if found.num_devices is not None:
    return found.num_devices // parallel.model
  return parallel.fsdp


def _check_batches(found: Findings, shards: int) -> None:
  data, steps = found.recipe.data, found.recipe.optim.accumulation_steps
  unit = shards * steps
  words = f'{shards} devices of parallel.data x parallel.fsdp'
  divides = data.batch_size % steps == 0 and found.good('optim.accumulation_steps')  # else reported there
  if data.batch_size % shards or (divides and data.batch_size % unit):
    unit = unit if divides and steps > 1 else shards
    words += f' x {steps} optim.accumulation_steps' if unit != shards else ''
    found.add(
      'data.batch_size',
      f'a multiple of {unit}: {words}',
      f'Nearest: {nearest_multiples(data.batch_size, unit)}',
    )
  for name, config in found.recipe.evals.items():
    if config.batch_size % shards:
      hint = f'Nearest: {nearest_multiples(config.batch_size, shards)}'
      found.add(
        f'evals.{name}.batch_size',
        f'a multiple of {shards}: {words.partition(" x ")[0]} x parallel.fsdp',
        hint,
      )


def _check_rule(found: Findings, where: str, pattern: str, spec: str) -> None:
  if (reason := regex_error(pattern)) is not None:
    hint = "Paths look like 'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel'"
    found.problems.append(Problem(where, shown(pattern), f'a regular expression ({reason})', hint))
  if spec.strip() == 'replicated':
    return
  names = [name.strip() for entry in spec.split(',') if entry.strip() != 'none' for name in entry.split('+')]
  unknown = [name for name in names if name not in _AXES]
  if unknown:
    hint = did_you_mean(unknown[0], (*_AXES, 'none', 'replicated')) or f'{unknown[0]!r} is none of these'
    found.problems.append(Problem(where, shown(spec), _SPEC_WORDS, hint))
  elif len(set(names)) < len(names):
    found.problems.append(
      Problem(where, shown(spec), 'each axis at most once', 'An axis splits one dimension')
    )
