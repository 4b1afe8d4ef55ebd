"""One job on one topology: estimated, compiled if asked, bounded by the data sheets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from vitjax.config import Recipe
from vitjax.errors import ConfigError
from vitjax.parallel.hardware import Hardware
from vitjax.parallel.tuning import device_class
from vitjax.planning.compiling import CompiledStep, DoesNotFit, compile_step
from vitjax.planning.expected import expected_collectives
from vitjax.planning.memory import MemoryEstimate, ResidualCache, estimate_memory
from vitjax.planning.roofline import Roofline, roofline
from vitjax.training.build import Run, build


@dataclasses.dataclass(frozen=True)
class Job:
  """A recipe on devices.

  Attributes:
    run: as `training.build` made it; its step is that of another remat policy where `rebuild` is set.
    devices: in the order of the topology.
    hardware: the data sheet; None for virtual CPU devices, whose bounds are unknown.
    memory: estimated.
    bounds: from the compiled collectives where there are some, else from the expected ones; None without hardware.
    compiled: None if not compiled, or if it does not fit.
    refusal: why the compiler refuses it.
    rebuild: `compile_job` has to build the run again.
  """

  run: Run
  devices: tuple[Any, ...]
  hardware: Hardware | None
  memory: MemoryEstimate
  bounds: Roofline | None
  compiled: CompiledStep | None = None
  refusal: DoesNotFit | None = None
  rebuild: bool = False

  @property
  def memory_bytes(self) -> int:
    """Returns the compiler's figure, or the estimate without one."""
    return self.memory.total if self.compiled is None else self.compiled.total

  @property
  def fits(self) -> bool:
    """Returns whether the step fits: by the compiler if it was asked, by the estimate otherwise."""
    if self.refusal is not None:
      return False
    return self.hardware is None or self.memory_bytes <= self.hardware.hbm_bytes

  @property
  def mesh_text(self) -> str:
    """Returns such as 'data 16 x fsdp 16', axes of size 1 left out."""
    sizes = [f'{name} {size}' for name, size in self.run.mesh.shape.items() if size > 1]
    return ' x '.join(sizes) or 'one device'


def estimate_job(
  recipe: Recipe, devices: Sequence[Any], hardware: Hardware | None, cache: ResidualCache | None = None
) -> Job:
  """Returns the job, not compiled: seconds of tracing.

  Args:
    recipe: parsed for the number of devices.
    devices: described devices.
    hardware: their data sheet.
    cache: of an earlier job that differs in mesh, remat or batch size alone.
  """
  return _estimated(build(recipe, devices=devices), devices, hardware, cache)


def estimate_policies(
  run: Run, devices: Sequence[Any], hardware: Hardware | None, cache: ResidualCache, *, batch_size: int
) -> list[Job]:
  """Returns one job per remat policy without building each: parameters and mesh stay those of `run`.

  Args:
    run: as built for any batch size and policy.
    devices, hardware, cache: as for `estimate_job`.
    batch_size: global.
  """
  jobs = []
  for remat in ('none', 'dots', 'full'):
    recipe = with_batch_size(_replace(run.recipe, 'model', remat=remat), batch_size)
    job = _estimated(dataclasses.replace(run, recipe=recipe), devices, hardware, cache)
    jobs.append(dataclasses.replace(job, rebuild=recipe != run.recipe))
  return jobs


def _estimated(
  run: Run, devices: Sequence[Any], hardware: Hardware | None, cache: ResidualCache | None
) -> Job:
  cache = residual_cache(run) if cache is None else cache
  memory = estimate_memory(run, cache, tiled=devices[0].platform == 'tpu')
  bounds = None if hardware is None else roofline(run, memory, expected_collectives(run), hardware)
  return Job(run, tuple(devices), hardware, memory, bounds)


def residual_cache(run: Run) -> ResidualCache:
  """Returns an empty cache for a run and its variations."""
  assert run.recipe.model.num_classes is not None
  return ResidualCache(run.recipe, run.recipe.model.num_classes, device_class(run.mesh.devices.flat[0]))


