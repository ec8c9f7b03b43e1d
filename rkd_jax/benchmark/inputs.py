"""Images per second that one core reads, decodes, resizes, pads and brings to the device.

`python -m rkd_jax.benchmark --input --config=...`: on the records of the config where they are
built, and otherwise on made-up JPEGs of the size of COCO's, in memory (then nothing
is read).  Every stage runs alone, in one thread, over the images of the same batches; "from record
to batch" is what training calls.  Stages take turns, so that a bad minute of the machine hits all
of them, and their medians are shown; a core's images per second come from the CPU time, which the
process needs however much of the machine others take.
"""

import dataclasses
import importlib
import io
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping

import jax
import ml_collections
import numpy as np
from PIL import Image

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import Budget, Figures, machine
from rkd_jax.benchmark.report import Options, Report
from rkd_jax.inputs import transforms
from rkd_jax.inputs.batching import train_batches
from rkd_jax.inputs.examples import EXAMPLE_OF_KIND, BatchSpec, collate, draw_view
from rkd_jax.inputs.plan import Plan, make_plan
from rkd_jax.inputs.sampler import Sampler
from rkd_jax.records import index as index_lib
from rkd_jax.records.sources import Record, Source, open_image

# Images per measurement, in whole batches.
_IMAGES = 64
_HEIGHT, _WIDTH, _QUALITY, _PICTURES = 480, 640, 90, 8

COLUMNS = (
  ("ms/image", "seconds_per_image", 1e3, ".2f"),
  ("CPU ms", "cpu_seconds_per_image", 1e3, ".2f"),
  ("images/s per core", "images_per_s", 1, ",.1f"),
  ("MiB", "bytes", 2**-20, ",.1f"),
)


class MadeUpSource(list):
  """Records in memory, of made-up pictures with what the config's batches need."""

  class_names = ("object",)
  base, novel = class_names, ()

  def __init__(self, config: ml_collections.ConfigDict, seed: int = 0):
    rng = np.random.default_rng(seed)
    embedding_dim = config.model.classifier.embedding_dim
    pictures = [photograph(rng) for _ in range(_PICTURES)]
    super().__init__(
      _record(i, pictures[i % _PICTURES], embedding_dim, rng) for i in range(_IMAGES)
    )
    self.index = index_lib.make((r.height, r.width, r.classes, 1, 1) for r in self)  # pyright: ignore[reportAttributeAccessIssue]


def photograph(rng: np.random.Generator) -> bytes:
  """A JPEG of smooth areas under noise, about as many bytes as COCO's have."""
  coarse = rng.integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), np.uint8)
  smooth = Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
  noisy = np.asarray(smooth) + rng.normal(0, 12, (_HEIGHT, _WIDTH, 1))
  file = io.BytesIO()
  Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=_QUALITY)
  return file.getvalue()


def _record(number: int, picture: bytes, dim: int, rng: np.random.Generator) -> Record:
  boxes = synthetic.random_boxes(rng, (synthetic.OBJECTS,), (_HEIGHT, _WIDTH))
  zeros = np.zeros(len(boxes), np.int32)
  return Record(
    image=picture,
    image_id=number,
    filename=f"{number}.jpg",
    height=_HEIGHT,
    width=_WIDTH,
    boxes=boxes,
    classes=zeros,
    is_crowd=zeros.astype(bool),
    areas=np.ones(len(boxes), np.float32),
    object_ids=np.arange(len(boxes)),
    labels=zeros[:1],
    captions=(),
    region_boxes=boxes[:5],
    region_embeddings=np.ones((5, dim), np.float32),
    region_scores=np.ones(5, np.float32),
    pseudo_boxes=boxes[:1],
    pseudo_labels=zeros[:1],
    pseudo_scores=np.ones(1, np.float32),
    polygons=tuple((corners,) for corners in synthetic.ellipses(boxes)),
  )


