"""Images per second that one core reads, decodes, resizes, pads and brings to the device.

`python -m rkd_jax.benchmark --input --config=...`: on the records of the config where they are
built, and otherwise on made-up JPEGs of the size of COCO's, in memory (then nothing
is read).  Every stage runs alone, in one thread, over the images of the same batches; "from record
to batch" is what training calls.  Stages take turns, so that a bad minute of the machine hits all
of them, and their medians are shown; a core's images per second come from the CPU time, which the
process needs however much of the machine others take.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image, ImageOps

from rkd_jax.benchmark import synthetic
from rkd_jax.benchmark.measure import Budget, Figures
from rkd_jax.benchmark.report import Options, Report
from rkd_jax.inputs import transforms
from rkd_jax.inputs.batching import train_batches
from rkd_jax.inputs.examples import EXAMPLE_OF_KIND, BatchSpec, collate
from rkd_jax.inputs.plan import AnySource, Plan, make_plan
from rkd_jax.records import index as index_lib
from rkd_jax.records.decoding import BadImageError
from rkd_jax.records.sources import Record, open_image

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

  def __init__(self, config: ml_collections.ConfigDict):
    rng, dim = np.random.default_rng(0), config.model.classifier.embedding_dim
    pictures = [photograph(rng) for _ in range(_PICTURES)]
    super().__init__(_record(i, pictures[i % _PICTURES], dim, rng) for i in range(_IMAGES))
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
  report = Report(config.name, options, config, COLUMNS, records=origin)
  cycle = {}
  for kind in dict.fromkeys(plan.schedule):
    batches = _Batches(plan, kind, config.skip_bad_images)
    count, canvas = batches.spec.batch_size, "x".join(map(str, batches.spec.canvas))
    report.section(f"{kind} batches of {count}, {canvas}, one thread")
    stages = batches.stages()
    if options.torch:
      stages |= report.attempt("torch", batches.against_torch) or {}
    figures = _in_turn(stages, len(batches.places), options)
    figures["transfer to device"]["bytes"] = batches.bytes_per_image
    for name, own in figures.items():
      report.row(name, own)
    cycle[kind] = figures["from record to batch"]["cpu_seconds_per_image"] * count
  report.section("the whole schedule")
  images = sum(plan.specs[kind].batch_size for kind in plan.schedule)
  rate = images / sum(cycle[kind] for kind in plan.schedule)
  report.row("one core", {"images_per_s": rate})
  report.row("16 cores, if they scaled", {"images_per_s": 16 * rate})
  return report.rows


def _plan(config: ml_collections.ConfigDict) -> tuple[Plan, str]:
  """The plan of the config's records, or of made-up ones, and which."""
  try:
    return make_plan(config), f"{config.data.name} in {config.data.dir}"
  except ValueError as error:
    source = MadeUpSource(config)
    size = np.mean([len(record.image) for record in source[:_PICTURES]]) / 1e3
    origin = f"made up, {_WIDTH}x{_HEIGHT} JPEG of quality {_QUALITY} in memory, {size:.0f} kB each"
    plan = make_plan(config, dict.fromkeys(config.data.schedule, source))
    return plan, f"{origin} ({str(error).partition(';')[0]})"