def compile_job(job: Job) -> Job:
  """Returns the job with the compiler's account, or its refusal."""
  if job.rebuild:
    job = dataclasses.replace(job, run=build(job.run.recipe, devices=job.devices), rebuild=False)
  try:
    compiled = compile_step(job.run, job.hardware)
  except DoesNotFit as refusal:
    return dataclasses.replace(job, refusal=refusal)
  bounds = job.bounds
  if job.hardware is not None:
    bounds = roofline(job.run, job.memory, compiled.collectives, job.hardware)
  return dataclasses.replace(job, compiled=compiled, bounds=bounds)


def variations(job: Job) -> list[tuple[str, Recipe]]:
  """Returns (what changes, recipe) for each knob that can lower the memory of one device, mildest first."""
  recipe, shape = job.run.recipe, job.run.mesh.shape
  found = []
  order = ('none', 'dots', 'full')
  for remat in order[order.index(recipe.model.remat) + 1 :]:
    found.append((f'model.remat={remat}', _replace(recipe, 'model', remat=remat)))
  rows = shape['data'] * shape['fsdp']
  fsdp = shape['fsdp'] * 2
  while rows % fsdp == 0 and fsdp <= rows:
    found.append((f'parallel.fsdp={fsdp}', _replace(recipe, 'parallel', fsdp=fsdp, data=-1)))
    fsdp *= 2
  steps = recipe.optim.accumulation_steps * 2
  while recipe.data.batch_size % (rows * steps) == 0:
    found.append((f'optim.accumulation_steps={steps}', _replace(recipe, 'optim', accumulation_steps=steps)))
    steps *= 2
  half = recipe.data.batch_size // 2
  while half % rows == 0 and half >= rows:
    found.append((f'data.batch_size={half}', _replace(recipe, 'data', batch_size=half)))
    half //= 2
  widest = rows
  if recipe.model.remat != 'full' and shape['fsdp'] < widest:
    both = _replace(_replace(recipe, 'model', remat='full'), 'parallel', fsdp=widest, data=-1)
    found.append((f'model.remat=full with parallel.fsdp={widest}', both))
  return found


def what_helps(job: Job) -> list[tuple[str, int]]:
  """Returns (change, estimated bytes) of the mildest setting of each knob that makes the job fit."""
  assert job.hardware is not None
  cache, found, done = residual_cache(job.run), [], set()
  for change, recipe in variations(job):
    knob = change.partition('=')[0] + ('+' if ' with ' in change else '')
    if knob in done:
      continue
    try:
      total = estimate_job(recipe, job.devices, job.hardware, cache).memory.total
    except ConfigError:
      continue
    if total <= job.hardware.hbm_bytes:
      done.add(knob)
      found.append((change, total))
  return found


def meshes(
  num_devices: int, num_slices: int, model_sizes: Sequence[int] = (1, 2, 4, 8)
) -> list[tuple[int, int, int]]:
  """Returns the (data, fsdp, model) worth comparing: fsdp a power of four or all, slices joined along data."""
  found = []
  for model in model_sizes:
    if num_devices % (model * num_slices):
      continue
    within = num_devices // (model * num_slices)
    sizes = {4**i for i in range(10) if within % 4**i == 0} | {within}
    found += [(num_devices // (model * fsdp), fsdp, model) for fsdp in sorted(sizes)]
  return found


def with_mesh(recipe: Recipe, mesh: tuple[int, int, int]) -> Recipe:
  """Returns the recipe with another mesh (data, fsdp, model)."""
  data, fsdp, model = mesh
  return _replace(recipe, 'parallel', data=data, fsdp=fsdp, model=model)


def with_batch_size(recipe: Recipe, batch_size: int) -> Recipe:
  """Returns the recipe with another global batch size."""
  return _replace(recipe, 'data', batch_size=batch_size)


def pareto(jobs: Sequence[Job]) -> list[Job]:
  """Returns the jobs that fit and that no other beats in both memory and step time, fastest first."""
  fitting = [job for job in jobs if job.fits and job.bounds is not None]
  fitting.sort(key=lambda job: (_seconds(job), job.memory_bytes))
  front, least = [], math.inf
  for job in fitting:
    if job.memory_bytes < least:
      front.append(job)
      least = job.memory_bytes
  return front


def _seconds(job: Job) -> float:
  assert job.bounds is not None
  return round(job.bounds.exposed_step_s, 6)


def _replace(recipe: Recipe, group: str, **values: Any) -> Recipe:
  return dataclasses.replace(recipe, **{group: dataclasses.replace(getattr(recipe, group), **values)})
