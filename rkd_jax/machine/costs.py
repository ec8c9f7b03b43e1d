"""What a program costs: its arithmetic as it is traced, its memory as it is compiled."""

import math
import re
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

# How XLA says it for TPUs, by what does not fit.
_NEEDED = re.compile(
  r"\(([\d.]+\w)\) exceeds available HBM \(([\d.]+\w)\)|Used ([\d.]+\w) of ([\d.]+\w) hbm"
)


def matmul_flops(jaxpr: Any) -> int:
  """FLOP of the matrix products and convolutions of a Jaxpr or ClosedJaxpr, on all devices.

  Two per multiply-add.  Loops count with their length where it is static (XLA's own analysis takes
  a body once), those that depend on the data once.
  """
  total = 0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      total += 2 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
    elif name == "conv_general_dilated":
      kernel = equation.invars[1].aval
      per_output = kernel.size // kernel.shape[params["dimension_numbers"].rhs_spec[0]]
      # The zeros that a strided convolution's gradient has between its inputs are no work.
      outputs = equation.outvars[0].aval.size / math.prod(params["lhs_dilation"])
      total += int(2 * outputs * per_output)
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr))
    inner = [matmul_flops(leaf) for leaf in leaves if isinstance(leaf, ClosedJaxpr | Jaxpr)]
    if name == "cond":
      total += max(inner)
    else:
      times = params["length"] if name == "scan" else 1
      if name == "shard_map":
        # Its body is for the part of one device.
        cut = {axis for spec in params["in_specs"] for axis in jax.tree.leaves(tuple(spec))}
        times = math.prod(params["mesh"].shape[axis] for axis in cut)
      total += sum(inner) * times
  return total


def needed_memory(compiled: jax.stages.Compiled) -> int:
  """Bytes that a program takes of each device while it runs: its arguments, too, and its code."""
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.generated_code_size_in_bytes
  )


def memory_limit() -> int | None:
  """Bytes for programs on the local device that has least; None where devices do not say (CPUs)."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return min((own["bytes_limit"] for own in stats if "bytes_limit" in own), default=None)


def refused_memory(error: Exception) -> tuple[str, str] | None:
  """What a program needs of what a device has, where that is why the compiler refuses it."""
  found = _NEEDED.search(" ".join(str(error).split()))
  if found is None:
    return None
  needed, available = filter(None, found.groups())
  return needed, available
