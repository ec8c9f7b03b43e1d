"""The kernels that take most of a program's time, and the lines that asked for them."""

import collections
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from rkd_jax.machine import hlo

_CALLS = 3
# These hold others, which have events of their own.
_HOLDERS = ("while", "conditional", "call")


def profile(program: str, run: Callable[[], Any], wait: Callable[[], Any], most: int) -> list[dict]:
  """Traces three calls of `run`, whose work has ended when `wait` returns; see `heaviest`."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(_CALLS):
        run()
      wait()
    traces = [
      jax.profiler.ProfileData.from_file(str(file)) for file in Path(folder).rglob("*.xplane.pb")
    ]
    planes = [plane for trace in traces for plane in trace.planes]
    return heaviest(hlo.Program(program), planes, _CALLS, most)


def heaviest(program: hlo.Program, planes: Iterable[Any], calls: int, most: int) -> list[dict]:
  """The operations of a program that took longest, longest first, and the rest as one.

  Args:
    program: what ran.
    planes: of `jax.profiler.ProfileData`.
    calls: of the program while that was written.
    most: how many to list.

  Returns:
    For each its `name` in the program, `opcode`, `source` (a line of this package, or
    "compiler"), `scope` (modules), `seconds` a call, of all devices and threads together, and their
    `share` of all; empty if the trace names no operation of the program.
  """
  seconds = collections.Counter()
  for name, duration in _operations(planes):
    instruction = program.instructions.get(name)
    if instruction is not None and instruction.opcode not in _HOLDERS:
      seconds[name] += duration / calls
  total = seconds.total()

  def row(name, duration, opcode="", source="", scope=""):
    figures = {"seconds": duration, "share": duration / total}
    return {"name": name, "opcode": opcode, "source": source, "scope": scope, **figures}

  rows = []
  for name, duration in seconds.most_common(most):
    own = program.instructions[name]
    rows.append(row(name, duration, own.opcode, program.source(own), own.scope))
  if len(seconds) > most:
    rest = total - sum(found["seconds"] for found in rows)
    rows.append(row(f"the other {len(seconds) - most}", rest))
  return rows


def _operations(planes):
  """(name in the program, seconds) of each event that is an operation's.

  CPUs and GPUs note the operation with the event; a TPU has a line of operations alone, whose
  names begin as in the program's text.
  """
  for plane in planes:
    lines = list(plane.lines)
    alone = [line for line in lines if line.name == "XLA Ops"]
    for line in alone or lines:
      for event in line.events:
        name = dict(event.stats).get("hlo_op", "")
        if alone and not name:
          name = re.match(r"%?([\w.-]*)", event.name)[1]  # pyright: ignore[reportOptionalSubscript]
        if name:
          yield name, event.duration_ns * 1e-9
