"""What a compiled program needs and where its time goes, as a dictionary and as a page of text."""

import jax

from rkd_jax.machine import costs, hlo
from rkd_jax.machine.chips import Chip

REMEDY = "A smaller --batch, more devices, or --config.model.dtype=bfloat16 need less."


def describe(compiled: jax.stages.Compiled, chip: Chip) -> dict:
  """Figures of a program on each device of a mesh, in bytes, FLOP and seconds.

  `estimate_s` is what XLA expects of a TPU's cores: gather, scatter, sort and collectives are not
  in it, so it is a lower bound.  Loops whose length depends on the data count as often as
  `hlo.ASSUMED_TRIPS` says.  XLA counts no work for GPUs that are not there.
  """
  memory = compiled.memory_analysis()
  cost = compiled.cost_analysis() or {}
  flops, accessed = cost.get("flops"), cost.get("bytes accessed")
  program = hlo.Program(compiled.as_text())
  modules = hlo.seconds_by_module(program, chip.clock) if chip.clock else {}
  return {
    "memory": {
      "arguments": memory.argument_size_in_bytes,
      "temporaries": memory.temp_size_in_bytes,
      "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
      "code": memory.generated_code_size_in_bytes,
      "total": costs.needed_memory(compiled),
      "available": chip.memory or None,
    },
    "flops": flops,
    "bytes_accessed": accessed,
    "roofline_s": (
      max(flops / chip.flops, accessed / chip.bandwidth)
      if chip.flops and flops and accessed
      else None
    ),
    "estimate_s": sum(modules.values()) if modules else None,
    "modules": modules,
    "collectives": hlo.collectives(program),
    "loops": hlo.loops(program, chip.clock),
    "sorts_and_scatters": hlo.sorts_and_scatters(program),
  }


def problem(error: Exception) -> str:
  """What the compiler's refusal of a program says, with the remedy where memory is short."""
  if sizes := costs.refused_memory(error):
    return f"DOES NOT FIT: needs {sizes[0]} of a device's {sizes[1]}. {REMEDY}"
  return f"DOES NOT COMPILE: {' '.join(str(error).split())[:1000]}"


def page(title: str, figures: dict, chip: Chip, rows: int = 8) -> str:
  """The figures for people, the largest `rows` of each table."""
  memory, lines = figures["memory"], [title]
  parts = ", ".join(f"{k} {_bytes(memory[k])}" for k in list(memory)[:4] if memory[k])
  of = f" of {memory['available'] / 1e9:.0f} GB" if memory["available"] else ""
  lines.append(f"  memory        {_bytes(memory['total'])}{of} a device: {parts}")
  if figures["flops"]:
    lines.append(
      f"  work          {figures['flops'] / 1e12:.3g} TFLOP, "
      f"{_bytes(figures['bytes_accessed'])} read and written"
    )
  if figures["roofline_s"]:
    compute, traffic = figures["flops"] / chip.flops, figures["bytes_accessed"] / chip.bandwidth
    lines[-1] += f": at least {1e3 * compute:.1f} ms of arithmetic, {1e3 * traffic:.1f} of traffic"
  if figures["estimate_s"]:
    lines.append(
      f"  estimate      {1e3 * figures['estimate_s']:.1f} ms of cores, without gather, scatter, "
      "sort and collectives:"
    )
    modules = list(figures["modules"].items())
    lines += [f"    {1e3 * s:9.2f} ms  {module}" for module, s in modules[:rows]]
    if len(modules) > rows:
      rest = sum(s for _, s in modules[rows:])
      lines.append(f"    {1e3 * rest:9.2f} ms  {len(modules) - rows} others")
  lines.append("  collectives")
  for row in figures["collectives"]:
    where = f" in a loop: {row['loop']}" if row["loop"] else ""
    lines.append(f"    {row['count']:3} {row['kind']}, {_bytes(row['bytes'])}{where}")
  lines.append("  loops")
  for row in figures["loops"][:rows]:
    trips = f"{row['trips']}" if row["known"] else f"{row['trips']} (assumed)"
    around = f" x {row['times']}" if row["times"] > 1 else ""
    time = f", {1e3 * row['seconds']:.2f} ms" if row["seconds"] else ""
    lines.append(
      f"    {row['source']}: {trips}{around} times, hands on {_bytes(row['carried_bytes'])}{time}"
    )
  lines.append("  sorts and scatters")
  for row in figures["sorts_and_scatters"][:rows]:
    around = f", {row['times']} times" if row["times"] > 1 else ""
    lines.append(f"    {row['kind']} of {row['shape']}{around}: {row['source']}")
  return "\n".join(lines)


def _bytes(count: float) -> str:
  for unit in ("B", "kB", "MB"):
    if count < 1000:
      return f"{count:.3g} {unit}"
    count /= 1000
  return f"{count:.3g} GB"
