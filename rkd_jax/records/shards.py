"""Records in ArrayRecord shards: a whole split in order, or parts that many writers make.

TFDS' own writer sorts by key: all records of a split go through memory, and beyond 1 GB through
files that need TensorFlow.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from google.protobuf.json_format import ParseError
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rkd_jax.files import storage

# As few files as readers can hold open, but small enough to move around.
SHARD_BYTES = 512 << 20
# Whatever reading a file raises that is damaged, cut off or missing.
_DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, OSError, ParseError)


@contextlib.contextmanager
def damage_named(place: str | os.PathLike, remedy: str, detail: str = "") -> Iterator[None]:
  """Turns what the block raises over a damaged file into a ValueError with the place and remedy."""
  try:
    yield
  except _DAMAGE as error:
    raise ValueError(f"{place} is damaged or cut off ({error}{detail}): {remedy}") from error


class Serializer:
  """Examples of a schema to the bytes that are stored, the same in every process."""

  def __init__(self, features: tfds.features.FeaturesDict):
    self._features = features
    self._serializer = ExampleSerializer(features.get_serialized_info())

  def __call__(self, example: Mapping[str, Any]) -> bytes:
    message = self._serializer.get_tf_example(self._features.encode_example(example))
    # The order of a message's features differs from process to process otherwise.
    return message.SerializeToString(deterministic=True)


def open_shard(path: Path) -> ArrayRecordReader:
  """A shard to read from, record by record; RuntimeError if it is damaged or missing."""
  return ArrayRecordReader(os.fspath(path), options="readahead_buffer_size:0")


def write_shards(records: Iterable[bytes], template: ShardedFileTemplate) -> tfds.core.SplitInfo:
  """Stores the records of a split, in shards of SHARD_BYTES; memory holds one record.

  Shards get the names of the template in the end, since these say how many there are.

  Raises:
    ValueError: there is no record.
  """
  records, paths, lengths, total = iter(records), [], [], 0
  for first in records:
    paths.append(Path(template.data_dir) / f"{template.split}-{len(paths)}.partial")
    writer = ArrayRecordWriter(os.fspath(paths[-1]), "group_size:1")
    length = written = 0
    for record in itertools.chain([first], records):
      writer.write(record)
      length += 1
      written += len(record)
      if written >= SHARD_BYTES:
        break
    writer.close()
    lengths.append(length)
    total += written
  if not paths:
    raise ValueError(f"Split {template.split!r} has no records: there is nothing to build.")
  return named_shards(template, paths, lengths, total)


def named_shards(
  template: ShardedFileTemplate, paths: Sequence[Path], lengths: list[int], num_bytes: int
) -> tfds.core.SplitInfo:
  """Gives the shards of a split their names; `lengths` are their numbers of records."""
  for number, path in enumerate(paths):
    path.rename(template.sharded_filepath(shard_index=number, num_shards=len(paths)))
  return tfds.core.SplitInfo(
    name=template.split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
  )


class Part(NamedTuple):
  """A complete part: its shard, what is said of each record, and the bytes of all."""

  path: Path
  rows: list[list]
  num_bytes: int


class PartWriter:
  """Writes records to a shard of their own, NAME.array_record, and NAME.json with a row for each.

  The JSON comes last: a part is there when that is.  Both appear complete, so that two writers may
  write the same part at the same time.
  """

  def __init__(self, folder: str | os.PathLike, name: str, partial: str):
    """`folder` may be remote; no other writer may have the name `partial`."""
    self._target = storage.path(folder) / name
    self._partial = storage.work_folder(folder) / f"{partial}.partial"
    self._writer = ArrayRecordWriter(os.fspath(self._partial), "group_size:1")
    self._rows, self._num_bytes = [], 0

  def __len__(self) -> int:
    return len(self._rows)

  def write(self, record: bytes, row: Iterable) -> None:
    """Adds a record; the row is JSON values that say of it what must be known without reading."""
    self._writer.write(record)
    self._rows.append(list(row))
    self._num_bytes += len(record)

  def close(self) -> None:
    self._writer.close()
    storage.put(self._partial, f"{self._target}.array_record")
    content = {"num_bytes": self._num_bytes, "rows": self._rows}
    storage.write(f"{self._target}.json", json.dumps(content))


def read_parts(folder: Path, prefix: str = "") -> list[Part]:
  """The complete parts of a local folder whose names begin so, by name; see `part_damage_named`."""
  parts = []
  for file in sorted(folder.glob(f"{prefix}*.json")):
    with part_damage_named(file):
      content = json.loads(file.read_text())
      parts.append(Part(file.with_suffix(".array_record"), content["rows"], content["num_bytes"]))
  return parts


def part_damage_named(path: Path) -> contextlib.AbstractContextManager[None]:
  """`damage_named` for a file of a part."""
  remedy = (
    f"remove {path.with_suffix('')}.* and run the command again, which makes what is missing."
  )
  return damage_named(path, remedy)
