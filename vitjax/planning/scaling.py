"""Weak and strong scaling from 8 devices up to a topology, and the Pareto table of its meshes, as Markdown."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from vitjax.config import Recipe
from vitjax.planning.job import Job, pareto, residual_cache
from vitjax.planning.sweep import estimate_all, sweep
from vitjax.planning.topology import Topology, describe_devices

_SMALLEST = 8
_Row = tuple[Topology, int, Job | None]
_GIB = 2**30


def smaller_topologies(topology: Topology) -> list[Topology]:
  """Returns the topology and its halvings (slices first, then the longest axis) down to 8 devices, smallest first."""
  found = [topology]
  while found[-1].num_devices >= 2 * _SMALLEST:
    last = found[-1]
    if last.num_slices % 2 == 0:
      found.append(_renamed(dataclasses.replace(last, num_slices=last.num_slices // 2)))
      continue
    # Of a GPU cluster the nodes are halved, not the GPUs of a node.
    axis = 1 if last.platform == 'cuda' else max(range(len(last.shape)), key=lambda i: last.shape[i])
    if last.shape[axis] % 2:
      break
    shape = tuple(n // 2 if i == axis else n for i, n in enumerate(last.shape))
    found.append(
      _renamed(dataclasses.replace(last, shape=shape if last.platform == 'cuda' else tuple(sorted(shape))))
    )
  return found[::-1]


def write_scaling(
  path: str | os.PathLike[str],
  recipe: Recipe,
  topology: Topology,
  *,
  compile_best: int,
  progress: Callable[[str], None],
) -> None:
  """Writes, or replaces in a file of several, the section of one model and topology.

  Args:
    path: a Markdown file.
    recipe: parsed for the topology; its batch size is the one of the whole topology.
    topology: an accelerator.
    compile_best: how many settings of the Pareto table the compiler checks.
    progress: told what happens, a line at a time.
  """
  cache = None
  rows: dict[str, list[_Row]] = {'weak': [], 'strong': []}
  for part in smaller_topologies(topology):
    total = recipe.data.batch_size
    sizes = {'weak': total * part.num_devices // topology.num_devices, 'strong': total}
    devices = describe_devices(part)
    batches = sorted(set(sizes.values()))
    jobs = estimate_all(recipe, part, devices, cache=cache, batch_sizes=batches, model_sizes=(1, 4))
    cache = residual_cache(jobs[0].run) if cache is None and jobs else cache
    for mode, batch_size in sizes.items():
      best = pareto([job for job in jobs if job.run.recipe.data.batch_size == batch_size])
      rows[mode].append((part, batch_size, best[0] if best else None))
    progress(f'estimated {part.text}')
  devices = describe_devices(topology)
  jobs, front = sweep(recipe, topology, devices, compile_best=compile_best, progress=progress, cache=cache)
  title = f'## {recipe.model.variant} on {topology.text}'
  text = '\n\n'.join(
    [
      title,
      f'Global batch {recipe.data.batch_size:,} images of {"x".join(map(str, recipe.data.image_size))}, '
      f'{recipe.model.dtype}, layers={recipe.model.layers}.',
      'Weak scaling: the batch grows with the devices.',
      _scaling_table(rows['weak']),
      'Strong scaling: the batch stays.',
      _scaling_table(rows['strong']),
      f'Shardings on {topology.text} that fit and that nothing beats in both memory and time, and the fastest others.',
      _pareto_table(jobs, front),
    ]
  )
  _replace_section(pathlib.Path(path), title, text)


def _scaling_table(rows: Sequence[_Row]) -> str:
  heading = ('devices', 'batch', 'mesh', 'remat', 'GiB', 'step ms', 'MFU', 'comm.', 'exposed', 'scaling')
  lines, base = [heading, ('---',) * len(heading)], None
  for topology, batch_size, job in rows:
    if job is None or job.bounds is None:
      lines.append((f'{topology.num_devices}', f'{batch_size:,}', 'nothing fits', *[''] * 7))
      continue
    step = job.bounds.exposed_step_s
    rate = batch_size / step / topology.num_devices
    base = rate if base is None else base
    lines.append(
      (
        f'{topology.num_devices}',
        f'{batch_size:,}',
        job.mesh_text,
        job.run.recipe.model.remat,
        f'{job.memory_bytes / _GIB:.2f}',
        f'{step * 1e3:,.1f}',
        f'{job.bounds.mfu(step):.0%}',
        f'{job.bounds.network_s / step:.0%}',
        f'{job.bounds.exposed_s / step:.0%}',
        f'{rate / base:.0%}',
      )
    )
  return _markdown(lines)


def _pareto_table(jobs: Sequence[Job], front: Sequence[Job]) -> str:
  heading = ('', 'mesh', 'remat', 'GiB estimated', 'GiB compiled', 'step ms', 'MFU', 'comm.')
  lines = [heading, ('---',) * len(heading)]
  others = [job for job in jobs if job.fits and not any(job is other for other in front)]
  others = [job for i, job in enumerate(others) if i < 6 or job.compiled is not None]
  shown = sorted([*front, *others], key=lambda job: job.bounds.exposed_step_s if job.bounds else 0.0)
  for job in shown:
    assert job.bounds is not None
    step = job.bounds.exposed_step_s
    lines.append(
      (
        'Pareto' if any(job is other for other in front) else '',
        job.mesh_text,
        job.run.recipe.model.remat,
        f'{job.memory.total / _GIB:.2f}',
        '' if job.compiled is None else f'{job.compiled.total / _GIB:.2f}',
        f'{step * 1e3:,.1f}',
        f'{job.bounds.mfu(step):.0%}',
        f'{job.bounds.network_s / step:.0%}',
      )
    )
  return _markdown(lines)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
  return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def _renamed(topology: Topology) -> Topology:
  slices = f'{topology.num_slices}x' if topology.num_slices > 1 else ''
  return dataclasses.replace(topology, text=f'{slices}{topology.kind}:{"x".join(map(str, topology.shape))}')


_PREAMBLE = """# Scaling, planned

Written by `vitjax plan --scaling=FILE`. Bounds from data sheets, not measurements: matrix units at their bfloat16 peak,
every array moved once, links at full rate; see `vitjax/planning/roofline.py`. Each row is the fastest mesh and remat
policy that fits. *comm.* is the time of all collectives over the step time, *exposed* the part that stands on the
critical path: in estimates all but the gathering of weights, in compiled rows what the compiler does not run
asynchronously: the two are not comparable, and a compiled row looks slower. *scaling* is images/s per device against
the first row that fits. Memory is estimated unless a compiled figure stands beside it.
"""


def _replace_section(path: pathlib.Path, title: str, text: str) -> None:
  """Puts a section into the file: in place of the one with the same title, else at the end."""
  before = path.read_text(encoding='utf-8') if path.exists() else _PREAMBLE
  head, *sections = before.split('\n## ')
  kept = [f'## {section.strip()}' for section in sections if f'## {section.splitlines()[0]}' != title]
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n\n'.join([head.strip(), *kept, text]) + '\n', encoding='utf-8')
