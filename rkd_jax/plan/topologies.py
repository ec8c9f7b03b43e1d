"""Accelerators by name, as `v5e:4x4` or `h100:8`: which chip, and devices to compile for.

The devices are descriptions: XLA compiles for them on any machine, and none of them is there.
"""

import math
import os
import re

import jax
from jax.experimental import topologies

from rkd_jax.machine.chips import CHIPS, Chip

# Chips that this version of XLA compiles for without a device.
NAMES = ("v5e", "v5p", "v6e", "h100", "cpu")

# What XLA asks of a GPU that is not there; NVIDIA's figures of an H100 SXM.
_H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
"""

# libtpu looks for a machine's own description before it is told of another, and takes its chips
# for itself, of which there are none here.
_NO_MACHINE = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
}


def parse(topology: str) -> tuple[Chip, int]:
  """The chip of a topology's name, and how many there are.

  Raises:
    ValueError: no such chip, or not NAME:COUNT or NAME:AxB or NAME:AxBxC.
  """
  match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*){0,2})", topology)
  if not match or match[1] not in NAMES or (CHIPS[match[1]].platform != "tpu" and "x" in match[2]):
    raise ValueError(
      f"--topology={topology}: expected a chip of {', '.join(NAMES)} and how many there are, as "
      "v5e:4x4, v5p:2x2x1, h100:8 or cpu:8."
    )
  return CHIPS[match[1]], math.prod(map(int, match[2].split("x")))


def devices(topology: str) -> list[jax.Device]:
  """Descriptions of the devices of a topology, for a mesh.

  Call it before anything asks JAX for a device: this process then computes on the CPU.

  Raises:
    ValueError: as `parse`, no such arrangement, or the compiler is not installed.
  """
  chip, count = parse(topology)
  jax.config.update("jax_platforms", "cpu")
  if chip.platform == "cpu":
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices("cpu")[:count]
  try:
    if chip.platform == "tpu":
      os.environ.update({k: v for k, v in _NO_MACHINE.items() if k not in os.environ})
      found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    else:
      # Slices x hosts x GPUs of a host.
      found = topologies.get_topology_desc(
        platform="cuda", topology_name="", target_config=_H100, topology=f"1x1x{count}"
      )
  except Exception as error:  # of several kinds, by platform and by what is missing
    raise ValueError(
      f"--topology={topology}: {error}. Compiling for it needs no device, but its compiler: pip "
      f"install '.[{chip.platform}]' in the checkout. TPUs come in whole hosts, as 2x2."
    ) from error
  return list(found.devices)