class _Batches:
  """The batches of a kind, `_IMAGES` images on the canvas of the first, with what they are made of.

  `places` are (step, row, record number) of every image.  A bad image gives way as in training,
  if it may be skipped.
  """

  def __init__(self, plan: Plan, kind: str, skip_bad_images: bool = False):
    self._plan, self._kind, sampler = plan, kind, plan.sampler
    self._skip = skip_bad_images

    def spec(step: int) -> BatchSpec:
      return plan.specs[kind].for_batch(sampler.stands(step), sampler.rng(step))

    first = sampler.schedule.index(kind)
    self.spec = spec(first)
    alike = (
      step
      for step in itertools.count(first)
      if sampler.kind(step) == kind and spec(step).canvas == self.spec.canvas
    )
    self.steps = list(itertools.islice(alike, max(1, _IMAGES // self.spec.batch_size)))
    self._source = plan.sources[kind]
    standing = sampler.standing.get(kind)
    self.places = [
      (step, row, _good(self._source, int(index), standing) if self._skip else int(index))
      for step in self.steps
      for row, index in enumerate(sampler.indices(step))
    ]
    self._records = [self._source[index] for *_, index in self.places]
    sizes = [(record.height, record.width) for record in self._records]
    rngs = [sampler.rng(step, row) for step, row, _ in self.places]
    self._views = [self.spec.view(size, rng) for size, rng in zip(sizes, rngs)]

  def stages(self) -> dict[str, Callable]:
    """What each stage does with all images."""
    records, spec, rng = self._records, self.spec, self._plan.sampler.rng
    pictures = [open_image(record) for record in records]
    sizes = [view.size for view in self._views]
    resized = [*map(transforms.resize, pictures, sizes)]

    def make_batches():
      """All of them, and the last: no two are in memory at once, as in `whole`."""
      todo = zip(records, resized, self.places, strict=True)
      for _ in self.steps:
        images = np.zeros((spec.batch_size, *spec.canvas, 3), np.uint8)
        rows = [
          EXAMPLE_OF_KIND[self._kind](record, picture, spec, rng(step, row), images[row])
          for record, picture, (step, row, _) in itertools.islice(todo, spec.batch_size)
        ]
        batch = collate(rows, images)
      return batch

    last = make_batches()
    self.bytes_per_image = sum(leaf.nbytes for leaf in jax.tree.leaves(last)) / spec.batch_size

    def transfer():
      for _ in self.steps:
        jax.block_until_ready(jax.device_put(last))

    read = {"read": lambda: [self._source[index] for *_, index in self.places]}
    return ({} if isinstance(self._source, MadeUpSource) else read) | {
      "decode": lambda: [open_image(record) for record in records],
      "resize": lambda: [*map(transforms.resize, pictures, sizes)],
      "flip, boxes, pad, stack": make_batches,
      "from record to batch": lambda: self._train(self._plan),
      "transfer to device": transfer,
    }

  def against_torch(self) -> dict[str, Callable]:
    """Both sides from records in memory: the cost of reading is the format's, not the loader's."""
    loader = torch_loader(self._records, self._views, self.spec)
    sources = {**self._plan.sources, self._kind: _InMemory(self._source)}
    plan = dataclasses.replace(self._plan, sources=sources)
    self._train(plan)
    return {
      "ours, from memory to batch": lambda: self._train(plan),
      "torch, from memory to batch": lambda: list(loader),
    }

  def _train(self, plan: Plan) -> None:
    for step in self.steps:
      next(train_batches(plan, step, step + 1, threads=0, skip_bad_images=self._skip))


def _good(source: AnySource, index: int, standing: np.ndarray | None) -> int:
  """The record, or the next one of its orientation whose image can be decoded."""
  for other in itertools.chain(range(index, len(source)), range(index)):
    if standing is None or standing[other] == standing[index]:
      with contextlib.suppress(BadImageError):
        open_image(source[other])
        return other
  raise ValueError(f"None of the {len(source)} images can be decoded: build the data set again.")


class _InMemory:
  """A source whose records are read once."""

  def __init__(self, source: AnySource):
    self._source, self.index = source, source.index
    self._read = functools.cache(source.__getitem__)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    return self._read(index)


def torch_loader(
  records: Sequence[Record], views: Sequence[transforms.View], spec: BatchSpec
) -> Any:
  """A DataLoader of padded images [b, h, w, 3] and the boxes of each, in the order of the records.

  Without workers it does the same PIL work: decoding, resizing to the same sizes, mirroring the
  same images, and padding to one uint8 tensor.  Boxes go along; regions and polygons do not.
  """
  # Optional, and heavy: imported only where it is asked for.
  import torch
  from torch.utils.data import DataLoader

  torch.set_num_threads(1)

  def load(record: Record, view: transforms.View):
    with Image.open(io.BytesIO(record.image)) as file:
      image = ImageOps.exif_transpose(file).convert("RGB")
    height, width = view.size
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    scale = torch.tensor([width / record.width, height / record.height] * 2)
    boxes = torch.from_numpy(record.boxes) * scale
    if view.flip:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
      boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    return torch.from_numpy(np.array(image)), boxes

  def pad(rows):
    images = torch.zeros((len(rows), *spec.canvas, 3), dtype=torch.uint8)
    loaded = [load(*row) for row in rows]
    for target, (image, _) in zip(images, loaded, strict=True):
      target[: image.shape[0], : image.shape[1]] = image
    return images, [boxes for _, boxes in loaded]

  pairs = list(zip(records, views, strict=True))
  return DataLoader(pairs, batch_size=spec.batch_size, collate_fn=pad)  # pyright: ignore


def _in_turn(stages: Mapping[str, Callable], images: int, budget: Budget) -> dict[str, Figures]:
  """Medians over rounds of all stages; a round that begins in time is finished."""
  taken = {name: [] for name in stages}
  deadline = time.perf_counter() + budget.seconds * len(stages)
  for _ in range(budget.steps):
    for name, stage in stages.items():
      before = np.array([time.perf_counter(), time.process_time()])
      stage()
      taken[name].append([time.perf_counter(), time.process_time()] - before)
    if time.perf_counter() > deadline:
      break
  figures = {}
  for name, own in taken.items():
    wall, cpu = (float(x) for x in np.median(own, axis=0) / images)
    figures[name] = {"seconds_per_image": wall, "cpu_seconds_per_image": cpu}
    figures[name] |= {"images_per_s": 1 / cpu, "runs": len(own)}
  return figures
