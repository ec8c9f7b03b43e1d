"""The offline step: what the frozen teachers say about every image, computed once.

  python -m rkd_jax.precompute --data_dir=DIR --dataset=shapes_ovd/scenes \\
    --splits=train_boxes,train_images,tune --clip=DIR_OF_A_CLIP_RUN --output=DIR

For each image a class-agnostic proposer yields boxes.  The best few become the regions of RKD
(arXiv 2207.03482, section 3.2) with their CLIP embeddings, not normalised.  Each image-level
label gets the proposal that CLIP likes best for it, its pseudo box for ILS (section 3.3).

Proposals and crops are made in worker processes while CLIP encodes.  A run may be killed at any
moment: started again with the same settings it carries on behind the shards that are complete.
An image that cannot be read gets an empty record and is listed, with the reason, in the split's
report.json, next to the agreement with annotated boxes.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from tqdm import tqdm

from rkd_jax.clip.regions import crop_regions
from rkd_jax.inputs.sources import Record, Source, decode_image, open_source
from rkd_jax.inputs.teachers import TeacherReader, TeacherWriter
from rkd_jax.proposals import Proposer, RegionGrowing, iou, recalled

# Raised when a change to the code changes the results, so that no folder mixes the two.
CODE_VERSION = 1


class Encoder(Protocol):
  """A frozen CLIP image tower."""

  @property
  def image_size(self) -> int: ...

  def embed(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, "n d"]:
    """Embeddings of square crops of `image_size`, not normalised; n varies, even 0."""


@dataclasses.dataclass(frozen=True)
class Options:
  """What decides the results.

  Attributes:
    regions: K, the proposals per image that are kept for RKD.
    pseudo_box_proposals: the proposals that compete for each label.
    pseudo_box_threshold: labels whose best score is below get no box; 0 keeps all.
    logit_scale: CLIP similarities are multiplied by it before the softmax over the class names.
    objectness_power: how much the proposal's own score counts in a pseudo box's score.
    context: crops are widened by this fraction on every side.
    crop_mode: see `crop_regions`.
  """

  regions: int = 5
  pseudo_box_proposals: int = 15
  pseudo_box_threshold: float = 0.0
  logit_scale: float = 50.0
  objectness_power: float = 0.5
  context: float = 0.12
  crop_mode: str = "square"

  def __post_init__(self):
    if self.regions < 1 or self.pseudo_box_proposals < 1:
      raise ValueError(
        f"regions={self.regions} and pseudo_box_proposals={self.pseudo_box_proposals}: "
        "each must be at least 1"
      )
    # Found by `crop_regions` only, a typing error would look like unreadable images.
    if self.crop_mode not in ("square", "clip"):
      raise ValueError(f"crop_mode is {self.crop_mode!r}; use 'square' or 'clip'")


class _Prepared(NamedTuple):
  """An image on its way to the encoder; `problem` says why it could not be read."""

  image_id: int
  labels: Int[np.ndarray, "l"]
  boxes: Float[np.ndarray, "k 4"]
  scores: Float[np.ndarray, "k"]
  crops: UInt8[np.ndarray, "k s s 3"]
  problem: str | None = None


def process_pool(workers: int | None = None) -> ProcessPoolExecutor:
  """Workers for `precompute`, by default one per CPU; never forked, since JAX has threads."""
  return ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn"))


def precompute(
  source: Source,
  proposer: Proposer,
  encoder: Encoder,
  class_embeddings: Float[np.ndarray, "c d"],
  writer: TeacherWriter,
  options: Options = Options(),
  executor: Executor | None = None,
  images_per_batch: int = 64,
) -> None:
  """Runs the teachers over all images of a source that the writer does not hold yet.

  An image that cannot be read gets an empty record; `assess` tells which and why.

  Args:
    source: records by position.
    proposer: pickled to the workers, unless `executor` is one of threads.
    encoder: CLIP's image tower; runs in this process, on the crops of several images at once.
    class_embeddings: CLIP text embeddings, one row for each of `source.class_names`.
    writer: results go here; marked complete at the end.
    options: what decides the results.
    executor: where proposals are made, to be used for several splits; by default a
      `process_pool` of this call's own.
    images_per_batch: images whose crops go to the encoder in one call.

  Raises:
    ValueError: `class_embeddings` does not have a row for each class, or the writer refuses.
  """
  if len(class_embeddings) != len(source.class_names):
    raise ValueError(
      f"{len(class_embeddings)} class embeddings for the {len(source.class_names)} classes of "
      "the data set: embed the source's class_names, in their order."
    )
  with writer, contextlib.ExitStack() as stack:
    if executor is None:
      executor = process_pool()
      stack.callback(executor.shutdown, cancel_futures=True)
    bar = stack.enter_context(tqdm(total=len(source), initial=len(writer), unit=" images"))
    records = (source[i] for i in range(len(source)))
    prepared = _in_order(
      executor,
      ((r, proposer, encoder.image_size, options) for r in records if r.image_id not in writer),
      ahead=2 * images_per_batch,
    )
    while group := list(itertools.islice(prepared, images_per_batch)):
      crops = np.concatenate([image.crops for image in group])
      ends = np.cumsum([len(image.crops) for image in group])[:-1]
      for image, embeddings in zip(group, np.split(encoder.embed(crops), ends)):
        writer.write(image.image_id, _results(image, embeddings, class_embeddings, options))
      bar.update(len(group))


def _in_order(executor: Executor, tasks: Iterable[tuple], ahead: int) -> Iterator[_Prepared]:
  """`_prepare` of each task, in their order, with at most `ahead` of them under way."""
  waiting = deque()
  for task in tasks:
    waiting.append(executor.submit(_prepare, *task))
    if len(waiting) >= ahead:
      yield waiting.popleft().result()
  while waiting:
    yield waiting.popleft().result()


def _prepare(record: Record, proposer: Proposer, size: int, options: Options) -> _Prepared:
  """Proposals of one image and their crops: the work of a worker process."""
  try:
    image = decode_image(record)
    [(boxes, scores)] = proposer.propose(image[None])
    # Without labels there is no pseudo box to choose.
    count = options.regions
    if len(record.labels):
      count = max(count, options.pseudo_box_proposals)
    boxes, scores = boxes[:count], scores[:count]
    crops = crop_regions(image, boxes, size, options.context, options.crop_mode)
    problem = None
  except ValueError as error:
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    crops = np.zeros((0, size, size, 3), np.uint8)
    problem = str(error)
  return _Prepared(record.image_id, record.labels, boxes, scores, crops, problem)


def _results(
  image: _Prepared,
  embeddings: Float[np.ndarray, "k d"],
  class_embeddings: Float[np.ndarray, "c d"],
  options: Options,
) -> dict[str, np.ndarray]:
  """The teacher record of one image; see `rkd_jax.inputs.teachers.FIELDS`."""
  kept = slice(options.regions)
  if len(image.boxes):
    competing = slice(options.pseudo_box_proposals)
    chosen, labels, scores = choose_pseudo_boxes(
      embeddings[competing], image.scores[competing], image.labels, class_embeddings, options
    )
  else:
    chosen = labels = np.zeros(0, np.int64)
    scores = np.zeros(0, np.float32)
  return {
    "regions/boxes": image.boxes[kept],
    "regions/scores": image.scores[kept],
    "regions/clip_embeddings": embeddings[kept],
    "pseudo_boxes/boxes": image.boxes[chosen],
    "pseudo_boxes/labels": labels,
    "pseudo_boxes/scores": scores,
  }


def choose_pseudo_boxes(
  embeddings: Float[np.ndarray, "k d"],
  objectness: Float[np.ndarray, "k"],
  labels: Int[np.ndarray, "l"],
  class_embeddings: Float[np.ndarray, "c d"],
  options: Options,
) -> tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"], Float[np.ndarray, "p"]]:
  """For each label the proposal that is most likely of its class.

  CLIP's probability is taken over all class names, so that a proposal that resembles everything a
  little, as background does, loses to one that resembles the label alone; it is multiplied by
  objectness ** objectness_power.

  Returns:
    Index of the chosen proposal, label and score in [0, 1], for each label that reaches the
    threshold, in the order of `labels`.
  """
  similarities = _unit(embeddings) @ _unit(class_embeddings).T
  likelihood = np.exp(options.logit_scale * (similarities - similarities.max(1, keepdims=True)))
  probabilities = likelihood / likelihood.sum(1, keepdims=True)
  scores = probabilities[:, labels] * objectness[:, None] ** options.objectness_power
  chosen, best = scores.argmax(0), scores.max(0)
  kept = best >= options.pseudo_box_threshold
  return chosen[kept], labels[kept].astype(np.int64), best[kept].astype(np.float32)


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
  rows = np.asarray(rows, np.float64)
  return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def describe(proposer: Proposer, options: Options, clip_checksum: str) -> dict[str, Any]:
  """Metadata of the results: all that decides them; `proposer` is a dataclass."""
  return {
    "code_version": CODE_VERSION,
    "clip_checksum": clip_checksum,
    "proposer": {"name": type(proposer).__name__, **dataclasses.asdict(proposer)},
    **dataclasses.asdict(options),
  }


def checksum(variables: Any) -> str:
  """A digest of a tree of arrays: paths, shapes and values."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
    array = np.asarray(leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def assess(
  source: Source, results: TeacherReader, proposer: Proposer, options: Options
) -> dict[str, Any]:
  """What became of every image, and how well that agrees with the annotated boxes there are.

  For reading only: nothing is chosen by it.  `proposer` and `options` are those of the results.

  Returns:
    'images', 'regions', 'pseudo_boxes': numbers of them; 'unreadable': reason by image id;
    'box_recall': part of the annotated boxes that a region overlaps at IoU 0.5;
    'pseudo_box_precision': of the pseudo boxes in images with boxes of their class, the part that
    overlaps one.  The last two are None where there is nothing to compare.
  """
  proposed, truth, right, unreadable = [], [], [], {}
  pseudo_boxes = 0
  for i in range(len(source)):
    record = source[i]
    result = results[record.image_id]
    if not len(result["regions/boxes"]):
      # The reasons are found again rather than stored, so that killed runs cannot lose any.
      problem = _prepare(record, proposer, 1, options).problem
      if problem is not None:
        unreadable[str(record.image_id)] = problem
    pseudo_boxes += len(result["pseudo_boxes/boxes"])
    proposed.append(result["regions/boxes"])
    truth.append(record.boxes[~record.is_crowd])
    for box, label in zip(result["pseudo_boxes/boxes"], result["pseudo_boxes/labels"]):
      same = record.boxes[record.classes == label]
      if len(same):
        right.append(bool((iou(box[None], same) >= 0.5).any()))
  found = recalled(proposed, truth)
  return {
    "images": len(source),
    "regions": sum(len(boxes) for boxes in proposed),
    "pseudo_boxes": pseudo_boxes,
    "unreadable": unreadable,
    "box_recall": float(found.mean()) if len(found) else None,
    "pseudo_box_precision": float(np.mean(right)) if right else None,
  }


def main():
  """Command line of the module's docstring."""
  # Here and not above, since worker processes import this module and need no checkpoints.
  from rkd_jax.clip.load import load_clip

  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--data_dir", required=True, help="root folder of built data sets")
  parser.add_argument("--dataset", required=True, help="such as shapes_ovd/scenes")
  parser.add_argument("--splits", required=True, help="separated by commas")
  parser.add_argument("--clip", required=True, help="workdir of a CLIP run")
  parser.add_argument("--output", required=True, help="folder for the results")
  parser.add_argument("--batch_size", type=int, default=64, help="crops per call of CLIP")
  parser.add_argument("--workers", type=int, help="processes, by default one per CPU")
  for field in dataclasses.fields(Options):
    parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
  args = parser.parse_args()
  options = Options(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Options)})
  try:
    sources = {
      split: open_source(args.data_dir, args.dataset, split) for split in args.splits.split(",")
    }
    clip = load_clip(args.clip)
    proposer = RegionGrowing()
    metadata = describe(proposer, options, checksum(clip.variables))
    with process_pool(args.workers) as executor:
      for split, source in sources.items():
        precompute(
          source,
          proposer,
          clip.region_encoder(args.batch_size),
          clip.embed_classes(list(source.class_names)),
          TeacherWriter(args.output, split, clip.embedding_dim, metadata),
          options,
          executor,
        )
        results = TeacherReader(args.output, split)
        report = json.dumps(assess(source, results, proposer, options), indent=1)
        (Path(args.output) / split / "report.json").write_text(report + "\n")
        print(f"{split}: {report}")
  except ValueError as error:
    parser.exit(1, f"{error}\n")


if __name__ == "__main__":
  main()