def run(config: ml_collections.ConfigDict, options: Options) -> list[dict]:
  """Prints the tables; the rows, as they are in the JSON.

  Raises:
    ValueError: the config is not of a detector, or its records cannot make a batch.
  """
  if config.task != "detector":
    raise ValueError(f"The config trains task {config.task!r}; the benchmark is of detectors.")
  plan, origin = _plan(config)
  specs, sampler = plan.specs, plan.sampler
  header = {
    "arguments": " ".join(sys.argv[1:]),
    "name": config.name,
    "records": origin,
    "machine": machine(),
  }
  hidden = {"config": json.loads(config.to_json_best_effort())}
  report = Report(header, options.output, hidden, COLUMNS)
  budget = options.budget()
  cycle = {}
  for kind in dict.fromkeys(config.data.schedule):
    steps = _steps(specs[kind], sampler, kind)
    spec = _spec(specs[kind], sampler, steps[0])
    canvas = "x".join(map(str, spec.canvas))
    report.section(f"{kind} batches of {spec.batch_size}, {canvas}, one thread")
    stages, size = _stages(plan, steps)
    missing = ""
    if options.torch:
      try:
        stages |= _against_torch(plan, steps)
      except (ImportError, RuntimeError) as error:
        missing = f"torch is not measured: {type(error).__name__}: {error}".splitlines()[0]
    figures = _in_turn(stages, len(steps) * spec.batch_size, budget)
    figures["transfer to device"]["bytes"] = size
    for name, own in figures.items():
      report.row(name, own)
    if missing:
      report.note(missing)
    cycle[kind] = figures["from record to batch"]["cpu_seconds_per_image"] * spec.batch_size
  report.section("the whole schedule")
  seconds = sum(cycle[kind] for kind in config.data.schedule)
  images = sum(specs[kind].batch_size for kind in config.data.schedule)
  report.row("one core", {"images_per_s": images / seconds})
  report.row("16 cores, if they scaled", {"images_per_s": 16 * images / seconds})
  return report.rows


def _plan(config: ml_collections.ConfigDict) -> tuple[Plan, str]:
  """The plan of the config's records, or of made-up ones, and which."""
  try:
    return make_plan(config), f"{config.data.name} in {config.data.dir}"
  except ValueError as error:
    source = MadeUpSource(config)
    size = np.mean([len(record.image) for record in source[:_PICTURES]]) / 1e3
    origin = (
      f"made up, {_WIDTH}x{_HEIGHT} JPEG of quality {_QUALITY} in memory, {size:.0f} kB each "
      f"({str(error).partition(';')[0]})"
    )
    return make_plan(config, dict.fromkeys(config.data.schedule, source)), origin


def _spec(spec: BatchSpec, sampler: Sampler, step: int) -> BatchSpec:
  return spec.for_batch(sampler.stands(step), sampler.rng(step))


