"""What accelerators can do: peak rates for model FLOPs utilisation (MFU), memory and networks for planning."""

from __future__ import annotations

import dataclasses
from typing import Any

# Dense bfloat16 peak, FLOP/s per device as jax counts devices, from the vendors' data sheets. A v2/v3 chip shows as
# two devices, so its entry is half of the chip's. Unknown kinds have no entry, and MFU is then omitted, not guessed.
PEAK_FLOPS_PER_S = {
  'TPU v2': 22.5e12,
  'TPU v3': 61.5e12,
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5e': 197e12,
  'TPU v5': 459e12,
  'TPU v5p': 459e12,
  'TPU v6 lite': 918e12,
  'TPU v6e': 918e12,
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA A100 80GB PCIe': 312e12,
  'NVIDIA H100 80GB HBM3': 989e12,
  'NVIDIA H100 PCIe': 756e12,
  'NVIDIA H200': 989e12,
}


def peak_flops_per_s(device: Any) -> float | None:
  """Returns the device's peak dense bfloat16 rate in FLOP/s, or None for a kind that is not in the table."""
  kind = device.device_kind
  return PEAK_FLOPS_PER_S[kind] if kind in PEAK_FLOPS_PER_S else None


@dataclasses.dataclass(frozen=True)
class Hardware:
  """One device as jax counts devices, and the two networks that join it to others. Bytes, seconds, each way.

  Attributes:
    name: as in `vitjax plan --topology=NAME:SHAPE`.
    kind: jax's device_kind, the key of PEAK_FLOPS_PER_S.
    hbm_bytes: memory that a program may use; what the compiler itself takes as its limit.
    hbm_bytes_per_s: memory bandwidth.
    link_bytes_per_s: fast network (ICI, NVLink): one direction of one link. A ring uses two links, one along each
      direction of a torus axis.
    num_links: links of one device.
    ring_sizes: axis lengths of a slice, or multiples of them, that close into a ring; () where all reach all.
    outer_bytes_per_s: network between slices (TPU) or nodes (GPU), one direction, per device.
    devices_per_host: how many devices one host feeds.
    source: where the figures come from.
  """

  name: str
  kind: str
  hbm_bytes: int
  hbm_bytes_per_s: float
  link_bytes_per_s: float
  num_links: int
  ring_sizes: tuple[int, ...]
  outer_bytes_per_s: float
  devices_per_host: int
  source: str

  @property
  def peak_flops_per_s(self) -> float:
    """Returns the dense bfloat16 peak in FLOP/s."""
    return PEAK_FLOPS_PER_S[self.kind]


_GIB = 2**30

# ICI: the data sheets give both directions of all links of a chip together. DCN: per chip. hbm_bytes of TPUs is the
# limit that the compiler names when a program does not fit, a little below the data sheet.
HARDWARE = {
  hardware.name: hardware
  for hardware in (
    Hardware(
      name='v5e',
      kind='TPU v5 lite',
      hbm_bytes=int(15.75 * _GIB),
      hbm_bytes_per_s=819e9,
      link_bytes_per_s=50e9,  # 400 GB/s / 2 directions / 4 links
      num_links=4,
      ring_sizes=(16,),
      outer_bytes_per_s=3.125e9,  # 6.4 Tbit/s per pod of 256
      devices_per_host=4,
      source='cloud.google.com/tpu/docs/v5e',
    ),
    Hardware(
      name='v5p',
      kind='TPU v5',
      hbm_bytes=int(95.73 * _GIB),
      hbm_bytes_per_s=2765e9,
      link_bytes_per_s=100e9,  # 1200 GB/s / 2 directions / 6 links
      num_links=6,
      ring_sizes=(4,),
      outer_bytes_per_s=6.25e9,  # 50 Gbit/s per chip
      devices_per_host=4,
      source='cloud.google.com/tpu/docs/v5p',
    ),
    Hardware(
      name='v6e',
      kind='TPU v6 lite',
      hbm_bytes=int(31.24 * _GIB),
      hbm_bytes_per_s=1638e9,
      link_bytes_per_s=100e9,  # 800 GB/s / 2 directions / 4 links
      num_links=4,
      ring_sizes=(16,),
      outer_bytes_per_s=12.5e9,  # 4 x 200 Gbit/s per host of 8 chips
      devices_per_host=4,
      source='cloud.google.com/tpu/docs/v6e',
    ),
    Hardware(
      name='h100',
      kind='NVIDIA H100 80GB HBM3',
      hbm_bytes=int(0.92 * 79.1 * _GIB),  # what is left of 79.1 GiB after CUDA, NCCL and cuDNN take theirs
      hbm_bytes_per_s=3350e9,
      link_bytes_per_s=450e9,  # 900 GB/s NVLink / 2 directions, through a switch
      num_links=1,
      ring_sizes=(),
      outer_bytes_per_s=50e9,  # one 400 Gbit/s port per GPU, as in a DGX H100
      devices_per_host=8,
      source='nvidia.com H100 SXM data sheet and DGX H100 user guide',
    ),
  )
}
