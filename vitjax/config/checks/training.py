"""Durations, optimiser, checkpoints and initialisation."""

from __future__ import annotations

import re

from vitjax.config.checks.base import Findings
from vitjax.config.checks.data import check_exists
from vitjax.config.durations import Duration
from vitjax.config.eval_metrics import HEAD_KINDS, best_metrics
from vitjax.config.suggest import did_you_mean, nearest_divisors
from vitjax.config.values import shown


def check_training(found: Findings) -> None:
  """Reports lengths that contradict one another, optimiser settings that cannot work, and unknown names."""
  _check_positive(found)
  _check_lengths(found)
  _check_stairs(found)
  _check_optim(found)
  _check_regexes(found)
  _check_keep_best(found)
  _check_report(found)
  init = found.recipe.init
  if init.checkpoint is not None:
    check_exists(found, 'init.checkpoint', init.checkpoint, 'a file or a folder')
  _check_probed_head(found)
  _check_teacher(found)


def _check_probed_head(found: Findings) -> None:
  recipe = found.recipe
  decide = ('objective.name', 'objective.loss', 'model.num_classes', 'data.source.multi_label')
  if recipe.init.head != 'probe' or not found.good(*decide):
    return
  fits = recipe.objective.name in ('classification', 'distillation') and recipe.objective.loss == 'softmax'
  if not fits or recipe.data.source.multi_label or recipe.model.num_classes == 0:
    expected = "'reset' or 'keep', unless a head learns one class per image with objective.loss = 'softmax'"
    found.add('init.head', expected, 'The probe is a multinomial logistic regression')


def _check_teacher(found: Findings) -> None:
  checkpoint = found.recipe.distill.checkpoint
  if checkpoint is not None:
    check_exists(found, 'distill.checkpoint', checkpoint, 'a file or a folder')
  elif found.good('objective.name') and found.recipe.objective.name == 'distillation':
    expected = "the teacher's workdir or weights, for objective.name = 'distillation'"
    hint = 'Whatever vitjax.load reads: --config.distill.checkpoint=PATH'
    found.add('distill.checkpoint', expected, hint)


def _check_positive(found: Findings) -> None:
  recipe = found.recipe
  lengths: dict[str, Duration | None] = {
    'total': recipe.total,
    'stop_after': recipe.stop_after,
    'checkpoint.every': recipe.checkpoint.every,
    'log.every': recipe.log.every,
    'optim.rsqrt_timescale': recipe.optim.rsqrt_timescale,
    'resilience.replica_check_every': recipe.resilience.replica_check_every,
    **{f'evals.{name}.every': config.every for name, config in recipe.evals.items()},
  }
  for where, length in lengths.items():
    if length is not None and length.value == 0:
      found.add(where, 'a duration above 0', f"The smallest is '1 {length.unit}'")


def _comparable(found: Findings, first: Duration, second: Duration) -> tuple[float, float] | None:
  """Returns both lengths in one unit; None where that takes the size of the data set."""
  if first.unit == second.unit:
    return first.value, second.value
  if 'epochs' in (first.unit, second.unit) or not found.good('data.batch_size'):
    return (0.0, 1.0) if first.value == 0 < second.value else None
  batch = found.recipe.data.batch_size
  return tuple(d.value * (batch if d.unit == 'steps' else 1) for d in (first, second))  # type: ignore[return-value]


def _check_lengths(found: Findings) -> None:
  recipe, optim = found.recipe, found.recipe.optim
  if not found.good('total') or recipe.total.value == 0:
    return
  if recipe.stop_after is not None:
    pair = _comparable(found, recipe.stop_after, recipe.total)
    if pair is not None and pair[0] > pair[1]:
      found.add('stop_after', f'at most total = {recipe.total}', 'Leave it out to run to the end')
  if not found.good('optim.warmup', 'optim.cooldown'):
    return
  warmup = _comparable(found, optim.warmup, recipe.total)
  cooldown = _comparable(found, optim.cooldown, recipe.total)
  if warmup is not None and warmup[0] > warmup[1]:
    found.add('optim.warmup', f'at most total = {recipe.total}', 'Shorten the warm-up, or train longer')
  elif cooldown is not None and cooldown[0] > cooldown[1]:
    found.add('optim.cooldown', f'at most total = {recipe.total}', 'Shorten the cool-down, or train longer')
  elif warmup is not None and cooldown is not None and cooldown[0] > 0:
    # Each pair has a unit of its own; as shares of the total they add up.
    share = warmup[0] / warmup[1] + cooldown[0] / cooldown[1]
    expected = f'warm-up and cool-down within total = {recipe.total}'
    if share > 1:
      found.add('optim.cooldown', expected, f'optim.warmup = {optim.warmup} leaves less than that')


