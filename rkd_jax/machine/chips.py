"""Accelerators by name: what one device has, as its vendor publishes it."""

import dataclasses
import re
from collections.abc import Iterable

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """One device as JAX counts them; of a TPU that is a chip, of v4 with both of its cores.

  Attributes:
    platform: 'tpu', 'gpu' or 'cpu'.
    kind: regular expression of what JAX calls it, its `device_kind`.
    flops: a second, dense bfloat16.
    memory: bytes; this and what follows is 0 where nothing is compiled for it from afar.
    bandwidth: of the memory, bytes a second.
    clock: in which XLA counts the cycles of its estimates, Hz; 0 where it gives none.
  """

  platform: str
  kind: str
  flops: float = 0.0
  memory: float = 0.0
  bandwidth: float = 0.0
  clock: float = 0.0


CHIPS = {
  "v4": Chip("tpu", "TPU v4", 275e12),
  "v5e": Chip("tpu", "TPU v5( lite|e)", 197e12, 16e9, 819e9, 1.5e9),
  "v5p": Chip("tpu", "TPU v5p?", 459e12, 95e9, 2765e9, 1.75e9),
  "v6e": Chip("tpu", "TPU v6( lite|e)", 918e12, 32e9, 1640e9, 1.75e9),
  "a100": Chip("gpu", "NVIDIA A100.*", 312e12),
  "h100": Chip("gpu", "NVIDIA H100 80GB HBM3", 989e12, 80e9, 3350e9),
  "h200": Chip("gpu", "NVIDIA H200", 989e12),
  "cpu": Chip("cpu", "cpu"),
}


def peak_flops(devices: Iterable[jax.Device]) -> float:
  """FLOP a second of devices together, dense bfloat16; 0 where one is none of `CHIPS`."""
  kinds = [device.device_kind for device in devices]
  flops = [sum(c.flops for c in CHIPS.values() if re.fullmatch(c.kind, kind)) for kind in kinds]
  return sum(flops) if all(flops) else 0.0
