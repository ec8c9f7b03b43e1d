"""Reads the optimised program of XLA as text: what runs, how often, and which line asked for it."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Iterations that are assumed of loops whose length depends on the data, by their module; each is
# for photographs at published sizes.  A gradient that is written out belongs to what calls it.
ASSUMED_TRIPS = {"ops/roi_align/tiles.py": 2, "ops/roi_align/multilevel.py": 2}
ASSUMED_TRIPS |= {"ops/nms.py": 8, "ops/matching.py": 2}
_OTHER_TRIPS = 8

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}
_BYTES |= {"f64": 8}  # and 4 for all others
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_PACKAGE = "/rkd_jax/"
_WRAPPERS = ("machine/target.py",)  # run what others ask for
_CALLED = re.compile(
  r"(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One operation: its opcode, the text of its type, and the text of the rest."""

  opcode: str
  type: str
  rest: str
  cycles: int  # the compiler's estimate of a run on a TPU; 0 where it gives none
  frame: int  # of the stack that made it

  @functools.cached_property
  def called(self) -> dict[str, str]:
    """The computations that it runs, by role."""
    called = dict(_CALLED.findall(self.rest))
    branches = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
    names = re.findall(r"%?([\w.-]+)", branches[1]) if branches else []
    return called | {f"branch {i}": name for i, name in enumerate(names)}

  @property
  def scope(self) -> str:
    """The flax modules and transformations around what it came from, outermost first, or ""."""
    name = re.search(r'op_name="([^"]*)"', self.rest)
    return "/".join(name[1].split("/")[1:-1]) if name else ""

  @property
  def bytes(self) -> int:
    """Size of the result, tuples as the sum of their parts."""
    shapes = re.findall(r"\b(pred|bf16|[sufc]\d+)\[([\d,]*)\]", self.type)
    return sum(
      _BYTES.get(kind, 4) * math.prod(int(d) for d in dims.split(",") if d) for kind, dims in shapes
    )


@dataclasses.dataclass(frozen=True)
class Run:
  """An instruction where it runs.

  Attributes:
    times: runs in one run of the program; 0 in a branch that is not taken.
    loops: labels of the loops around it, outermost first.
  """

  instruction: Instruction
  times: int
  loops: tuple[str, ...]


class Program:
  """The text of a compiled program, `jax.stages.Compiled.as_text()`.

  Attributes:
    instructions: all of them by name, those within fusions, too.
  """

  def __init__(self, text: str):
    self._tables = {name: {} for name in _TABLES}
    self._computations: dict[str, dict[str, Instruction]] = {}
    self._entry = ""
    table, computation = None, None
    for line in text.splitlines():
      if line in self._tables:
        table = self._tables[line]
      elif table is not None and re.match(r"\d+ ", line):
        number, _, entry = line.partition(" ")
        table[int(number)] = entry
      elif not line.startswith(" ") and line.endswith("{"):
        name = re.match(r"(ENTRY )?%?([\w.-]+) \(", line)
        if name:
          table, computation = None, self._computations.setdefault(name[2], {})
          self._entry = name[2] if name[1] else self._entry
      elif computation is not None and (match := _INSTRUCTION.match(line)):
        computation[match[1]] = _instruction(*match.groups()[1:])
    self.instructions = dict(collections.ChainMap(*self._computations.values()))

  def runs(self) -> Iterator[Run]:
    """All instructions, those within fusions left out.

    Of the branches of a conditional the longest is taken; those of the others have no `times`.
    """
    yield from self._runs(self._entry, 1, ())

  def _runs(self, computation: str, times: int, loops: tuple[str, ...]) -> Iterator[Run]:
    for instruction in self._computations.get(computation, {}).values():
      yield Run(instruction, times, loops)
      called = instruction.called
      if instruction.opcode == "while":
        inside = times * self.trips(instruction)[0], (*loops, self.source(instruction))
        yield from self._runs(called["body"], *inside)
        yield from self._runs(called["condition"], *inside)
      elif instruction.opcode == "conditional":
        branches = [name for role, name in called.items() if role != "to_apply"]
        longest = max(branches, key=self._cycles)
        for name in branches:
          yield from self._runs(name, times if name == longest else 0, loops)
      elif instruction.opcode == "call":
        yield from self._runs(called["to_apply"], times, loops)

  @functools.cache  # noqa: B019 (as above)
  def _cycles(self, computation: str) -> int:
    return sum(run.instruction.cycles * run.times for run in self._runs(computation, 1, ()))

  def trips(self, loop: Instruction) -> tuple[int, bool]:
    """Iterations of a while loop, and whether the program says so, or they are assumed."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    count = int(known[1]) if known else self._counted(loop)
    if count is not None:
      return count, True
    module = self.source(loop).partition(":")[0]
    return ASSUMED_TRIPS.get(module, _OTHER_TRIPS), False

  def _counted(self, loop: Instruction) -> int | None:
    """The constant that a loop's counter is compared with, where that is all its condition does."""
    condition = self._computations.get(loop.called["condition"], {}).values()
    plain = {"parameter", "get-tuple-element", "constant", "compare", "copy", "bitcast"}
    compares = [x for x in condition if x.opcode == "compare" and "direction=LT" in x.rest]
    constants = [re.match(r"constant\((\d+)\)", x.rest) for x in condition]
    numbers = [int(match[1]) for match in constants if match]
    if len(compares) == len(numbers) == 1 and all(x.opcode in plain for x in condition):
      return numbers[0]
    return None

  def source(self, instruction: Instruction) -> str:
    """The line of this package that an instruction comes from, as `ops/nms.py:83 _greedy`."""
    return self._source(instruction.frame)

  @functools.cache  # noqa: B019 (a program is read once)
  def _source(self, frame: int) -> str:
    files, functions, locations, frames = (self._tables[name] for name in _TABLES)
    while frame:
      location, parent = _numbers(frames[frame], "file_location_id", "parent_frame_id")
      file, function, line = _numbers(
        locations[location], "file_name_id", "function_name_id", "line"
      )
      path = files[file].strip('"')
      if _PACKAGE in path and not path.endswith(_WRAPPERS):
        name = functions.get(function, "").strip('"').rpartition(".")[2]
        return f"{path.rpartition(_PACKAGE)[2]}:{line} {name}"
      frame = parent if parent != frame else 0
    return "compiler"