def _check_stairs(found: Findings) -> None:
  optim, total = found.recipe.optim, found.recipe.total
  if optim.schedule != 'staircase' or not found.good('optim.schedule', 'optim.stairs'):
    return
  if not optim.stairs:
    hint = "BiT's are 30 %, 60 % and 90 % of the run, such as ('3000 steps', '6000 steps', '9000 steps')"
    found.add('optim.stairs', "at least one duration, for optim.schedule = 'staircase'", hint)
  for first, second in zip(optim.stairs, optim.stairs[1:], strict=False):
    pair = _comparable(found, first, second)
    if pair is not None and pair[0] >= pair[1]:
      found.add('optim.stairs', 'durations in increasing order', f'{second} comes after {first}')
      return
  start = (
    _comparable(found, optim.stairs[0], optim.warmup) if optim.stairs and found.good('optim.warmup') else None
  )
  if start is not None and start[0] < start[1]:
    expected = f'durations after the warm-up, optim.warmup = {optim.warmup}'
    found.add('optim.stairs', expected, f'{optim.stairs[0]} lies inside it')
    return
  if found.good('total'):
    late = [
      s for s in optim.stairs if (pair := _comparable(found, s, total)) is not None and pair[0] >= pair[1]
    ]
    if late:
      found.add('optim.stairs', f'durations below total = {total}', f'{late[0]} is never reached')


def _check_optim(found: Findings) -> None:
  data, optim = found.recipe.data, found.recipe.optim
  for where, value in (('optim.b1', optim.b1), ('optim.b2', optim.b2), ('optim.ema_decay', optim.ema_decay)):
    if value == 1.0:
      found.add(where, 'less than 1: an average with decay 1 never moves', 'A long one has 0.9999')
  falls = optim.schedule in ('cosine', 'linear') and found.good('optim.schedule', 'optim.peak_lr')
  if falls and optim.end_lr > optim.peak_lr:
    expected = f'at most optim.peak_lr = {optim.peak_lr}'
    found.add('optim.end_lr', expected, 'The schedule falls from the one to the other')
  decays = optim.weight_decay > 0 and found.good('optim.weight_decay', 'optim.weight_decay_form')
  if decays and optim.peak_lr == 0 and optim.weight_decay_form == 'independent':
    expected = "above 0 with optim.weight_decay_form = 'independent'"
    found.add('optim.peak_lr', expected, 'The decay follows schedule / peak_lr')
  if data.batch_size % optim.accumulation_steps and found.good('data.batch_size'):
    hint = f'Nearest: {nearest_divisors(optim.accumulation_steps, data.batch_size)}'
    found.add('optim.accumulation_steps', f'a divisor of data.batch_size = {data.batch_size}', hint)
  falling = optim.schedule in ('cosine', 'linear') and optim.end_lr < optim.peak_lr
  if optim.sam_rho_end is not None and not falling and found.good('optim.schedule', 'optim.sam_rho_end'):
    expected = 'None, unless the rate falls from optim.peak_lr to optim.end_lr as cosine or linear'
    found.add('optim.sam_rho_end', expected, 'The distance follows the rate')


def _check_regexes(found: Findings) -> None:
  optim = found.recipe.optim
  _check_regex(found, 'optim.weight_decay_on', optim.weight_decay_on)
  for pattern in optim.freeze:
    _check_regex(found, 'optim.freeze', pattern)


def _check_regex(found: Findings, where: str, pattern: str) -> None:
  if (reason := regex_error(pattern)) is not None:
    found.add(where, f'a regular expression; {shown(pattern)} has an error: {reason}', _regex_hint(pattern))


def regex_error(pattern: str) -> str | None:
  """Returns why a regular expression cannot be compiled, None if it can."""
  try:
    re.compile(pattern)
  except re.error as error:
    return str(error)
  except RecursionError:
    return 'nested too deeply'
  return None


def _regex_hint(pattern: str) -> str:
  if pattern.startswith('*'):
    return f"Did you mean '.{pattern}'?"
  return "Paths look like 'Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel'"


def _check_report(found: Findings) -> None:
  known = [name for name, config in found.recipe.evals.items() if config.kind in HEAD_KINDS]
  unknown = [name for name in found.recipe.report.evals if name not in known]
  if unknown and found.good('evals'):
    expected = f'names of evaluators that judge the head: {", ".join(map(repr, known)) or "there are none"}'
    found.add('report.evals', expected, did_you_mean(unknown[0], known))


def _check_keep_best(found: Findings) -> None:
  recipe, where = found.recipe, 'checkpoint.keep_best'
  wanted = recipe.checkpoint.keep_best
  if wanted is None or not found.good('evals'):
    return
  known = [f'{name}/{metric}' for name, config in recipe.evals.items() for metric in best_metrics(config)]
  if wanted not in known:
    expected = (
      f'one of {", ".join(map(repr, known))}' if known else "'<evaluator>/<metric>' of one of config.evals"
    )
    hint = did_you_mean(wanted, known) or (
      'The largest value wins, so a loss cannot be used' if known else 'There are no evaluators'
    )
    if wanted.endswith('/loss'):
      hint = 'The largest value wins, so a loss cannot be used'
    found.add(where, expected, hint)
