"""What a run's detector says about a split, computed once and kept in the run's folder.

`report.npz` there has the detections of some images, how far down its proposals each object is
found, embeddings of annotated regions, and the boxes of labels.  It belongs to a step, a config,
class embeddings and records (its `key`); for others it is made anew.  It has at most some 2.5 kB an
image.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tqdm
import xxhash
from absl import logging
from jaxtyping import Float, Int

from rkd_jax.evaluation.evaluate import detections_of
from rkd_jax.files import storage
from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.batching import eval_batches
from rkd_jax.inputs.plan import AnySource, detector_specs
from rkd_jax.ops.host import iou
from rkd_jax.records.sources import Record, Selection, Source, open_source
from rkd_jax.report.labels import LabelBoxes, label_boxes, open_labels
from rkd_jax.runs.checkpoint import latest_step, run_and_step
from rkd_jax.runs.config import restore_config
from rkd_jax.structures import Batch
from rkd_jax.vocabulary.vocabulary import load_vocabulary

FILE = "report.npz"
_VERSION = 2
# Images whose proposals and regions are looked at: they need passes of their own.
_PROPOSAL_IMAGES, _REGION_IMAGES, _REGIONS_PER_CLASS = 200, 400, 40
_MOST_CLASSES = 1_500  # of which there are regions at all
NEVER = 2**30  # the rank of an object that no proposal finds


@dataclass(frozen=True)
class Run:
  """A run that is reported on: its config, and what is there of the rest.

  `problem` says why there are no detections, where `source` or `step` is None.  `labelled` are the
  records of image batches, `no_labels` says why there are none.
  """

  name: str
  folder: str
  config: ml_collections.ConfigDict
  step: int | None
  source: Source | None
  problem: str = ""
  labelled: AnySource | None = None
  no_labels: str = ""

  @property
  def federated(self) -> bool:
    return self.config.evaluation.protocol == "lvis"

  @property
  def evaluated(self) -> tuple[str, ...]:
    """Names of the classes that are annotated in the split."""
    own = self.source
    return own.class_names if self.federated else (*own.base, *own.novel)


@dataclass(frozen=True)
class Examination:
  """Detections and so on of the first images of a split.

  Attributes:
    indices: of the records.
    found: detections of each: 'boxes' (XYXY pixels of the image), 'scores', 'classes'.
    ranks: of each object of the first images (crowds left out) the place of the first proposal that
      covers it at IoU 0.5, from 0 on, or `NEVER`; `rank_classes` are their classes.
    proposals: the most that the network makes of an image.
    embeddings: of annotated regions, in the order of `regions`: (index of the record, its object).
    rows: text embeddings of the classes.
    labels: boxes of the labels of some images, None where the run has no such images.
  """

  indices: Int[np.ndarray, "i"]
  found: list[dict[str, np.ndarray]]
  ranks: Int[np.ndarray, "o"]
  rank_classes: Int[np.ndarray, "o"]
  proposals: int
  embeddings: Float[np.ndarray, "r e"]
  regions: Int[np.ndarray, "r 2"]
  region_classes: Int[np.ndarray, "r"]
  rows: Float[np.ndarray, "c e"]
  labels: LabelBoxes | None = None


def open_run(
  folder: str | os.PathLike,
  name: str,
  data_dir: str | None = None,
  class_embeddings: str | None = None,
) -> Run:
  """The run of a folder; data and class embeddings are where its config says, or elsewhere.

  Raises:
    CheckpointError, ValueError: the folder is no run, or not one of a detector.
  """
  config = restore_config(folder).unlock()
  if config.task != "detector":
    raise ValueError(f"{folder} is a run of task {config.task!r}: expected one of a detector.")
  config.data.dir = data_dir or config.data.dir
  config.class_embeddings = class_embeddings or config.class_embeddings
  config.lock()
  run, step = run_and_step(folder)
  step = latest_step(run) if step is None else step
  if step is None:
    return Run(name, str(folder), config, None, None, f"{run} has no checkpoint.")
  try:
    source = open_source(config.data.dir, config.data.name, config.data.eval.split)
    load_vocabulary(config, source)
  except (ValueError, OSError) as error:
    return Run(name, str(folder), config, step, None, str(error))
  if not any(len(source[i].boxes) for i in range(len(source))[:50]):
    problem = f"The first images of {source.name} have no annotated boxes."
    return Run(name, str(folder), config, step, None, problem)
  try:
    return Run(name, str(folder), config, step, source, labelled=open_labels(config))
  except (ValueError, OSError) as error:
    return Run(name, str(folder), config, step, source, no_labels=str(error))


def examine(run: Run, limit: int) -> Examination:
  """What the detector says about the first `limit` images, kept from before or computed now.

  Raises:
    ValueError: see `evaluate.detections_of`.
  """
  file = Path(run_and_step(run.folder)[0]) / FILE
  key = _key(run, limit)
  kept = _read(file, key)
  if kept is None:
    kept = _compute(run, limit)
    try:
      with storage.writing(file) as partial, partial.open("wb") as out:
        np.savez_compressed(out, key=np.array(key), **_flat(kept))
    except OSError as error:
      logging.warning("What the report is made from could not be kept in %s: %s.", file, error)
  return kept


def _key(run: Run, limit: int) -> str:
  """What detections depend on, as JSON."""
  config = run.config.to_dict()
  parts = {name: config[name] for name in ("model",)} | {"eval": config["data"]["eval"]}
  if run.labelled is not None:
    parts["image"] = config["data"]["image"]
  text = json.dumps(parts, sort_keys=True, default=str)
  content = storage.path(run.config.class_embeddings).read_bytes()
  return json.dumps(
    {
      "version": _VERSION,
      "step": run.step,
      "config": xxhash.xxh3_64_hexdigest(text.encode()),
      "class_embeddings": xxhash.xxh3_64_hexdigest(content),
      "records": run.source.identity,
      "labelled": None if run.labelled is None else run.labelled.identity,
      "limit": min(limit, len(run.source)),
    },
    sort_keys=True,
  )


def _compute(run: Run, limit: int) -> Examination:
  config, source = run.config, run.source
  # The bars say the run.
  print(f"{run.name}: step {run.step} on {source.name}", flush=True)
  vocabulary, detector = load_vocabulary(config, source), Detector.restore(config, run.folder)
  first: Any = Selection(source, np.arange(min(limit, len(source))))
  detected = list(detections_of(detector, first, vocabulary, config))
  keys = ("boxes", "scores", "classes")
  ranks, proposals = _ranks(detector, first, config)
  embeddings, regions = _embeddings(detector, first, config, run.evaluated)
  return Examination(
    indices=np.array([index for index, _ in detected], np.int64),
    found=[{key: own[key] for key in keys} for _, own in detected],
    ranks=ranks[:, 0],
    rank_classes=ranks[:, 1],
    proposals=proposals,
    embeddings=embeddings,
    regions=regions[:, :2],
    region_classes=regions[:, 2],
    rows=np.asarray(vocabulary.embeddings, np.float32),
    labels=None if run.labelled is None else label_boxes(detector, run.labelled, config),
  )


def _batches(
  source: Any, config: ml_collections.ConfigDict, images: int, what: str
) -> Iterator[tuple[Batch, list[tuple[int, int]]]]:
  """Batches of the first images, each with (row, index of the record) of what is in it."""
  spec = detector_specs(config)["eval"]
  few = Selection(source, np.arange(min(images, len(source))))
  options = dict(threads=config.data.threads, skip_bad_images=config.skip_bad_images)
  batches = eval_batches(few, spec, **options)  # pyright: ignore[reportArgumentType]
  with tqdm.tqdm(total=len(few), desc=what, unit="img", mininterval=2) as bar:
    for number, batch in enumerate(batches):
      rows = np.flatnonzero(batch.valid).tolist()
      yield batch, [(row, number * spec.batch_size + row) for row in rows]
      bar.update(len(rows))


def _ranks(
  detector: Detector, source: Any, config: ml_collections.ConfigDict
) -> tuple[Int[np.ndarray, "o 2"], int]:
  """(rank, class) of the objects of the first images, and the most proposals of an image."""
  ranks, most = [np.zeros((0, 2), np.int64)], 0
  for batch, rows in _batches(source, config, _PROPOSAL_IMAGES, "proposals"):
    found = detector.propose(batch)
    most = found.boxes.shape[1]
    for row, index in rows:
      record: Record = source[index]
      counted = ~record.is_crowd
      hits = iou(record.boxes[counted], found.boxes[row][found.valid[row]]) >= 0.5
      first = np.where(hits.any(axis=1), hits.argmax(axis=1), NEVER) if hits.size else NEVER
      own = np.full(counted.sum(), first) if np.isscalar(first) else first
      ranks.append(np.stack([own, record.classes[counted]], axis=1))
  return np.concatenate(ranks), most


def _embeddings(
  detector: Detector, source: Any, config: ml_collections.ConfigDict, names: Sequence[str]
) -> tuple[Float[np.ndarray, "r e"], Int[np.ndarray, "r 3"]]:
  """Embeddings of annotated regions, some of each class, and (record, object, class) of each."""
  width = config.model.classifier.embedding_dim
  wanted = {i for i, name in enumerate(source.class_names) if name in set(names)}
  counts = dict.fromkeys(sorted(wanted)[:_MOST_CLASSES], 0)
  chosen: dict[int, list[int]] = {}
  for index in range(min(_REGION_IMAGES, len(source))):
    record = source[index]
    for place in np.flatnonzero(~record.is_crowd).tolist():
      number = int(record.classes[place])
      if counts.get(number, _REGIONS_PER_CLASS) < _REGIONS_PER_CLASS:
        counts[number] += 1
        chosen.setdefault(index, []).append(place)
  most = max(map(len, chosen.values()), default=0)
  embeddings, regions = [np.zeros((0, width), np.float16)], [np.zeros((0, 3), np.int64)]
  if not most:
    return embeddings[0], regions[0]
  for batch, rows in _batches(source, config, _REGION_IMAGES, "regions"):
    boxes = np.zeros((len(batch.valid), most, 4), np.float32)
    own = []
    for row, index in rows:
      places = chosen.get(index, [])
      scale = np.asarray(batch.sizes[row] / batch.original_sizes[row], np.float32)
      boxes[row, : len(places)] = source[index].boxes[places] * scale[[1, 0, 1, 0]]
      own += [(row, k, index, place) for k, place in enumerate(places)]
    if own:
      row, k, index, place = np.array(own).T
      found = detector.embed_regions(batch, boxes)[row, k]
      classes = [source[i].classes[p] for i, p in zip(index.tolist(), place.tolist())]
      embeddings.append(found.astype(np.float16))
      regions.append(np.stack([index, place, classes], axis=1))
  return np.concatenate(embeddings), np.concatenate(regions)


def _flat(own: Examination) -> dict[str, np.ndarray]:
  """Arrays only, which are read without unpickling."""
  apart = ("found", "labels")
  arrays = {
    f.name: np.asarray(getattr(own, f.name)) for f in dataclasses.fields(own) if f.name not in apart
  }
  if own.labels is not None:
    arrays |= {f"labels.{name}": array for name, array in vars(own.labels).items()}
  arrays["counts"] = np.array([len(found["scores"]) for found in own.found], np.int64)
  types = {"boxes": (np.float32, (0, 4)), "scores": (np.float32, 0), "classes": (np.int32, 0)}
  for name, (kind, empty) in types.items():
    columns = [found[name] for found in own.found]
    arrays[name] = np.concatenate([np.zeros(empty, kind), *columns]).astype(kind)
  return arrays


def _read(file: Path, key: str) -> Examination | None:
  """What is kept, if it belongs to the key."""
  try:
    with np.load(file, allow_pickle=False) as stored:
      if str(stored["key"]) != key:
        return None
      arrays = {name: stored[name] for name in stored.files if name != "key"}
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    logging.warning("%s is damaged (%s) and made anew.", file, error)
    return None
  ends, proposals = np.cumsum(arrays.pop("counts"))[:-1], int(arrays.pop("proposals"))
  columns = {name: np.split(arrays.pop(name), ends) for name in ("boxes", "scores", "classes")}
  found = [dict(zip(columns, own)) for own in zip(*columns.values())]
  of_labels = {name: arrays.pop(name) for name in list(arrays) if name.startswith("labels.")}
  labels = {name.removeprefix("labels."): array for name, array in of_labels.items()}
  return Examination(
    **arrays,
    found=found[: len(arrays["indices"])],
    proposals=proposals,
    labels=LabelBoxes(**labels) if labels else None,
  )
