"""What a person sees while training runs: a bar on a terminal, one line per logged step elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vitjax.training.goodput import TRAINING, Clock, goodput, input_share


class Throughput:
  """Measures speed between calls of `lap`, over the time that a clock gives to training.

  Attributes:
    own_s: seconds per step of the last lap that this process did not spend with its devices.

  Args:
    clock: evaluation, saving and compilation are phases of their own in it, and so left out.
    batch_size: global examples per step.
    train_flops_per_example: 3x forward; None when unknown.
    peak_flops_per_s: peak of all devices together; None when unknown, and MFU is then left out.
  """

  def __init__(
    self,
    clock: Clock,
    batch_size: int,
    train_flops_per_example: float | None,
    peak_flops_per_s: float | None,
  ):
    self._clock = clock
    self._batch_size = batch_size
    self._flops, self._peak = train_flops_per_example, peak_flops_per_s
    self._before, self._device_s = clock.seconds(), clock.device_s
    self._steps = 0
    self.own_s = 0.0

  def tick(self) -> None:
    """Counts one step."""
    self._steps += 1

  def lap(self) -> dict[str, float]:
    """Returns perf/ metrics since the last call and starts the next lap; {} when no step was counted."""
    now = self._clock.seconds()
    lap = {phase: now[phase] - self._before[phase] for phase in TRAINING}
    elapsed_s, steps = sum(lap.values()), self._steps
    device_s, self._device_s = self._clock.device_s - self._device_s, self._clock.device_s
    self._before, self._steps = now, 0
    if steps == 0 or elapsed_s <= 0:
      return {}
    self.own_s = max(elapsed_s - device_s, 0.0) / steps
    images_per_s = steps * self._batch_size / elapsed_s
    perf = {'perf/images_per_s': images_per_s, 'perf/step_time_s': elapsed_s / steps}
    if self._flops is not None and self._peak is not None:
      perf['perf/mfu'] = images_per_s * self._flops / self._peak
    return perf | {'perf/input_wait': input_share(lap), 'perf/goodput': goodput(now)}


class _Outlived(io.TextIOBase):
  """Standard output as it is now. When a terminal is closed or `| tee` killed, the rest of the run writes nowhere."""

  def __init__(self):
    self._stream = sys.stdout

  @property
  def encoding(self) -> str:
    return self._stream.encoding

  def isatty(self) -> bool:
    return self._stream.isatty()

  def fileno(self) -> int:
    return self._stream.fileno()

  def write(self, text: str) -> int:
    with self._lasting():
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with self._lasting():
      self._stream.flush()

  def close(self) -> None:
    """Leaves the stream as it is: whoever opened it closes it, perhaps before this is thrown away."""

  @contextlib.contextmanager
  def _lasting(self) -> Iterator[None]:
    try:
      yield
    except OSError:
      # What is still in the buffer would fail again when Python ends, and change the exit code.
      os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class ProgressDisplay:
  """A rich progress bar on a terminal; plain lines where output goes to a file. Silent when not enabled.

  When nobody takes the output any more, the run goes on without it.

  Args:
    total_steps: length of the bar.
    start_step: steps done before this start.
    enabled: false on processes other than the first, and when log.progress is off.
  """

  def __init__(self, total_steps: int, *, start_step: int, enabled: bool):
    self._enabled = enabled
    self._total = total_steps
    self._start_step, self._start_s = start_step, time.perf_counter()
    self.console = Console(file=_Outlived(), quiet=not enabled, soft_wrap=True, highlight=False)
    self._bar = None
    if enabled and self.console.is_terminal:
      self._bar = Progress(
        TextColumn('train'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn('{task.fields[text]}'),
        console=self.console,
      )
      self._task = self._bar.add_task('train', total=total_steps, completed=start_step, text='compiling')
      self._bar.start()

  def advance(self, step: int) -> None:
    """Moves the bar to `step`."""
    if self._bar is not None:
      self._bar.update(self._task, completed=step)

  def show(self, step: int, values: Mapping[str, float]) -> None:
    """Shows the metrics of a logged step."""
    text = describe_metrics(values)
    if self._bar is not None:
      self._bar.update(self._task, completed=step, text=text)
    elif self._enabled:
      per_step_s = (time.perf_counter() - self._start_s) / max(step - self._start_step, 1)
      eta = format_seconds(per_step_s * (self._total - step))
      self.console.print(f'step {step}/{self._total}  {text}  ETA {eta}')

  def note(self, text: str) -> None:
    """Prints a line above the bar."""
    self.console.print(text)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    if self._bar is not None:
      self._bar.stop()


def format_seconds(seconds: float) -> str:
  """Returns '42 s', '3 min 05 s' or '7 h 12 min'."""
  whole = max(round(seconds), 0)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60:02d} s'
  return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


_SHORT_FORMS = {
  'train/loss': 'loss {:.4f}',
  'train/accuracy_top1': 'acc {:.3f}',
  'perf/images_per_s': '{:,.0f} img/s',
  'perf/step_time_s': '{:.3f} s/step',
  'perf/mfu': 'MFU {:.1%}',
}


def describe_metrics(values: Mapping[str, float]) -> str:
  """Returns the few metrics that fit on a line: loss, accuracies, images/s, step time and MFU."""
  parts = [form.format(values[name]) for name, form in _SHORT_FORMS.items() if name in values]
  parts += [
    f'{name} {value:.4f}' for name, value in values.items() if name.endswith('top1') and name[:6] != 'train/'
  ]
  return '  '.join(parts)
