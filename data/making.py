"""Entries of annotation files to records, in their order, by one process, several, or on Beam.

An entry is one image, not read yet, and what the files say of it.  Entries are small and can be
pickled, and so can the `RecordMaker` that turns them into bytes: wherever the two are used, they
give the same bytes.
"""

import abc
import dataclasses
import functools
import itertools
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.naming import ShardedFileTemplate
from tqdm import tqdm

from rkd_jax.machine.workers import in_order, process_pool
from rkd_jax.records import decoding, schema
from rkd_jax.records import index as index_lib
from rkd_jax.records.shards import PartWriter, Serializer, named_shards, read_parts

# Starting worker processes takes as long as making some hundred records.
WORTH_A_POOL = 1000
# Records of each worker that may wait for those before them.
_AHEAD = 4
# On Beam; some 450 MB of ImageNet's images.
RECORDS_PER_SHARD = 4096


class Place(NamedTuple):
  """Where the bytes of an image are: a file, or `size` bytes of an archive from `offset` on."""

  path: Path
  offset: int = 0
  size: int | None = None

  def read(self, name: str) -> bytes:
    """The bytes; ValueError that names the image if there are none or too few."""
    try:
      if not stat.S_ISREG(self.path.stat().st_mode):  # a pipe would wait for ever
        raise ValueError("it is no file")
      with self.path.open("rb") as file:
        file.seek(self.offset)
        data = file.read(self.size)
    # A ValueError: characters that no name of a file can have.
    except (OSError, ValueError) as error:
      reason = error.strerror if isinstance(error, OSError) else error
      raise ValueError(
        f"Cannot read {name}: {reason}. Names are taken relative to the folder of images: "
        "check that folder, or remove the image from the annotations."
      ) from error
    if self.size is not None and len(data) != self.size:
      raise ValueError(
        f"{self.path} is cut off: it ends at byte {self.offset + len(data)}, within an image: get "
        "it again."
      )
    return data


class Entry(NamedTuple):
  """One image of a split, not read yet, and what the files say of it.

  Attributes:
    place: of its bytes.
    name: what errors call it.
    fields: the arguments of `schema.encode_record` that the files decide.
    size: the height and width that the image must have, where the files say it.
    fractions: the boxes are fractions of width and height, not pixels.
  """

  place: Place
  name: str
  fields: Mapping[str, Any]
  size: tuple[int, int] | None = None
  fractions: bool = False

  def load(self, max_pixels: int = decoding.MAX_PIXELS) -> dict[str, Any]:
    """Reads the image; all arguments of `schema.encode_record`.

    Raises:
      BadImageError: it cannot be decoded, or has more pixels.
      ValueError: it is missing, or not what the files say.
    """
    data = self.place.read(self.name)
    width, height = decoding.open_image(data, self.name, max_pixels).size
    if self.size is not None and self.size != (height, width):
      raise ValueError(
        f"{self.name} is {width} x {height} (width x height, upright as its EXIF orientation "
        f"asks), but the annotations say {self.size[1]} x {self.size[0]}: the boxes would be "
        "wrong. Use the images that were annotated, or correct the size."
      )
    fields = dict(self.fields)
    if self.fractions:
      fields["boxes"] = fields["boxes"] * [width, height, width, height]
    return {"image": data, "height": height, "width": width, **fields}


class Split(abc.ABC):
  """One split, its files read and checked; the images have not been looked at.

  Splits are frozen dataclasses.

  Attributes:
    images: an element for each entry; a split without has a length and `first` of its own.
    source: the file or folder that it comes from, for messages.
    class_names: in the order of their numbers.
    has_polygons: whether any object has one.
    federated: whether LVIS' negative and not exhaustive classes of each image are stored.
  """

  images: Sequence[Any]
  source: str
  class_names: Sequence[str]
  has_polygons = False
  federated = False

  @abc.abstractmethod
  def describe(self, name: str) -> list[str]:
    """What the split `name` holds, in lines for people."""

  def image_counts(self) -> list[int] | None:
    """The number of images with a box that is kept, of each class; None where none has boxes."""
    return None

  def first(self, limit: int) -> Self:
    """The same of the first so many images."""
    return dataclasses.replace(self, images=self.images[:limit])

  def __len__(self) -> int:
    return len(self.images)

  @abc.abstractmethod
  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[Entry]:
    """The entries start, start + 1, ..., stop - 1, in the order of the files."""


def image_counts(classes: Iterable[np.ndarray], num_classes: int) -> list[int]:
  """The number of images with a box of each class, from the classes of each image's boxes."""
  found = np.concatenate([np.zeros(0, np.int64), *map(np.unique, classes)])
  return np.bincount(found, minlength=num_classes).tolist()


class Record(NamedTuple):
  """A record as it is stored, and its row of the index."""

  data: bytes
  row: index_lib.Row


