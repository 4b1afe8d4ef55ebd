"""The same layers measured: XLA's operation counts, times, fitted exponents, and where the curves cross."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from vitjax.analysis.complexity import LAYERS, recurrent_step


@dataclasses.dataclass(frozen=True)
class Sizes:
  """At which sizes a layer's scaling is measured: the far end of each, where the leading term rules.

  Attributes:
    lengths: T, with d = width.
    width: d of these.
    widths: d, with T = length.
    length: T of these.
    batch_size: sequences at once; enough to keep a recurrence busy with matrix products instead of with memory.
  """

  lengths: tuple[int, ...]
  width: int
  widths: tuple[int, ...]
  length: int
  batch_size: int


@dataclasses.dataclass(frozen=True)
class Measurement:
  """One layer at one size.

  Attributes:
    layer: a name of LAYERS.
    vary: 'T' or 'd', what the series varies.
    t, d, kernel, batch_size: the size.
    num_params: counted on the arrays.
    operations: multiply-adds by the formula, of the batch.
    xla_flops: XLA's count of the compiled layer, of the batch; of a recurrence, of a step times T, since XLA counts
      the body of a loop once.
    seconds: the fastest of the repeats.
  """

  layer: str
  vary: str
  t: int
  d: int
  kernel: int
  batch_size: int
  num_params: int
  operations: int
  xla_flops: float
  seconds: float


# Large enough that starting up does not show. Attention's T begins where T x T floats no longer fit a cache: a step in
# the middle of the range would look like a larger exponent.
SIZES = {
  'convolution': Sizes((8192, 16384, 32768), 128, (512, 1024, 2048), 2048, 1),
  'recurrence': Sizes((16, 32, 64, 128), 256, (512, 1024, 2048), 16, 128),
  'attention products': Sizes((4096, 6144, 8192, 12288), 128, (512, 1024, 2048), 1024, 1),
  'attention projections': Sizes((1024, 2048, 4096, 8192), 128, (512, 1024, 2048), 2048, 1),
}
SMOKE_SIZES = {name: Sizes((16, 32), 16, (16, 32), 16, 2) for name in SIZES}
CROSSOVER_WIDTHS, CROSSOVER_LENGTHS = (32, 64, 128, 256), (32, 64, 128, 256, 512, 1024, 2048, 4096)


def measure(
  name: str, t: int, d: int, *, kernel: int, batch_size: int, vary: str, repeats: int = 5
) -> Measurement:
  """Returns the cost of one layer at one size, on the first local device."""
  layer = LAYERS[name]
  params = layer.init(jax.random.key(0), d, kernel)
  x = jax.random.normal(jax.random.key(1), (batch_size, t, d))
  compiled = jax.jit(layer.apply).lower(params, x).compile()
  if name == 'recurrence':
    step = jax.jit(recurrent_step).lower(params, x[:, 0], x[:, 0]).compile()
    flops = t * _flops(step)
  else:
    flops = _flops(compiled)
  compiled(params, x).block_until_ready()
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    compiled(params, x).block_until_ready()
    seconds.append(time.perf_counter() - began)
  return Measurement(
    name, vary, t, d, kernel, batch_size,
    num_params=sum(int(p.size) for p in params.values()),
    operations=batch_size * layer.num_operations(t, d, kernel),
    xla_flops=flops,
    seconds=min(seconds),
  )  # fmt: skip


def _flops(compiled: jax.stages.Compiled) -> float:
  analysis = compiled.cost_analysis()
  found = analysis[0] if isinstance(analysis, list) else analysis
  return float(found['flops'])


def measure_scaling(
  sizes: dict[str, Sizes],
  *,
  kernel: int,
  repeats: int = 5,
  advance: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
  """Returns both series, over T and over d, of every layer in `sizes`."""
  found = []
  for name, size in sizes.items():
    cells = [('T', t, size.width) for t in size.lengths] + [('d', size.length, d) for d in size.widths]
    for vary, t, d in cells:
      advance(f'{name}, T = {t}, d = {d}')
      found.append(measure(name, t, d, kernel=kernel, batch_size=size.batch_size, vary=vary, repeats=repeats))
  return found


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
  """Returns the slope of log(values) against log(sizes), by least squares."""
  return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


@dataclasses.dataclass(frozen=True)
class Exponents:
  """Fitted exponents of one layer in one variable.

  Attributes:
    layer, vary: as in Measurement.
    formula: the leading term's.
    xla: fitted to XLA's counts.
    seconds: fitted to times.
    low, high: the range of the variable.
  """

  layer: str
  vary: str
  formula: int
  xla: float
  seconds: float
  low: int
  high: int


def exponents(measurements: Sequence[Measurement]) -> list[Exponents]:
  """Returns the fits of every series."""
  found = []
  for name, vary in dict.fromkeys((m.layer, m.vary) for m in measurements):
    rows = [m for m in measurements if (m.layer, m.vary) == (name, vary)]
    sizes = [m.t if vary == 'T' else m.d for m in rows]
    found.append(
      Exponents(
        name,
        vary,
        LAYERS[name].exponents[0 if vary == 'T' else 1],
        fitted_exponent(sizes, [m.xla_flops for m in rows]),
        fitted_exponent(sizes, [m.seconds for m in rows]),
        min(sizes),
        max(sizes),
      )
    )
  return found


@dataclasses.dataclass(frozen=True)
class Crossover:
  """The T at which self-attention begins to cost more than another layer.

  Attributes:
    d: width.
    other: 'convolution' or 'recurrence'.
    table: by the leading terms of the paper's table: k d or d.
    counted: by multiply-adds of the whole layer, projections included; 0: attention always costs more.
    measured: by time, in sequences of batch 1; interpolated. None: no crossing in the measured range.
    measured_note: 'always slower' or 'always faster' in the range where there is no crossing, else ''.
  """

  d: int
  other: str
  table: int
  counted: float
  measured: float | None
  measured_note: str


def crossing(lengths: Sequence[int], first: Sequence[float], second: Sequence[float]) -> float | None:
  """Returns the largest T at which `first` overtakes `second`, linear between points in logarithms; None: nowhere."""
  gap = np.log(first) - np.log(second)
  places = [i for i in range(len(gap) - 1) if gap[i] <= 0 < gap[i + 1]]
  if not places:
    return None
  i = places[-1]
  share = -gap[i] / (gap[i + 1] - gap[i])
  return float(np.exp(np.log(lengths[i]) + share * (np.log(lengths[i + 1]) - np.log(lengths[i]))))


def measure_crossovers(
  widths: Sequence[int],
  lengths: Sequence[int],
  *,
  kernel: int,
  repeats: int = 5,
  advance: Callable[[str], None] = lambda text: None,
) -> tuple[list[Crossover], list[Measurement]]:
  """Returns where self-attention (the whole layer, batch 1) begins to cost more, and the times behind it."""
  found, measurements = [], []
  for d in widths:
    advance(f'crossover, d = {d}')
    times = {}
    for name in ('self-attention', 'convolution', 'recurrence'):
      rows = [
        measure(name, t, d, kernel=kernel, batch_size=1, vary='crossover', repeats=repeats) for t in lengths
      ]
      measurements += rows
      times[name] = [m.seconds for m in rows]
    for other, table, counted in (
      ('convolution', kernel * d, max((kernel - 4) / 2 * d, 0.0)),
      ('recurrence', d, 0.0),
    ):
      place = crossing(lengths, times['self-attention'], times[other])
      slower = times['self-attention'][-1] > times[other][-1]
      note = '' if place is not None else 'always slower' if slower else 'always faster'
      found.append(Crossover(d, other, table, counted, place, note))
  return found, measurements
