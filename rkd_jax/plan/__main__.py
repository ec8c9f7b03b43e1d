"""Compiles a config's programs for accelerators that need not be there, and says what they cost.

  python -m rkd_jax.plan --config=lvis/rkd_ils_weight_transfer --topology=v5e:4x4 --batch=64 \\
    --config.model.dtype=bfloat16 --output=runs/plan/lvis.json

For each program (--programs; by default all that the config needs): the memory of a device, the
work and what the device could do of it at best, XLA's own estimate (TPUs), what devices exchange
and whether a loop waits for it, the largest loops, sorts and scatters.  Of loops the work counts
once where XLA does not know their length.  Compiling takes minutes and no device; a TPU's compiler
comes with `pip install '.[tpu]'` in the checkout, a GPU's with `.[gpu]`.  Exits with 1 where a
program does not compile or does not fit.
"""

import json
import re
import sys
import time

import jax
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.files import storage
from rkd_jax.plan import programs, report, topologies


def main(given: flags.FlagValues) -> None:
  config = given.config
  if config.task != "detector":
    raise app.UsageError(f"--config has task {config.task!r}; expected that of a detector.")
  canvas = re.fullmatch(r"(\d+)x(\d+)", given.canvas) if given.canvas else None
  if given.canvas and not canvas:
    raise app.UsageError(f"--canvas is {given.canvas!r}; expected HEIGHTxWIDTH, as 800x1344.")
  if unknown := [name for name in given.programs if name not in programs.PROGRAMS]:
    raise app.UsageError(
      f"--programs names {', '.join(unknown)}; expected some of {', '.join(programs.PROGRAMS)}."
    )
  chosen = given.programs or programs.programs_of(config)
  try:
    chip, devices = topologies.parse(given.topology)[0], topologies.devices(given.topology)
    rows = []
    for program in chosen:
      size = canvas and (int(canvas[1]), int(canvas[2]))
      rows.append(_row(config, program, devices, chip, given.batch, size, given.classes, given.hlo))
      print(rows[-1].pop("page"), flush=True)
  except ValueError as error:
    raise app.UsageError(str(error)) from error
  finding = {
    "config": config.name,
    "topology": given.topology,
    "dtype": config.model.dtype,
    "jax": jax.__version__,
    "programs": rows,
  }
  if given.output:
    storage.write(epath.Path(given.output), json.dumps(finding, indent=1))
  if any(row["problem"] for row in rows):
    sys.exit(1)


def _row(config, program, devices, chip, batch, canvas, classes, folder) -> dict:
  """The figures of one program with its `page`, and the `problem` that it has, if any."""
  lowered, shape = programs.lower(config, program, devices, batch, canvas, classes)
  title = f"{config.name} {program} on {len(devices)} {devices[0].device_kind}: " + ", ".join(
    f"{key} {'x'.join(map(str, value)) if isinstance(value, list) else value}"
    for key, value in shape.items()
  )
  start = time.time()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    problem = report.problem(error)
    return {"program": program, **shape, "problem": problem, "page": f"{title}\n  {problem}"}
  figures = report.describe(compiled, chip)
  if folder:
    storage.write(epath.Path(folder) / f"{program}.hlo.txt", compiled.as_text())
  memory, problem = figures["memory"], ""
  if memory["available"] and memory["total"] > memory["available"]:
    excess = (memory["total"] - memory["available"]) / 1e9
    problem = f"DOES NOT FIT: needs {excess:.1f} GB more than a device has. {report.REMEDY}"
  page = report.page(title, figures, chip) + (f"\n  {problem}" if problem else "")
  return {
    "program": program,
    **shape,
    "compile_s": round(time.time() - start, 1),
    **figures,
    "problem": problem,
    "page": page,
  }


def define_flags() -> None:
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.mark_flag_as_required("config")
  flags.DEFINE_string(
    "topology", None, f"Chip of {', '.join(topologies.NAMES)} and how many, as v5e:4x4 or h100:8."
  )
  flags.mark_flag_as_required("topology")
  flags.DEFINE_integer("batch", 0, "Images of all devices together; default: the config's.")
  flags.DEFINE_string("canvas", "", "HEIGHTxWIDTH; default: the config's.")
  flags.DEFINE_integer(
    "classes", 0, "Of the vocabulary; default: as many as COCO or LVIS have, by the config's loss."
  )
  flags.DEFINE_list(
    "programs", [], f"Some of {', '.join(programs.PROGRAMS)}; default: all that the config needs."
  )
  flags.DEFINE_string("output", "", "JSON file for all figures.")
  flags.DEFINE_string("hlo", "", "Folder for the text of the compiled programs.")


if __name__ == "__main__":
  commands.run(main, define_flags)