_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)(?= [a-z-]+\()|\S+) ([\w-]+)\((.*)$")


def _instruction(type_text: str, opcode: str, rest: str) -> Instruction:
  cycles = re.search(r'"estimated_cycles":"(\d+)"', rest)
  frame = re.search(r"stack_frame_id=(\d+)", rest)
  return Instruction(
    opcode=opcode,
    type=type_text,
    rest=f"{opcode}({rest}",
    cycles=int(cycles[1]) if cycles else 0,
    frame=int(frame[1]) if frame else 0,
  )


def _numbers(entry: str, *names: str) -> list[int]:
  found = dict(re.findall(r"(\w+)=(\d+)", entry))
  return [int(found.get(name, 0)) for name in names]


def seconds_by_module(program: Program, clock: float) -> dict[str, float]:
  """The compiler's estimate of a TPU's time, by the module that asked for it, longest first."""
  cycles = collections.Counter()
  for run in program.runs():
    if run.instruction.cycles:
      module = program.source(run.instruction).partition(":")[0]
      cycles[module] += run.instruction.cycles * run.times
  return {module: count / clock for module, count in cycles.most_common()}


def collectives(program: Program) -> list[dict]:
  """What devices tell each other: kind, loop, number of operations and their bytes."""
  kinds = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
  rows = {}
  for run in program.runs():
    opcode = run.instruction.opcode
    if opcode.startswith(kinds) and not opcode.endswith("-done"):
      kind = next(k for k in kinds if opcode.startswith(k))
      row = rows.setdefault((kind, run.loops), {"count": 0, "bytes": 0})
      row["count"] += 1
      row["bytes"] += run.instruction.bytes
  return [{"kind": k, "loop": " in ".join(loops[::-1]), **row} for (k, loops), row in rows.items()]


def loops(program: Program, clock: float) -> list[dict]:
  """The loops: iterations, bytes that each hands on, and estimated time; longest first."""
  rows = []
  for run in program.runs():
    if run.instruction.opcode == "while":
      trips, known = program.trips(run.instruction)
      inside = sum(
        x.instruction.cycles * x.times
        for x in program._runs(run.instruction.called["body"], run.times * trips, ())
      )
      rows.append(
        {
          "source": program.source(run.instruction),
          "in": list(run.loops),
          "trips": trips,
          "known": known,
          "times": run.times,
          "carried_bytes": run.instruction.bytes,
          "seconds": inside / clock if clock else None,
        }
      )
  return sorted(rows, key=lambda row: (-(row["seconds"] or 0), -row["carried_bytes"]))


def sorts_and_scatters(program: Program, least_bytes: int = 4096) -> list[dict]:
  """Those with more than a few rows, which XLA's estimates leave out; largest first."""
  rows = []
  for run in program.runs():
    instruction = run.instruction
    opcodes = {instruction.opcode}
    if instruction.opcode == "fusion":
      inside = program._computations.get(instruction.called.get("calls", ""), {})
      opcodes |= {x.opcode for x in inside.values()}
    kind = "sort" if "TopK" in instruction.rest else next(iter(opcodes & {"sort", "scatter"}), None)
    if kind and instruction.bytes >= least_bytes:
      rows.append(
        {
          "kind": kind,
          "shape": re.sub(r"\{[^}]*\}", "", instruction.type),
          "bytes": instruction.bytes,
          "source": program.source(instruction),
          "times": run.times,
        }
      )
  return sorted(rows, key=lambda row: -row["bytes"] * row["times"])
