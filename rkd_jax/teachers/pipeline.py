"""All images of a split through the teachers, and a report on what they said.

Images are decoded in worker processes while the accelerator computes; a proposer that needs no
accelerator, and the crops it asks for, are computed there, too.  One that needs it is called from
several threads for each local device and uses them all.  Queues between the parts are bounded, so
memory does not grow with the data set.

CLIP sees the crops of a fixed group of images in one fixed order, also when only some of them are
missing: a run that was killed and carried on, or that several processes share, gives the same
bytes.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8
from tqdm import tqdm

from rkd_jax.machine.workers import in_order
from rkd_jax.ops.host import iou
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import Source
from rkd_jax.teachers.images import Options, Prepared, decode, prepare, result
from rkd_jax.teachers.proposals import Answerer, Proposer, Recorded
from rkd_jax.teachers.recall import Recall

# Raised when a change to the code changes the results, so that no folder mixes the two.
CODE_VERSION = 2
# Images whose crops CLIP sees together.
GROUP = 64
# So many images, evenly spaced, are counted and compared in the report.
ASSESSED = 20_000
# Decoded images of any size that wait for the proposer.
_DECODED_AHEAD = 16
# Per device: while it computes one image, another is resized or the boxes of one are suppressed.
_DEVICE_THREADS = 2


class Encoder(Protocol):
  """A frozen CLIP image tower."""

  image_size: int

  def embed(self, crops: UInt8[np.ndarray, "n s s 3"]) -> Float32[np.ndarray, "n d"]:
    """Embeddings of square crops of `image_size`, not normalised; n varies, even 0."""
    ...


# Positions of images in their source, and what is known of them before CLIP.
Watch = Callable[[Sequence[int], Sequence[Prepared]], None]


def describe(
  proposer: Proposer, options: Options, clip_checksum: str, clip_activation: str
) -> dict[str, Any]:
  """Metadata of the results: all that decides them."""
  return {
    "code_version": CODE_VERSION,
    "clip_checksum": clip_checksum,
    "clip_activation": clip_activation,
    "proposer": proposer.describe(),
    **vars(options),
  }


def precompute(
  source: Source,
  proposer: Proposer,
  encoder: Encoder,
  class_embeddings: Float[np.ndarray, "c d"] | None,
  writer: TeacherWriter,
  options: Options,
  executor: Executor,
  skip_bad_images: bool = True,
  watch: Watch | None = None,
) -> None:
  """Runs the teachers over all images of a source that the writer does not hold yet.

  Of several processes, each takes its share of the groups.  An image that cannot be read gets an
  empty record and a note that says why, or without `skip_bad_images` is an error; a box that is
  empty or outside is dropped with a note.

  Args:
    source: records by position.
    proposer: pickled to the workers or called here, as it says (`Proposer.in_workers`).
    encoder: runs in this process, on the crops of several images at once.
    class_embeddings: CLIP text embeddings, one row for each of `source.class_names`; None will do
      where CLIP does not choose the pseudo boxes (`clip_chooses`).
    writer: results go here; marked complete at the end.
    options: what decides the results, beside the teachers.
    executor: where images are decoded, such as a `process_pool`.
    watch: is shown every group of images as soon as their boxes are known.

  Raises:
    ValueError: `class_embeddings` does not have a row for each class, the results that are there
      belong to another order of the images, the writer refuses, or see `check_read`.
  """
  if clip_chooses(proposer) and len(class_embeddings) != len(source.class_names):
    raise ValueError(
      f"{len(class_embeddings)} class embeddings for the {len(source.class_names)} classes of "
      "the data set: embed the source's class_names, in their order."
    )
  _check_order(source, writer)
  mine = groups(range(len(source)))[writer.process_index :: writer.process_count]
  missing = [group for group in mine if not all(i in writer.positions for i in group)]
  total, left = (sum(map(len, some)) for some in (mine, missing))
  with (
    writer,
    tqdm(total=total, initial=total - left, unit=" images") as bar,
    ThreadPoolExecutor(_DEVICE_THREADS * len(jax.local_devices())) as threads,
  ):
    records = (source[i] for group in missing for i in group)
    # What runs in workers reads no text; the names need not travel with every image.
    names = () if proposer.in_workers else source.class_names
    settings = (proposer, names, encoder.image_size, options)
    ahead = 2 * GROUP
    if proposer.in_workers:
      prepared = in_order(executor, prepare, ((r, *settings) for r in records), ahead)
    else:
      records, to_decode = itertools.tee(records)
      # Images come first, since one that raises is told of by their iterator alone.
      decoded = zip(in_order(executor, decode, zip(to_decode), _DECODED_AHEAD), records)
      tasks = ((record, *settings, image) for image, record in decoded)
      prepared = in_order(threads, prepare, tasks, ahead)
    for group in missing:
      images = [next(prepared) for _ in group]
      if not skip_bad_images:
        check_read(images)
      if watch is not None:
        watch(group, images)
      for found in to_write(images, group, encoder, class_embeddings, options):
        if found[0] not in writer:
          writer.write(*found)
      bar.update(len(group))


def check_read(images: Sequence[Prepared]) -> None:
  """Raises ValueError for the first image that could not be read."""
  for image in images:
    if "unreadable" in image.notes:
      raise ValueError(f"image {image.image_id}: {image.notes['unreadable']}")


def groups(positions: range) -> list[range]:
  """The positions in groups of `GROUP`; the last may be smaller."""
  return [positions[i : i + GROUP] for i in range(0, len(positions), GROUP)]


def to_write(
  images: Sequence[Prepared],
  positions: Sequence[int],
  encoder: Encoder,
  class_embeddings: Float[np.ndarray, "c d"] | None,
  options: Options,
) -> Iterator[tuple]:
  """Arguments of `TeacherWriter.write` for a group of images, whose crops are embedded together."""
  embeddings = encoder.embed(np.concatenate([image.crops for image in images]))
  ends = np.cumsum([len(image.crops) for image in images])[:-1]
  for position, image, rows in zip(positions, images, np.split(embeddings, ends)):
    record = result(image, rows, class_embeddings, options)
    yield image.image_id, record, position, image.notes, image.checksum


def clip_chooses(proposer: Proposer) -> bool:
  """Whether the pseudo boxes are CLIP's choice among the proposals, which needs text embeddings."""
  return not isinstance(proposer, Answerer | Recorded)


