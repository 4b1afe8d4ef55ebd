"""What the input of a recipe costs on this machine, stage by stage, and how many cores feed an accelerator."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from vitjax.config.schema import DataConfig, ModelConfig, Recipe
from vitjax.data import Augment, Source, UnreadableError, example_rng, train_batches
from vitjax.data import decode as decoding
from vitjax.data.naflex import check_native
from vitjax.data.order import source_index
from vitjax.data.transforms import BOXES
from vitjax.models.flops import forward_flops
from vitjax.parallel.hardware import PEAK_FLOPS_PER_S

MODELS = ('Ti/16', 'S/16', 'B/16', 'L/16', 'H/14')
_TRAIN_FLOPS = 3  # forward and backward, of one forward
_MAX_BATCH = 256  # larger ones cost memory and time to start, and no less per image
_NUM_RECORDS = 256  # kept in memory while a stage is timed: its input is what the stage before made


@dataclasses.dataclass(frozen=True)
class InputReport:
  """What `measure_input` found.

  Attributes:
    stages: CPU seconds per image, by stage: read, decode, resize, batch.
    images_per_core_s: images that one core makes in a second, through the whole pipeline.
    images_per_s: images that this process makes in a second of the clock, with all its cores.
    num_cores: cores that this process may use.
    image_size: height and width of the batches.
    where: the source, in words.
    compiled: whether crops of JPEGs are decoded alone.
    seconds: how long the pipeline was timed.
  """

  stages: dict[str, float]
  images_per_core_s: float
  images_per_s: float
  num_cores: int
  image_size: tuple[int, int]
  where: str
  compiled: bool
  seconds: float

  @property
  def efficiency(self) -> float:
    """Returns the rate with all cores, as a share of so many times the rate of one."""
    return self.images_per_s / (self.num_cores * self.images_per_core_s)


def measure_input(config: DataConfig, source: Source, *, seed: int = 0, seconds: float = 4) -> InputReport:
  """Times the training input of a recipe on this machine, without any device. Host-side; takes about 2 x `seconds`.

  Stages are timed alone on one core, in CPU seconds; 'batch' is what the whole pipeline takes beyond them: shuffling,
  threads, stacking. With worker processes the CPU seconds of the whole are not known here, and the pipeline's rate
  per core is that of the clock divided by the cores.

  Args:
    config: sizes, augmentation, threads and workers; batches are cut to 256 examples.
    source: from open_source.
    seed: of order and augmentation.
    seconds: of the whole pipeline; the stages together take as long again.

  Raises:
    DataError: records are damaged beyond the budget.
  """
  config = dataclasses.replace(config, batch_size=min(config.batch_size, _MAX_BATCH))
  check_native(config, None)
  augment = Augment.from_config(config)
  order = [source_index(i, len(source), seed=seed, shuffle=config.shuffle) for i in range(_NUM_RECORDS)]
  budget = seconds / 3
  read = _seconds_per_call(lambda i: source[order[i % len(order)]], budget)
  images = _some_images(source, order)
  cropped = [np.array(augment.crop_of(image, example_rng(seed, i))) for i, image in enumerate(images)]
  whole = augment
  if config.crop in BOXES:  # the boxes have been drawn already
    whole = dataclasses.replace(augment, crop='resize')
  out = np.empty((*config.image_size, 3), np.uint8)
  stages = {
    'read': read,
    'decode': _seconds_per_call(
      lambda i: augment.crop_of(images[i % len(images)], example_rng(seed, i)), budget
    ),
    'resize': _seconds_per_call(
      lambda i: whole(cropped[i % len(images)], example_rng(seed, i), out=out), budget
    ),
  }
  per_core, rate = _pipeline_rates(config, source, seed, seconds)
  stages['batch'] = max(1 / per_core - sum(stages.values()), 0.0)
  return InputReport(
    stages=stages,
    images_per_core_s=per_core,
    images_per_s=rate,
    num_cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1,
    image_size=config.image_size,
    where=f'{source.kind} {source.split}, {len(source):,} examples',
    compiled=decoding.jpeg_region is not None,
    seconds=seconds,
  )


def _some_images(source: Source, order: Sequence[int]) -> list[np.ndarray | bytes]:
  """Returns stored images in training order, without the damaged ones."""
  images = []
  for index in order:
    try:
      images.append(source[index]['image'])
    except UnreadableError:
      continue
  return images


def _seconds_per_call(call: Callable[[int], object], budget: float) -> float:
  """Returns CPU seconds per call of call(0), call(1), ... made for about `budget` seconds."""
  count, start, end = 0, time.process_time(), time.perf_counter() + budget
  while time.perf_counter() < end or count < 8:
    with contextlib.suppress(UnreadableError):
      call(count)
    count += 1
  return (time.process_time() - start) / count


def _pipeline_rates(config: DataConfig, source: Source, seed: int, seconds: float) -> tuple[float, float]:
  """Returns images per CPU second and per second of the clock, of the real pipeline in full swing."""
  with train_batches(config, source, seed=seed) as batches:
    drained = time.perf_counter() + seconds / 8
    next(batches)
    while time.perf_counter() < drained:
      next(batches)
    count, cpu, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - start < seconds or not count:
      count += len(next(batches)['label'])
    cpu, clock = time.process_time() - cpu, time.perf_counter() - start
  rate = count / clock
  if config.num_workers:
    return rate / (os.cpu_count() or 1), rate
  return count / cpu, rate


def needed_rate(
  model: ModelConfig, *, image_size: tuple[int, int], num_classes: int, peak: float, mfu: float
) -> float:
  """Returns the images per second that keep a device busy: mfu x peak / (3 x forward FLOPs).

  Args:
    model: the model's config.
    image_size: height and width, pixels.
    num_classes: outputs of the head.
    peak: the device's FLOP/s (`PEAK_FLOPS_PER_S`).
    mfu: assumed share of it, in (0, 1].
  """
  return mfu * peak / (_TRAIN_FLOPS * forward_flops(model, image_size=image_size, num_classes=num_classes))


def feeding_table(report: InputReport, *, mfu: float) -> list[tuple[str, list[float | None]]]:
  """Returns [(device kind, cores that feed one such device, for each of MODELS)]; None where patches do not divide."""
  rows, seen = [], {}
  for kind, peak in PEAK_FLOPS_PER_S.items():
    if peak in seen.values():
      continue
    seen[kind] = peak
    cores = []
    for variant in MODELS:
      patch = int(variant.split('/')[1])
      if any(side % patch for side in report.image_size):
        cores.append(None)
        continue
      model = ModelConfig(variant=variant)
      rate = needed_rate(model, image_size=report.image_size, num_classes=1000, peak=peak, mfu=mfu)
      cores.append(rate / report.images_per_core_s)
    rows.append((kind, cores))
  return rows


def shortage(
  recipe: Recipe, report: InputReport, *, num_classes: int, devices: Sequence[object], mfu: float
) -> str:
  """Returns a warning that this host cannot feed its devices with this recipe, or '' when it can or nobody knows.

  Args:
    recipe: its model and image size.
    report: of this machine.
    num_classes: outputs of the head.
    devices: the devices of this process; their kind decides what they need.
    mfu: assumed model FLOPs utilisation.
  """
  kind = devices[0].device_kind  # type: ignore[attr-defined]
  if kind not in PEAK_FLOPS_PER_S:
    return ''
  one = needed_rate(
    recipe.model,
    image_size=report.image_size,
    num_classes=num_classes,
    peak=PEAK_FLOPS_PER_S[kind],
    mfu=mfu,
  )
  needed = one * len(devices)
  if needed <= report.images_per_s:
    return ''
  cores = math.ceil(needed / report.images_per_core_s)
  return (
    f'This host makes {report.images_per_s:,.0f} images/s; its {len(devices)} x {kind} take {needed:,.0f} at '
    f'{mfu:.0%} MFU and will wait {1 - report.images_per_s / needed:.0%} of the time. About {cores:,} cores would do.'
  )