@dataclasses.dataclass(frozen=True)
class RecordMaker:
  """Entries to records of a schema, or to the error of an image that may be left out.

  With `skip_bad_images`, those that cannot be decoded or have more than `max_pixels` are, with a
  counted warning.
  """

  features: tfds.features.FeaturesDict
  skip_bad_images: bool = False
  max_pixels: int = decoding.MAX_PIXELS

  @functools.cached_property
  def _serializer(self) -> Serializer:
    return Serializer(self.features)

  def __call__(self, entry: Entry) -> Record | decoding.BadImageError:
    """Raises ValueError as `Entry.load`."""
    try:
      arguments = entry.load(self.max_pixels)
    except decoding.BadImageError as error:
      return error
    if "polygons/vertices" not in self.features:
      arguments.pop("polygons", None)
    example = schema.encode_record(**arguments)
    row = index_lib.Row(
      height=example["image/height"],
      width=example["image/width"],
      classes=[int(thing["label"]) for thing in example["objects"] if not thing["is_crowd"]],
      num_labels=len(example["labels"]),
      image_id=example["image/id"],
      checksum=index_lib.checksum(example["image"].getvalue()),
    )
    return Record(self._serializer(example), row)


def _without_bad_images(
  made: Iterable[Record | decoding.BadImageError], skip: bool
) -> Iterator[Record]:
  """The records; an image that cannot be decoded is an error, or left out and counted."""
  bad = 0
  for record in made:
    if isinstance(record, Record):
      yield record
    elif skip:
      bad += 1
      logging.warning("Skipped bad image (%d so far): %s", bad, record)
    else:
      raise record


def _none_stored(split: Split) -> ValueError:
  return ValueError(
    f"{split.source}: none of its {len(split)} images can be stored: see the warnings."
  )


def records(split: Split, maker: RecordMaker, workers: int | None = None) -> Iterator[Record]:
  """The records of a split in order, behind a progress bar; memory holds a few of them.

  The result does not depend on the number of workers, by default one per CPU, each of which gets
  the maker once; few records are made in this process alone.

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
  stored = _without_bad_images(bar, maker.skip_bad_images)
  first = next(stored, None)
  if first is None:
    raise _none_stored(split)
  yield first
  yield from stored


def _in_processes(
  entries: Iterable[Entry], maker: RecordMaker, workers: int
) -> Iterator[Record | decoding.BadImageError]:
  with process_pool(workers, functools.partial(_keep, maker)) as pool:
    yield from in_order(pool, _make, zip(entries), _AHEAD * workers)


# Of a worker process.
_maker: RecordMaker | None = None


def _keep(maker: RecordMaker) -> None:
  global _maker
  _maker = maker


def _make(entry: Entry) -> Record | decoding.BadImageError:
  return _maker(entry)


def write_on_beam(
  split: Split, maker: RecordMaker, template: ShardedFileTemplate, flags: Sequence[str]
) -> tfds.core.SplitInfo:
  """Makes and stores the records of a split and their index on Apache Beam, and waits for it.

  Every element is a range of positions, its result a part with the rows of its index.  The borders
  of shards differ from those of `write_shards`, the records and their order do not.  Workers get
  the split and the maker, which hold paths: images must be where all of them can read, and the
  folder of the data set where all can write.  Splits with the objects of whole annotation files
  are too large to send.  `flags` are those of Beam's own command line.

  Raises:
    ValueError: every image is left out.  Other problems are raised by Beam, not always the first.
    ImportError: Beam is not installed.
  """
  # Here, since it needs a package that nothing else does.
  from rkd_jax.records import on_beam

  folder = Path(template.data_dir) / f"{template.split}.parts"
  folder.mkdir()
  ends = (*range(0, len(split), RECORDS_PER_SHARD), len(split))
  write = functools.partial(_write_part, split, maker, str(folder))
  on_beam.run(list(itertools.pairwise(ends)), write, flags)
  parts = [part for part in read_parts(folder) if part.rows]
  if not parts:
    raise _none_stored(split)
  paths, rows, sizes = zip(*parts)
  info = named_shards(template, paths, [len(own) for own in rows], sum(sizes))
  shutil.rmtree(folder)
  index = index_lib.make(itertools.chain.from_iterable(rows))
  index_lib.save(template.data_dir, template.split, index)
  return info


def _write_part(split: Split, maker: RecordMaker, folder: str, positions: tuple[int, int]) -> int:
  """Writes the records of a range of positions to a part of their own; returns their number."""
  start, stop = positions
  part = PartWriter(folder, f"{start:09d}", uuid.uuid4().hex)
  made = map(maker, split.entries(start, stop))
  for record in _without_bad_images(made, maker.skip_bad_images):
    part.write(record.data, record.row)
  part.close()
  return len(part)
