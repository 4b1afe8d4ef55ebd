"""The least time a step can take, from data sheets: arithmetic, memory traffic and networks.

Bounds, not predictions: matrix units at their peak, every array moved once, links at full rate. A real step is
slower; which of the three terms is the largest, and by how much, is what they tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from vitjax.config.schema import ModelConfig
from vitjax.config.variants import ViTVariant
from vitjax.models.flops import forward_flops
from vitjax.models.sizes import computed_size, num_prefix_tokens, resolve_variant
from vitjax.ops.patches import num_kept
from vitjax.optim.sharpness import gradient_evaluations
from vitjax.parallel.hardware import Hardware
from vitjax.planning.collectives import Collective
from vitjax.planning.memory import MemoryEstimate
from vitjax.training.build import Run


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds per step of each resource, if nothing else limited it.

  Attributes:
    compute_s: all FLOPs, recomputation included, at the bfloat16 peak.
    memory_s: least HBM traffic at full bandwidth.
    network_s: every collective at full link rate.
    exposed_s: the part of network_s that the compiler does not run beside computation.
    model_flops: of one step over all devices, without recomputation: what MFU counts.
    peak_flops_per_s: of all devices.
  """

  compute_s: float
  memory_s: float
  network_s: float
  exposed_s: float
  model_flops: float
  peak_flops_per_s: float

  @property
  def step_s(self) -> float:
    """Returns the least step time when all communication hides behind computation."""
    return max(self.compute_s, self.memory_s, self.network_s)

  @property
  def exposed_step_s(self) -> float:
    """Returns the least step time when only that hides which the compiler overlaps by itself."""
    return max(max(self.compute_s, self.memory_s) + self.exposed_s, self.network_s)

  def mfu(self, step_s: float) -> float:
    """Returns the model FLOPs utilisation of a step of `step_s` seconds."""
    return self.model_flops / (step_s * self.peak_flops_per_s)

  @property
  def limit(self) -> str:
    """Returns which resource bounds the step: 'compute', 'memory' or 'network'."""
    times = {'compute': self.compute_s, 'memory': self.memory_s, 'network': self.network_s}
    return max(times, key=lambda name: times[name])


def roofline(
  run: Run, memory: MemoryEstimate, collectives: Iterable[Collective], hardware: Hardware
) -> Roofline:
  """Returns the bounds of one step.

  Args:
    run: the job; its mesh holds the (described) devices.
    memory: of one device.
    collectives: of the compiled step, or estimated ones.
    hardware: the data sheet of the devices.
  """
  recipe, devices = run.recipe, run.mesh.size
  model_flops = run.train_flops_per_example * recipe.data.batch_size
  peak = hardware.peak_flops_per_s * devices
  evaluations = gradient_evaluations(recipe.optim)
  passes = (3 if recipe.model.remat == 'full' else 2) * evaluations
  weights = sum(math.prod(leaf.shape) for leaf in _leaves(run)) / run.mesh.shape['model']
  compute_bytes = {'float32': 4, 'bfloat16': 2}[recipe.model.dtype]
  traffic = (
    2 * (memory.params + memory.optimizer + memory.averaged)  # read and written by the update
    + memory.teacher * recipe.optim.accumulation_steps
    + 2 * memory.gradients * evaluations
    + 2 * memory.saved * evaluations
    + passes * recipe.optim.accumulation_steps * weights * compute_bytes
  )
  by_link = list(run.mesh.devices.flat)
  seconds = [(c, collective_seconds(c, by_link, hardware)) for c in collectives]
  return Roofline(
    compute_s=model_flops * recompute_factor(recipe.model, computed_size(recipe.model, recipe.data)) / peak,
    memory_s=traffic / hardware.hbm_bytes_per_s,
    network_s=sum(s for _, s in seconds),
    exposed_s=sum(s for c, s in seconds if not c.overlapped),
    model_flops=model_flops,
    peak_flops_per_s=peak,
  )


def recompute_factor(model: ModelConfig, image_size: tuple[int, int]) -> float:
  """Returns the FLOPs of a step with model.remat, over those without: 4/3 for 'full'; 'dots' repeats the two
  attention products alone."""
  if model.remat == 'none':
    return 1.0
  if model.remat == 'full':
    return 4 / 3
  variant = resolve_variant(model)
  if not isinstance(variant, ViTVariant):
    return 1.0
  patches = num_kept(math.prod(side // variant.downsample for side in image_size), model.token_drop_rate)
  tokens = patches + num_prefix_tokens(model)
  products = variant.size.depth * 4 * tokens * tokens * variant.size.width
  return 1 + products / (3 * forward_flops(model, image_size=image_size, num_classes=0, train=True))


def collective_seconds(collective: Collective, devices: Sequence[Any], hardware: Hardware) -> float:
  """Returns the least seconds per step that one collective keeps the links of a device busy.

  Inside a slice or node: ring algorithms on every torus axis that the group spans, in both directions where the
  axis closes into a ring. Between slices or nodes: each device exchanges its part of what its group has reduced.

  Args:
    collective: of a step.
    devices: in mesh order; `coords` and `slice_index` are read of TPUs, `process_index` of GPUs.
    hardware: link rates.
  """
  members = [devices[i] for i in collective.group if i < len(devices)]
  outer = len({_outer_index(d) for d in members})
  inner = [d for d in members if _outer_index(d) == _outer_index(members[0])]
  total = collective.payload_bytes * collective.count
  if collective.kind == 'collective-permute':
    return total / (hardware.outer_bytes_per_s if outer > 1 else hardware.link_bytes_per_s)
  rounds = 2 if collective.kind == 'all-reduce' else 1
  seconds = 0.0
  if len(inner) > 1:
    seconds += rounds * (len(inner) - 1) / len(inner) * total / _inner_rate(inner, hardware)
  if outer > 1:
    seconds += rounds * (outer - 1) / outer * total / len(inner) / hardware.outer_bytes_per_s
  return seconds


def _outer_index(device: Any) -> int:
  """Returns the slice of a TPU, the node of a GPU."""
  return getattr(device, 'slice_index', 0) if device.platform == 'tpu' else device.process_index


def _inner_rate(members: Sequence[Any], hardware: Hardware) -> float:
  """Returns the bytes per second that one device sends within its slice or node, for a group of devices there."""
  if not hardware.ring_sizes:
    return hardware.link_bytes_per_s * hardware.num_links
  lengths = [len(set(axis)) for axis in zip(*(d.coords for d in members), strict=True)]
  spanned = [n for n in lengths if n > 1]
  links = sum(2 if any(n % ring == 0 for ring in hardware.ring_sizes) else 1 for n in spanned)
  return hardware.link_bytes_per_s * min(max(links, 1), hardware.num_links)


def _leaves(run: Run) -> list[Any]:
  import jax

  return jax.tree.leaves(run.abstract_state.params)
