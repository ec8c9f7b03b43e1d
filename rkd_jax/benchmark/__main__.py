"""How fast a detector is on this machine, by stage, and what bounds it; or its input; or a CLIP.

  python -m rkd_jax.benchmark --config=configs/lvis/base.py
  python -m rkd_jax.benchmark --config=configs/lvis/base.py --dtype=bfloat16 --batch=1,8 \\
    --box_batch=16 --against=torch --output=runs/bench/lvis.json
  python -m rkd_jax.benchmark --config=configs/lvis/base.py --programs=box --profile
  python -m rkd_jax.benchmark --clip=ViT-B/32 --batch=32 --against=torch
  python -m rkd_jax.benchmark --input --config=configs/coco/rkd_ils.py --against=torch

Batches, parameters and vocabulary are made up: no data, checkpoint or network is needed, and of the
requirements only jax, flax, optax, ml_collections, jaxtyping and numpy.  One device is measured.
Settings of the config can be changed: --config.model.rpn.test.post_nms=300.  measure.py says how
each column is made, inputs.py what --input measures (that needs all requirements).
"""

import os
import re

import jax
from absl import app, flags
from ml_collections import config_flags

from rkd_jax import commands
from rkd_jax.benchmark import comparisons, detector
from rkd_jax.benchmark.report import Options
from rkd_jax.models.clip.model import PRESETS

# Of a program, with --profile.
_KERNELS = 20


def main(given: flags.FlagValues) -> None:
  if (given.config is None) == (given.clip is None):
    raise app.UsageError("Give either --config=FILE, a detector, or --clip=NAME, an image tower.")
  if given.input and given.config is None:
    raise app.UsageError("--input is about the records and batches of a --config=FILE.")
  if given.profile and (given.input or given.config is None):
    raise app.UsageError("--profile is of the detector of a --config=FILE, without --input.")
  canvas = re.fullmatch(r"(\d+)x(\d+)", given.canvas)
  if not canvas:
    raise app.UsageError(f"--canvas is {given.canvas!r}; expected HEIGHTxWIDTH, as 800x1344.")
  batches = {}
  for kind, name in (("inference", "batch"), ("box", "box_batch"), ("image", "image_batch")):
    if not all(size.isdecimal() for size in given[name].value):
      raise app.UsageError(f"--{name} is {given[name].value}; expected numbers, as 1,2.")
    batches[f"{kind}_batches"] = tuple(int(size) for size in given[name].value)
  if given.against == "torch":
    # By default JAX takes most of a GPU's memory at once; torch needs some too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  options = Options(
    steps=given.steps,
    seconds=given.seconds or (10.0 if jax.default_backend() == "cpu" else 60.0),
    canvas=(int(canvas[1]), int(canvas[2])),
    **batches,
    programs=tuple(given.programs),
    num_classes=given.classes,
    kernels=_KERNELS if given.profile else 0,
    torch=given.against == "torch",
    output=given.output,
  )
  try:
    if given.clip is not None:
      comparisons.clip(given.clip, given.dtype or "float32", options)
    elif given.input:
      # Imported only where it is asked for: it needs the data stack.
      from rkd_jax.benchmark import inputs

      inputs.run(given.config, options)
    else:
      if given.dtype:
        given.config.model.dtype = given.dtype
      detector.run(given.config, options)
  except ValueError as error:
    raise app.UsageError(str(error)) from error


def define_flags() -> None:
  flags.DEFINE_enum("clip", None, list(PRESETS), "Measure this image tower, not a config.")
  config_flags.DEFINE_config_file("config", lock_config=True)
  flags.DEFINE_bool("input", False, "Measure the input pipeline of the config.")
  commands.define_skip_flag()
  flags.DEFINE_list("batch", ["1"], "Batch sizes of inference, as 1,2.")
  flags.DEFINE_list("box_batch", [], "Of box steps; default: loss.images_per_group.box.")
  flags.DEFINE_list("image_batch", [], "Of image steps; as for box steps.")
  flags.DEFINE_string(
    "canvas", "800x1344", "HEIGHTxWIDTH for inference and box steps; image steps have half of it."
  )
  flags.DEFINE_enum("dtype", None, detector.DTYPES, "Compute type; default: the config's.")
  flags.DEFINE_list(
    "programs",
    [],
    f"Some of {', '.join(detector.PROGRAMS)}; default: what the config trains, and forms.",
  )
  flags.DEFINE_integer("classes", 0, "Vocabulary; default: LVIS' or COCO's, by the loss.")
  flags.DEFINE_enum("against", None, ["torch"], "Measure this too, in the same run.")
  flags.DEFINE_bool("profile", False, "List the heaviest kernels of inference and of each step.")
  flags.DEFINE_string("output", "", "JSON file for all figures.")
  flags.DEFINE_integer("steps", 20, "Timed calls per measurement, at most.")
  flags.DEFINE_float("seconds", 0.0, "And not longer than this; default: 60, CPU 10.")


if __name__ == "__main__":
  commands.run(main, define_flags)
