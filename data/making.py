"""Entries of annotation files to records, in their order, by one process or several.

An entry is one image, not read yet, and what the files say of it.  Entries are small and can be
pickled, and so can the `RecordMaker` that turns them into bytes: the same two are used in this
process, in worker processes and on Beam (`data/beam.py`), and give the same bytes.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tqdm import tqdm

from rkd_jax.machine.workers import in_order, process_pool
from rkd_jax.records import decoding, schema
from rkd_jax.records.results import MissingResultsError, TeacherReader

# Starting worker processes takes as long as making some hundred records.
WORTH_A_POOL = 1000
# Records of each worker that may wait for those before them.
_AHEAD = 4


class Entry(Protocol):
  """One image of a split."""

  def load(self) -> dict[str, Any]:
    """Reads and decodes the image; the arguments of `schema.encode_record` that files decide.

    Raises:
      BadImageError: it cannot be decoded.
      ValueError: it is missing, or not what the files say.
    """


class Split(Protocol):
  """One split, its files read and checked; the images have not been looked at.

  Attributes:
    source: the file or folder that it comes from, for messages.
    class_names: in the order of their numbers.
    has_polygons: whether any object has one.
    federated: whether LVIS' negative and not exhaustive classes of each image are stored.
    skip_bad_images: leave out images that cannot be decoded, with a counted warning.
  """

  source: str
  class_names: Sequence[str]
  has_polygons: bool
  federated: bool
  skip_bad_images: bool

  def describe(self, name: str) -> list[str]:
    """What the split `name` holds, in lines for people."""

  def image_counts(self) -> list[int] | None:
    """The number of images with a box that is kept, of each class; None where none has boxes."""

  def __len__(self) -> int:
    """Number of entries."""

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
    """The entries start, start + 1, ..., stop - 1, in the order of the files."""


class Record(NamedTuple):
  """A record as it is stored, and its row of the index (`rkd_jax.records.index.make`)."""

  data: bytes
  row: tuple[int, int, list[int], int, int]


# Why there is no record of an image.
LeftOut = decoding.BadImageError | MissingResultsError


@dataclasses.dataclass(frozen=True)
class RecordMaker:
  """Entries to records, or to the error of an image that may be left out.

  Attributes:
    features: the schema.
    teacher: results by image id.
    skip_missing_results: an image that the teachers lack may be left out.
  """

  features: tfds.features.FeaturesDict
  teacher: TeacherReader | None = None
  skip_missing_results: bool = False

  @functools.cached_property
  def _serializer(self) -> ExampleSerializer:
    return ExampleSerializer(self.features.get_serialized_info())

  def __call__(self, entry: Entry) -> Record | LeftOut:
    """Raises ValueError as `Entry.load`, or where the teachers' results are missing."""
    try:
      arguments = entry.load()
    except decoding.BadImageError as error:
      return error
    if "polygons/vertices" not in self.features:
      arguments.pop("polygons", None)
    if self.teacher is not None:
      try:
        arguments["teacher"] = self.teacher[arguments["image_id"]]
      except MissingResultsError as error:
        if not self.skip_missing_results:
          raise
        return error
    (embedding_dim,) = self.features["regions/clip_embeddings"].shape[1:]
    example = schema.encode_record(**arguments, embedding_dim=embedding_dim)
    row = (
      example["image/height"],
      example["image/width"],
      [int(thing["label"]) for thing in example["objects"] if not thing["is_crowd"]],
      len(example["labels"]),
      len(example["pseudo_boxes/labels"]),
    )
    message = self._serializer.get_tf_example(self.features.encode_example(example))
    # The order of a message's features differs from process to process otherwise.
    return Record(message.SerializeToString(deterministic=True), row)


def without_left_out(made: Iterable[Record | LeftOut], skip_bad_images: bool) -> Iterator[Record]:
  """The records; images without results of the teachers are left out with a counted warning.

  One that cannot be decoded is an error or left out, too.
  """
  bad = missing = 0
  for record in made:
    if isinstance(record, Record):
      yield record
    elif isinstance(record, MissingResultsError):
      missing += 1
      logging.warning("Skipped image without results (%d so far): %s", missing, record)
    elif skip_bad_images:
      bad += 1
      logging.warning("Skipped bad image (%d so far): %s", bad, record)
    else:
      raise record


def records(split: Split, maker: RecordMaker, workers: int | None = None) -> Iterator[Record]:
  """The records of a split in order, behind a progress bar; memory holds a few of them.

  Args:
    split: whose entries are read.
    maker: sent to each worker once.
    workers: processes that make records, by default one per CPU; few records are made in this one
      alone.  The result does not depend on it.

  Raises:
    ValueError: the first problem in the order of the entries, or every image is left out.
  """
  workers = workers or os.cpu_count() or 1
  entries = split.entries()
  if workers == 1 or len(split) < WORTH_A_POOL:
    made = map(maker, entries)
  else:
    made = _in_processes(entries, maker, workers)
  bar = tqdm(made, f"reading {split.source}", len(split), unit=" images")
  empty = True
  for record in without_left_out(bar, split.skip_bad_images):
    empty = False
    yield record
  if empty:
    raise ValueError(
      f"{split.source}: none of its {len(split)} images can be stored: see the warnings."
    )


def _in_processes(
  entries: Iterable[Entry], maker: RecordMaker, workers: int
) -> Iterator[Record | LeftOut]:
  with process_pool(workers, functools.partial(_keep, maker)) as pool:
    yield from in_order(pool, _make, zip(entries), _AHEAD * workers)


# Of a worker process.
_maker: RecordMaker | None = None


def _keep(maker: RecordMaker) -> None:
  global _maker
  _maker = maker


def _make(entry: Entry) -> Record | LeftOut:
  return _maker(entry)
