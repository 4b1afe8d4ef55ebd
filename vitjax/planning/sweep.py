"""Meshes and remat policies compared: all by estimate, the best by the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vitjax.config import Recipe
from vitjax.errors import VitjaxError
from vitjax.planning.job import (
  Job,
  compile_job,
  estimate_policies,
  meshes,
  pareto,
  residual_cache,
  with_batch_size,
  with_mesh,
)
from vitjax.planning.memory import ResidualCache
from vitjax.planning.topology import Topology
from vitjax.training.build import build


def sweep(
  recipe: Recipe,
  topology: Topology,
  devices: Sequence[Any],
  *,
  compile_best: int,
  progress: Callable[[str], None],
  cache: ResidualCache | None = None,
) -> tuple[list[Job], list[Job]]:
  """Returns (all jobs, fastest first; those on the Pareto front of memory and step time).

  Args:
    recipe: parsed for the topology.
    topology: an accelerator.
    devices: its described devices.
    compile_best: how many of the estimated front to compile; the front is then drawn again.
    progress: told what happens, a line at a time.
    cache: of an earlier estimate of the same model.
  """
  jobs = estimate_all(recipe, topology, devices, cache=cache)
  progress(f'estimated {len(jobs)} settings')
  for _ in range(compile_best):
    waiting = [job for job in pareto(jobs) if job.compiled is None]
    if not waiting:
      break
    chosen = waiting[0]
    compiled = compile_job(chosen)
    jobs[next(i for i, job in enumerate(jobs) if job is chosen)] = compiled
    outcome = 'does not fit' if compiled.compiled is None else f'{compiled.compiled.compile_s:.0f} s'
    progress(f'compiled {chosen.mesh_text}, remat {chosen.run.recipe.model.remat}: {outcome}')
  jobs.sort(
    key=lambda job: (not job.fits, job.bounds.exposed_step_s if job.bounds else 0.0, job.memory_bytes)
  )
  return jobs, pareto(jobs)


def estimate_all(
  recipe: Recipe,
  topology: Topology,
  devices: Sequence[Any],
  *,
  cache: ResidualCache | None = None,
  batch_sizes: Sequence[int] = (),
  model_sizes: Sequence[int] = (1, 2, 4, 8),
) -> list[Job]:
  """Returns the estimated jobs of all meshes and remat policies that the recipe allows on a topology.

  Args:
    recipe: parsed; its mesh and remat policy do not matter.
    topology: an accelerator.
    devices: its described devices.
    cache: of an earlier call with the same model.
    batch_sizes: global ones to compare; (): the recipe's. One that does not divide over a mesh is left out there.
    model_sizes: of tensor parallelism.
  """
  jobs = []
  for mesh in meshes(topology.num_devices, topology.num_slices, model_sizes):
    data, fsdp, _ = mesh
    unit = data * fsdp * recipe.optim.accumulation_steps
    sizes = [size for size in batch_sizes or (recipe.data.batch_size,) if size % unit == 0]
    if not sizes:
      continue
    try:
      run = build(with_batch_size(with_mesh(recipe, mesh), sizes[0]), devices=devices)
    except VitjaxError:
      continue  # a mesh that this model's rules do not allow
    cache = residual_cache(run) if cache is None else cache
    for size in sizes:
      jobs += estimate_policies(run, devices, topology.hardware, cache, batch_size=size)
  return jobs
