"""Learning-rate schedules, composed from optax: warm-up, a main part, and for some a cooldown."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from vitjax.config.durations import Duration
from vitjax.config.schema import OptimConfig
from vitjax.errors import ConfigError, Problem


def make_schedule(
  config: OptimConfig, *, total_steps: int, batch_size: int, num_examples: int
) -> optax.Schedule:
  """Returns the function from step (int or int32 scalar, steps done) to learning rate (float32 scalar).

  With w warm-up steps, c cooldown steps, T steps in total and peak p, the rate of step s is

    s < w        p * s / w, so that the very first update is zero
    constant     p
    linear       p + (end_lr - p) * x            x = (s - w) / (T - w)
    cosine       end_lr + (p - end_lr) * (1 + cos(pi x)) / 2
    rsqrt        p / sqrt(1 + (s - w) / rsqrt_timescale)
    staircase    p * stair_factor^k              k = how many of `stairs`, counted from step 0, are <= s
    s >= T - c   a straight line from the rate at T - c to 0 at T (rsqrt and constant)

  Args:
    config: all lengths in it are durations, which are turned into steps here.
    total_steps: T, the length of the schedule, >= 1.
    batch_size: global examples per step.
    num_examples: examples in one epoch.

  Raises:
    ConfigError: phases that do not fit into total_steps, stairs out of order or outside the main part, or a
      final rate above the peak.

  Source: ViT (arXiv 2010.11929) Table 3; rsqrt and cooldown: arXiv 2106.04560; stairs: BiT, 1912.11370.
  Differs from source: the cooldown is a straight line, where some code multiplies rsqrt's rate by one.
  """

  def steps(duration: Duration) -> int:
    return duration.to_steps(batch_size=batch_size, num_examples=num_examples)

  warmup = steps(config.warmup)
  cooldown = steps(config.cooldown) if config.schedule in ('constant', 'rsqrt') else 0
  stairs = [steps(stair) for stair in config.stairs]
  _check(config, warmup, cooldown, stairs, total_steps)

  length = total_steps - warmup - cooldown
  timescale = steps(config.rsqrt_timescale)
  main = _main(config, length, [stair - warmup for stair in stairs], timescale)
  pieces, boundaries = [main], []
  if warmup:
    pieces.insert(0, optax.linear_schedule(0.0, config.peak_lr, warmup))
    boundaries.append(warmup)
  if cooldown:
    start = float(jnp.asarray(main(length)))
    pieces.append(optax.linear_schedule(start, 0.0, cooldown))
    boundaries.append(total_steps - cooldown)
  joined = optax.join_schedules(pieces, boundaries)
  return lambda step: jnp.asarray(joined(step), jnp.float32)


def _main(config: OptimConfig, length: int, stairs: list[int], timescale: int) -> optax.Schedule:
  """Returns the part between warm-up and cooldown; its steps, `length` and `stairs` count from its start."""
  peak, end = config.peak_lr, config.end_lr
  length = max(length, 1)  # 0 when all is warm-up and cooldown
  return {
    'constant': optax.constant_schedule(peak),
    'linear': optax.linear_schedule(peak, end, length),
    'cosine': _cosine(peak, end, length),
    'rsqrt': _rsqrt(peak, timescale),
    'staircase': optax.piecewise_constant_schedule(peak, dict.fromkeys(stairs, config.stair_factor)),
  }[config.schedule]


def _cosine(peak: float, end: float, length: int) -> optax.Schedule:
  """Half a cosine from peak to end; unlike optax's alpha, `end` needs no division by a peak that may be 0."""
  unit = optax.cosine_decay_schedule(1.0, length)
  return lambda step: end + (peak - end) * unit(step)


def _rsqrt(peak: float, timescale: int) -> optax.Schedule:
  return lambda step: peak / jnp.sqrt(1.0 + jnp.maximum(step, 0) / timescale)


def _check(config: OptimConfig, warmup: int, cooldown: int, stairs: list[int], total: int) -> None:
  """Raises with every misfit between the lengths."""
  problems = []
  if warmup + cooldown > total:
    where = 'optim.warmup' if warmup >= cooldown else 'optim.cooldown'
    found = f'{warmup} steps' + (f' and a cooldown of {cooldown} steps' if cooldown else '')
    hint = 'Shorten it, or train longer (total)'
    problems.append(Problem(where, found, f"at most the schedule's {total} steps", hint))
  if config.schedule == 'staircase':
    problems += _stair_problems(config, warmup, stairs, total)
  if config.schedule in ('cosine', 'linear') and config.end_lr > config.peak_lr:
    expected = f'at most optim.peak_lr, {config.peak_lr:g}'
    problems.append(Problem('optim.end_lr', f'{config.end_lr:g}', expected))
  if problems:
    raise ConfigError('the learning-rate schedule does not fit the run', problems)


def _stair_problems(config: OptimConfig, warmup: int, stairs: list[int], total: int) -> list[Problem]:
  if not stairs:
    hint = "Give optim.stairs, such as ('30 epochs', '60 epochs'), or use schedule='constant'"
    return [Problem('optim.stairs', '()', "at least one duration for schedule='staircase'", hint)]
  problems, previous = [], 0
  for i, step in enumerate(stairs):
    where, found = f'optim.stairs[{i}]', f'{config.stairs[i]} (step {step})'
    if i and step <= previous:
      problems.append(Problem(where, found, f'later than the stair before it (step {previous})'))
    if not warmup <= step < total:
      expected = f'from the end of warm-up (step {warmup}) to before step {total}'
      problems.append(Problem(where, found, expected))
    previous = step
  return problems
