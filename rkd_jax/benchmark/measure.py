"""Time, memory and arithmetic of compiled programs, and the ceilings of the machine.

How the figures are made, so that they can be compared:

* time: wall time of a call until all of its outputs are there, after one call to warm up (which is
  the measurement if it takes all of the budget).  Calls shorter than a few milliseconds are timed
  in groups, since starting one costs as much;
* FLOP: see `machine.costs.matmul_flops`;
* bytes: XLA's "bytes accessed" after fusion; it takes the body of a loop once, and knows no caches;
* temp, memory: what XLA allocates for temporary buffers, and with arguments and outputs;
* peak: on an accelerator the allocator's high-water mark since the process began; on a CPU the
  largest resident memory of the process during this measurement (Linux), or ever (elsewhere).
"""

import dataclasses
import math
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rkd_jax.benchmark.kernels import profile
from rkd_jax.machine.costs import matmul_flops

# Calls are grouped until a group lasts this long.
_GROUP_SECONDS = 0.005

# What Linux tells, and other systems do not.
_STATUS, _CPU_INFO = Path("/proc/self/status"), Path("/proc/cpuinfo")
_CLEAR = Path("/proc/self/clear_refs")

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Budget:
  """A measurement ends after `steps` timings, or with the first that ends later than `seconds`."""

  steps: int = 20
  seconds: float = 10.0


@dataclasses.dataclass(frozen=True)
class Ceilings:
  """What the machine reaches in the compute dtype: a large matrix product, and a large copy."""

  flops_per_s: float
  bytes_per_s: float

  def compare(self, flops: float, accessed: float, seconds: float) -> Figures:
    """Which ceiling is nearer, and the share of it that is reached."""
    compute, memory = flops / self.flops_per_s, accessed / self.bytes_per_s
    return {
      "roofline_share": max(compute, memory) / seconds,
      "bound": "compute" if compute >= memory else "memory",
    }


def machine() -> Figures:
  """What the figures depend on."""
  device = jax.devices()[0]
  cpu = re.search(r"model name\s*: (.+)", _CPU_INFO.read_text() if _CPU_INFO.exists() else "")
  return {
    "device": device.device_kind,
    "platform": device.platform,
    "devices": jax.device_count(),
    "cpus": os.cpu_count(),
    "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
    "python": platform.python_version(),
    "jax": jax.__version__,
  }


def timed(run: Callable[[], Any], wait: Callable[[], Any], budget: Budget) -> Figures:
  """Times `run`, whose work has ended when `wait` returns.

  `cpu_seconds` are those of all threads of this process, per call: on a shared machine the steadier
  figure.
  """

  def once(calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
      run()
    wait()
    return (time.perf_counter() - start) / calls

  cpu_start = time.process_time()
  warm_up = once(1)
  seconds, calls = [warm_up], 1
  if warm_up < budget.seconds:
    seconds, calls = [], math.ceil(min(_GROUP_SECONDS / warm_up, 100))
    cpu_start, end = time.process_time(), time.perf_counter() + budget.seconds
    while not seconds or (len(seconds) < budget.steps and time.perf_counter() < end):
      seconds.append(once(calls))
  return {
    "seconds": statistics.median(seconds),
    "min_seconds": min(seconds),
    "cpu_seconds": (time.process_time() - cpu_start) / (len(seconds) * calls),
    "runs": len(seconds),
  }


def measure(
  function: Callable,
  args: tuple,
  budget: Budget,
  ceilings: Ceilings | None = None,
  carry: bool = False,
  compiler_options: dict[str, str] | None = None,
  kernels: int = 0,
) -> tuple[Any, Figures]:
  """Compiles and times `function(*args)`; its last outputs and the figures.

  With `carry` the first argument is donated, and the first output takes its place in the next call,
  as a training state does.  With `kernels` that many of the heaviest are among the figures (see
  `kernels.heaviest`).
  """
  traced = jax.jit(function, donate_argnums=(0,) if carry else ()).trace(*args)
  start = time.perf_counter()
  compiled = traced.lower().compile(compiler_options)
  figures = {"compile_seconds": time.perf_counter() - start}
  held, outputs = list(args), None

  def run():
    nonlocal outputs
    outputs = compiled(*held)
    if carry:
      held[0] = outputs[0]

  def wait():
    jax.block_until_ready(outputs)

  reset_peak()
  figures |= timed(run, wait, budget)
  memory, device = compiled.memory_analysis(), jax.devices()[0].memory_stats()
  flops = matmul_flops(traced.jaxpr)
  accessed = (compiled.cost_analysis() or {}).get("bytes accessed", 0.0)
  figures |= {
    "memory_bytes": memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - memory.alias_size_in_bytes,
    "temp_bytes": memory.temp_size_in_bytes,
    "peak_bytes": device["peak_bytes_in_use"] if device else host_peak(),
    "flops": flops,
    "flops_per_s": flops / figures["seconds"],
    "accessed_bytes": accessed,
  }
  if ceilings is not None:
    figures |= ceilings.compare(flops, accessed, figures["seconds"])
  if kernels:
    figures["kernels"] = profile(compiled.as_text(), run, wait, kernels)
  return outputs, figures


def measure_ceilings(dtype: str, budget: Budget) -> Ceilings:
  """A product of square matrices and a copy, large enough to fill the device."""
  on_cpu = jax.default_backend() == "cpu"
  size = 2048 if on_cpu else 8192
  rng = np.random.default_rng(0)
  matrix = jnp.asarray(rng.standard_normal((size, size), np.float32), dtype)
  _, product = measure(lambda a, b: a @ b, (matrix, matrix), budget)
  values = jnp.asarray(rng.standard_normal(2**26 if on_cpu else 2**28, np.float32))
  _, copy = measure(lambda x: x + 1, (values,), budget)
  flops_per_s = product["flops"] / product["min_seconds"]
  return Ceilings(flops_per_s, bytes_per_s=2 * values.nbytes / copy["min_seconds"])


def reset_peak() -> None:
  """Starts a new high-water mark of resident memory, where the system has one."""
  if _CLEAR.exists():
    _CLEAR.write_text("5")


def host_peak() -> int:
  """Largest resident memory of this process in bytes (see the module)."""
  found = re.search(r"VmHWM:\s*(\d+)", _STATUS.read_text() if _STATUS.exists() else "")
  if found:
    return 1024 * int(found[1])
  unit = 1 if sys.platform == "darwin" else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
