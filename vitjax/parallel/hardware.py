"""Peak arithmetic rates per device kind, for model FLOPs utilisation (MFU)."""

from __future__ import annotations

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
