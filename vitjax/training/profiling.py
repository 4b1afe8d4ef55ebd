"""`--profile`: a trace of some steps, and a table of where their time went, without extra packages."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import time
from collections import Counter
from typing import Any

import jax

from vitjax.parallel.distributed import is_main
from vitjax.training.trace import OpTimes, op_names, read_op_times

log = logging.getLogger('vitjax')

_NUM_TOP_OPS = 12

# The first pattern that is found in an operation's name says what it belongs to. A fusion bears the name of its last
# operation, so a sum or a norm that the compiler fused into a neighbour counts there.
_COMPONENTS = (
  ('optimiser', r'/optimizer/|^state\.(opt_state|ema_params)'),
  ('metrics', r'/metrics/'),
  ('pixels', r'/augment/'),
  ('head', r'MAPHead|/(head|pre_logits|pool_norm)/'),
  ('attention', r'MultiHeadDotProductAttention'),
  ('MLP', r'MlpBlock'),
  ('embedding', r'/embedding/|posembed_input|conv_root|gn_root|/block\d'),
  ('embedding', r'Transformer\)+/(concatenate|split|broadcast_in_dim)'),
  ('norms and residuals', r'encoderblock|encoder_norm|/Transformer/'),
  ('convolutions', r'ResNet'),
  ('head', r'VisionTransformer|jvp\('),
)  # fmt: skip
_COLLECTIVE = re.compile(r'all-reduce|all-gather|reduce-scatter|all-to-all|collective')
COMPONENTS = ('collectives', *dict.fromkeys(name for name, _ in _COMPONENTS))
REST = 'rest'


def component_of(op: str, op_name: str | None) -> str:
  """Returns the part of the model that an operation belongs to: one of COMPONENTS, or 'rest' for one without a name.

  Args:
    op: the operation, 'fusion.12'. A collective is a component of its own: the compiler joins those of many layers.
    op_name: its place in the compiled text, 'jit(train_step)/jvp(VisionTransformer)/.../dot_general'.
  """
  if _COLLECTIVE.match(op):
    return 'collectives'
  if op_name is not None:
    for component, pattern in _COMPONENTS:
      if re.search(pattern, op_name):
        return component
  return REST


@dataclasses.dataclass(frozen=True)
class StepProfile:
  """Traced steps of one compiled function.

  Attributes:
    times: of its operations, over all traced steps.
    names: {operation: its place in the program}.
    num_steps: traced steps.
    wall_s: time of all traced steps together, by the host's clock.
  """

  times: OpTimes
  names: dict[str, str]
  num_steps: int
  wall_s: float

  def components(self) -> dict[str, float]:
    """Returns {component: seconds per step}; they sum to the traced step's time, 'rest' being what is left."""
    total: Counter[str] = Counter()
    for op, seconds in self.times.seconds.items():
      total[component_of(op, self.names[op] if op in self.names else None)] += seconds
    named = {c: total[c] / self.num_steps for c in COMPONENTS if total[c] > 0}
    return {**named, REST: self.wall_s / self.num_steps - sum(named.values())}

  def __str__(self) -> str:
    """Returns two tables: components, and the operations that took longest."""
    step_s = self.wall_s / self.num_steps
    lines = [f'{"where the time goes":<42}{"ms a step":>10}{"share":>8}']
    for name, seconds in sorted(self.components().items(), key=lambda item: -item[1]):
      lines.append(f'{name:<42}{1e3 * seconds:>10.2f}{seconds / step_s:>8.1%}')
    lines += ['', f'{"operation":<42}{"ms a step":>10}{"share":>8}{"runs":>6}  place']
    top = sorted(self.times.seconds.items(), key=lambda item: -item[1])[:_NUM_TOP_OPS]
    for op, total_s in top:
      seconds = total_s / self.num_steps
      runs = self.times.counts[op] / self.num_steps / self.times.num_devices
      place = _short(self.names[op]) if op in self.names else ''
      lines.append(f'{op[:41]:<42}{1e3 * seconds:>10.2f}{seconds / step_s:>8.1%}{runs:>6.3g}  {place}')
    return '\n'.join(lines)


def _short(op_name: str) -> str:
  """Returns the end of an operation's place, without the names of methods, and with its direction."""
  parts = [part for part in op_name.split('/') if '._' not in part and not part.startswith('jit(')]
  arrow = '<- ' if 'transpose(' in op_name else ''
  return arrow + '/'.join(part for part in parts if '(' not in part)[-60:]


class ProfiledStep:
  """A compiled step that traces some of its calls; otherwise it does what the step does.

  Args:
    step_fn: a compiled (step, state, batch) -> (state, metrics), of one program.
    step: the step before the first call.
    window: first and last step to trace.
    folder: where the trace goes; TensorBoard's profile plugin and Perfetto read it.
  """

  def __init__(self, step_fn: Any, *, step: int, window: tuple[int, int], folder: pathlib.Path):
    self.profile: StepProfile | None = None
    self._step_fn, self._folder = step_fn, folder
    self._first, self._last = window
    self._began_s = 0.0
    if jax.process_count() > 1:
      self._folder = folder / f'process{jax.process_index()}'
    if step >= self._first:
      log.warning('steps %d to %d are not traced: this start begins after step %d', *window, step)

  def __call__(self, step: int, state: Any, batch: Any) -> tuple[Any, Any]:
    """Takes the step; after the last traced one, waits for it and prints the tables."""
    if step == self._first:
      jax.block_until_ready(state)
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0
      jax.profiler.start_trace(str(self._folder), profiler_options=options)
      self._began_s = time.perf_counter()
    with jax.profiler.StepTraceAnnotation('train', step_num=step):
      result = self._step_fn(step, state, batch)
    if step == self._last and self._began_s:
      jax.block_until_ready(result)
      wall_s = time.perf_counter() - self._began_s
      jax.profiler.stop_trace()
      self.profile = self._read(wall_s)
      if is_main():
        log.info('steps %d to %d, traced in %s\n%s', self._first, self._last, self._folder, self.profile)
    return result

  def _read(self, wall_s: float) -> StepProfile:
    text = self._step_fn.as_text()
    module = re.match(r'HloModule ([\w.\-]+)', text)
    assert module is not None, text[:80]
    times = read_op_times(self._folder, module[1])
    return StepProfile(times, op_names(text), self._last - self._first + 1, wall_s)
