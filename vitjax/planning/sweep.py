"""Meshes and remat policies compared: all by estimate, the best by the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vitjax.config import Recipe
from vitjax.errors import VitjaxError
from vitjax.planning.job import Job, compile_job, estimate_policies, meshes, pareto, residual_cache, with_mesh
from vitjax.planning.topology import Topology


def sweep(
  recipe: Recipe,
  topology: Topology,
  devices: Sequence[Any],
  *,
  compile_best: int,
  progress: Callable[[str], None],
) -> tuple[list[Job], list[Job]]:
  """Returns (all jobs, fastest first; those on the Pareto front of memory and step time).

  Args:
    recipe: parsed for the topology.
    topology: an accelerator.
    devices: its described devices.
    compile_best: how many of the estimated front to compile; the front is then drawn again.
    progress: told what happens, a line at a time.
  """
  jobs = estimate_all(recipe, topology, devices)
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


def estimate_all(recipe: Recipe, topology: Topology, devices: Sequence[Any]) -> list[Job]:
  """Returns the estimated jobs of all meshes and remat policies that the recipe allows on a topology."""
  cache, jobs = None, []
  for mesh in meshes(topology.num_devices, recipe, topology.num_slices):
    try:
      found = estimate_policies(with_mesh(recipe, mesh), devices, topology.hardware, cache)
    except VitjaxError:
      continue  # a mesh that this model's rules or the slices do not allow
    cache = residual_cache(found[0].run) if cache is None else cache
    jobs += found
  return jobs
