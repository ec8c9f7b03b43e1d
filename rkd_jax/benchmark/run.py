"""What is measured of a config, in which order."""

import json

import ml_collections

from rkd_jax.benchmark import forms
from rkd_jax.benchmark.detector import DetectorBenchmark
from rkd_jax.benchmark.report import Bench, Options
from rkd_jax.benchmark.torch import compare as against_torch

PROGRAMS = ("inference", "box", "image", "forms")
DTYPES = ("float32", "bfloat16")


def run(config: ml_collections.ConfigDict, options: Options) -> list[dict]:
  """Prints the tables; the rows, as they are in the JSON.

  Raises:
    ValueError: the config is not of a detector, or an option is not understood.
  """
  _check(config, options)
  programs = options.programs or ("inference", *dict.fromkeys(config.data.schedule), "forms")
  groups = config.loss.images_per_group
  box_batches = options.box_batches or (groups.box,)
  image_batches = options.image_batches or (groups.image,)
  bench = Bench(
    config.name, config.model.dtype, options, {"config": json.loads(config.to_json_best_effort())}
  )
  detector = DetectorBenchmark(config, bench, options.num_classes)
  if "inference" in programs:
    for size in options.inference_batches:
      detector.inference(size, options.canvas)
  half = tuple(side // 2 for side in options.canvas)
  for kind, sizes, canvas in (("box", box_batches, options.canvas), ("image", image_batches, half)):
    for size in sizes if kind in programs else ():
      detector.step(kind, size, canvas)
  if "forms" in programs:
    forms.compare(config, bench, options.inference_batches[0], options.canvas)
  if options.torch:
    batches = options.inference_batches[0], box_batches[0]
    against_torch.compare(config, bench, *batches, options.canvas)
  return bench.rows


def _check(config: ml_collections.ConfigDict, options: Options) -> None:
  if config.task != "detector":
    raise ValueError(f"The config trains task {config.task!r}; the benchmark is of detectors.")
  if config.model.dtype not in DTYPES:
    raise ValueError(f"dtype is {config.model.dtype!r}; expected one of {', '.join(DTYPES)}.")
  unknown = set(options.programs) - set(PROGRAMS)
  if unknown:
    raise ValueError(
      f"programs: {', '.join(sorted(unknown))} unknown; known: {', '.join(PROGRAMS)}."
    )
  sizes = (*options.inference_batches, *options.box_batches, *options.image_batches)
  if not options.inference_batches or min(sizes) < 1 or options.steps < 1:
    raise ValueError("Batch sizes and steps are at least 1; give at least one inference batch.")
  # An image step has half the canvas, and an FPN's coarsest map a stride of 64.
  if len(options.canvas) != 2 or min(options.canvas) < 64:
    raise ValueError(f"canvas is {options.canvas}; expected HEIGHTxWIDTH, at least 64x64.")