def _check_order(source: Source, writer: TeacherWriter) -> None:
  """Whether the first and the last image that are done are still where they were."""
  done = writer.positions
  for position in {min(done), max(done)} if done else ():
    found = source[position].image_id if position < len(source) else None
    if found != done[position]:
      raise ValueError(
        f"Image {done[position]} was record {position} when its results were made, now that is "
        f"image {found}: the data set was built anew; give another output folder."
      )


def assess(source: Source, results: TeacherReader) -> dict[str, Any]:
  """A report on the results of all images of a source; nothing is chosen by it.

  Returns:
    'images': number of them; 'assessed': how many are counted in what follows; 'regions',
    'pseudo_boxes': numbers of them; 'box_recall': part of the annotated boxes that a region
    overlaps at IoU 0.5; 'pseudo_box_precision': of the pseudo boxes in images with boxes of their
    class, the part that overlaps one, both None where there is nothing to compare;
    'unreadable': reason by image id, 'dropped_boxes': reasons by image id, both of all images.
  """
  regions, pseudo_boxes, recall, right = 0, 0, Recall(), []
  indices = range(0, len(source), max(-(-len(source) // ASSESSED), 1))
  for i in indices:
    record = source[i]
    stored = results[record.image_id]
    regions += len(stored["regions/boxes"])
    pseudo_boxes += len(stored["pseudo_boxes/boxes"])
    recall.add(record.boxes[~record.is_crowd], stored["regions/boxes"])
    for box, label in zip(stored["pseudo_boxes/boxes"], stored["pseudo_boxes/labels"]):
      same = record.boxes[record.classes == label]
      if len(same):
        right.append((iou(box[None], same) >= 0.5).any())
  notes = sorted(results.notes.items())
  return {
    "images": len(source),
    "assessed": len(indices),
    "regions": regions,
    "pseudo_boxes": pseudo_boxes,
    "box_recall": recall.part,
    "pseudo_box_precision": float(np.mean(right)) if right else None,
    **{
      key: {str(i): note[key] for i, note in notes if key in note}
      for key in ("unreadable", "dropped_boxes")
    },
  }
