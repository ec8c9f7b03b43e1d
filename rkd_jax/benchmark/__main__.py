"""How fast a detector is on this machine, by stage, and what bounds it; or its input; or a CLIP.

  python -m rkd_jax.benchmark --config=configs/lvis/base.py
  python -m rkd_jax.benchmark --config=configs/lvis/base.py --dtype=bfloat16 --batch=1,8 \\
    --box_batch=16 --against=torch --output=runs/bench/lvis.json
  python -m rkd_jax.benchmark --clip=ViT-B/32 --batch=32 --against=torch
  python -m rkd_jax.benchmark --input --config=configs/coco/rkd_ils.py --against=torch

Batches, parameters and vocabulary are made up: no data, checkpoint or network is needed, and of the
requirements only jax, flax, optax, ml_collections, jaxtyping and numpy.  One device is measured.
Settings of the config can be changed: --config.model.rpn.test.post_nms=300.  measure.py says how
each column is made, inputs.py what --input measures (that needs all requirements).
"""

import importlib
import os
import re

from absl import app, flags, logging
from ml_collections import config_flags

from rkd_jax.benchmark import clip
from rkd_jax.benchmark.report import Options
from rkd_jax.benchmark.run import DTYPES, PROGRAMS, run
from rkd_jax.machine.memory import return_memory_after_compiling
from rkd_jax.models.clip.model import PRESETS

_CLIP = flags.DEFINE_enum("clip", None, list(PRESETS), "Measure this image tower, not a config.")
_CONFIG = config_flags.DEFINE_config_file("config", lock_config=True)
_INPUT = flags.DEFINE_bool("input", False, "Measure the input pipeline of the config.")
_BATCH = flags.DEFINE_list("batch", ["1"], "Batch sizes of inference, as 1,2.")
_BOX_BATCH = flags.DEFINE_list("box_batch", [], "Of box steps; default: loss.images_per_group.box.")
_IMAGE_BATCH = flags.DEFINE_list("image_batch", [], "Of image steps; as for box steps.")
_CANVAS = flags.DEFINE_string(
  "canvas", "800x1344", "HEIGHTxWIDTH for inference and box steps; image steps have half of it."
)
_DTYPE = flags.DEFINE_enum("dtype", None, DTYPES, "Compute type; default: the config's.")
_PROGRAMS = flags.DEFINE_list(
  "programs", [], f"Some of {', '.join(PROGRAMS)}; default: what the config trains, and forms."
)
_CLASSES = flags.DEFINE_integer("classes", 0, "Vocabulary; default: LVIS' or COCO's, by the loss.")
_AGAINST = flags.DEFINE_enum("against", None, ["torch"], "Measure this too, in the same run.")
_OUTPUT = flags.DEFINE_string("output", "", "JSON file for all figures.")
_STEPS = flags.DEFINE_integer("steps", 20, "Timed calls per measurement, at most.")
_SECONDS = flags.DEFINE_float("seconds", 0.0, "And not longer than this; default: 60, CPU 10.")


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(
      f"Unexpected argument {argv[1]!r}; settings are given as --config.key=value."
    )
  if (_CONFIG.value is None) == (_CLIP.value is None):
    raise app.UsageError("Give either --config=FILE, a detector, or --clip=NAME, an image tower.")
  if _INPUT.value and _CONFIG.value is None:
    raise app.UsageError("--input is about the records and batches of a --config=FILE.")
  canvas = re.fullmatch(r"(\d+)x(\d+)", _CANVAS.value)
  if not canvas:
    raise app.UsageError(f"--canvas is {_CANVAS.value!r}; expected HEIGHTxWIDTH, as 800x1344.")
  batches = [_BATCH, _BOX_BATCH, _IMAGE_BATCH]
  for flag in batches:
    if not all(size.isdecimal() for size in flag.value):
      raise app.UsageError(f"--{flag.name} is {flag.value}; expected numbers, as 1,2.")
  inference_batches, box_batches, image_batches = (
    tuple(int(size) for size in flag.value) for flag in batches
  )
  if _AGAINST.value == "torch":
    # By default JAX takes most of a GPU's memory at once; torch needs some too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  logging.set_verbosity(logging.WARNING)
  return_memory_after_compiling()
  options = Options(
    canvas=(int(canvas[1]), int(canvas[2])),
    inference_batches=inference_batches,
    box_batches=box_batches,
    image_batches=image_batches,
    programs=tuple(_PROGRAMS.value),
    num_classes=_CLASSES.value,
    torch=_AGAINST.value == "torch",
    output=_OUTPUT.value,
    steps=_STEPS.value,
    seconds=_SECONDS.value,
  )
  try:
    if _CLIP.value is not None:
      clip.run(_CLIP.value, _DTYPE.value or "float32", options)
      return
    config = _CONFIG.value
    if _INPUT.value:
      # Imported only where it is asked for: it needs the data stack.
      importlib.import_module("rkd_jax.benchmark.inputs").run(config, options)
      return
    if _DTYPE.value:
      config.model.dtype = _DTYPE.value
    run(config, options)
  except ValueError as error:
    raise app.UsageError(str(error)) from error


if __name__ == "__main__":
  app.run(main)