def _steps(spec: BatchSpec, sampler: Sampler, kind: str) -> list[int]:
  """Steps of a kind with `_IMAGES` images, on the canvas of the first."""
  first = sampler.schedule.index(kind)
  canvas = _spec(spec, sampler, first).canvas
  alike = (
    step
    for step in itertools.count(first)
    if sampler.kind(step) == kind and _spec(spec, sampler, step).canvas == canvas
  )
  return list(itertools.islice(alike, max(1, _IMAGES // spec.batch_size)))


def _stages(plan: Plan, steps: list[int]) -> tuple[dict[str, Callable], float]:
  """What each stage does with all images of the steps, and the bytes of an image in a batch."""
  specs, sampler = plan.specs, plan.sampler
  kind = sampler.kind(steps[0])
  source = plan.sources[kind]
  # (step, row, record number) of every image.
  places = [(s, row, int(i)) for s in steps for row, i in enumerate(sampler.indices(s))]
  records = [source[index] for *_, index in places]
  pictures = [open_image(record) for record in records]
  spec = _spec(specs[kind], sampler, steps[0])
  views = [
    draw_view(r, spec, sampler.rng(s, row)) for r, (s, row, _) in zip(records, places, strict=True)
  ]
  resized = [transforms.resize(p, view.size) for p, view in zip(pictures, views, strict=True)]

  def make_batches():
    """All of them, and the last: no two are in memory at once, as in `whole`."""
    todo = zip(records, resized, places, strict=True)
    for _ in steps:
      images = np.zeros((spec.batch_size, *spec.canvas, 3), np.uint8)
      rows = [
        EXAMPLE_OF_KIND[kind](record, picture, spec, sampler.rng(s, row), images[row])
        for record, picture, (s, row, _) in itertools.islice(todo, spec.batch_size)
      ]
      batch = collate(rows, images)
    return batch

  last = make_batches()

  def transfer():
    for _ in steps:
      jax.block_until_ready(jax.device_put(last))

  def whole():
    for step in steps:
      next(train_batches(plan, step, step + 1, threads=0))

  stages = {
    "read": lambda: [source[index] for *_, index in places],
    "decode": lambda: [open_image(record) for record in records],
    "resize": lambda: [
      transforms.resize(p, view.size) for p, view in zip(pictures, views, strict=True)
    ],
    "flip, boxes, pad, stack": make_batches,
    "from record to batch": whole,
    "transfer to device": transfer,
  }
  if isinstance(source, MadeUpSource):
    del stages["read"]
  return stages, sum(leaf.nbytes for leaf in jax.tree.leaves(last)) / spec.batch_size


def _in_turn(stages: Mapping[str, Callable], images: int, budget: Budget) -> dict[str, Figures]:
  """Medians over rounds of all stages; a round that begins in time is finished."""
  walls, cpus = ({name: [] for name in stages} for _ in range(2))
  deadline = time.perf_counter() + budget.seconds * len(stages)
  for _ in range(budget.steps):
    for name, stage in stages.items():
      cpu, wall = time.process_time(), time.perf_counter()
      stage()
      walls[name].append((time.perf_counter() - wall) / images)
      cpus[name].append((time.process_time() - cpu) / images)
    if time.perf_counter() > deadline:
      break
  return {
    name: {
      "seconds_per_image": statistics.median(walls[name]),
      "cpu_seconds_per_image": statistics.median(cpus[name]),
      "images_per_s": 1 / statistics.median(cpus[name]),
      "runs": len(walls[name]),
    }
    for name in stages
  }


class _InMemory:
  """Some records of a source, read beforehand."""

  def __init__(self, source: Source, used: Iterable[int]):
    self._length, self.index = len(source), source.index
    self._records = {index: source[index] for index in used}

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> Record:
    return self._records[index]


def _against_torch(plan: Plan, steps: list[int]) -> dict[str, Callable]:
  """Both sides from records in memory: the cost of reading is the format's, not the loader's.

  Raises:
    ImportError, RuntimeError: there is no torch, or it cannot be loaded.
  """
  # Optional, and heavy: imported only where it is asked for.
  torch_inputs = importlib.import_module("rkd_jax.benchmark.torch.inputs")
  sampler = plan.sampler
  kind = sampler.kind(steps[0])
  places = [(s, row, int(i)) for s in steps for row, i in enumerate(sampler.indices(s))]
  memory = _InMemory(plan.sources[kind], {index for *_, index in places})
  spec = _spec(plan.specs[kind], sampler, steps[0])
  views = [draw_view(memory[i], spec, sampler.rng(s, row)) for s, row, i in places]
  loader = torch_inputs.loader([memory[i] for *_, i in places], views, spec)

  ready = dataclasses.replace(plan, sources={**plan.sources, kind: memory})

  def ours():
    for step in steps:
      next(train_batches(ready, step, step + 1, threads=0))

  return {"ours, from memory to batch": ours, "torch, from memory to batch": lambda: list(loader)}
