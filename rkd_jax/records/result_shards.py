"""One file of teachers' results: records, and what they are.

A record is a msgpack dict of arrays (never a pickle) with the keys of `FIELDS`.
The last record of a shard says what the others are: image ids, positions in the source
(-1: not said), and notes about images, such as why one could not be read.  Shards get
their name only when they are complete.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from flax import serialization

from rkd_jax.files import storage

SUFFIX = ".arrayrecord"
# What makes the results, for messages.
COMMAND = "python -m rkd_jax.precompute ..."

# Every array of a record: its type, and its shape behind the number of rows (-1: embedding width).
FIELDS = {
  "regions/boxes": (np.float32, (4,)),
  "regions/scores": (np.float32, ()),
  "regions/clip_embeddings": (np.float32, (-1,)),
  "pseudo_boxes/boxes": (np.float32, (4,)),
  "pseudo_boxes/labels": (np.int64, ()),
  "pseudo_boxes/scores": (np.float32, ()),
}


def checked(record: Mapping[str, Any], embedding_dim: int, where: str) -> dict[str, np.ndarray]:
  """The record with exact types; ValueError for a wrong key, a wrong shape, a value not finite."""
  if set(record) != set(FIELDS):
    raise ValueError(
      f"{where}: expected exactly the keys {sorted(FIELDS)}; "
      f"missing {sorted(set(FIELDS) - set(record))}, unknown {sorted(set(record) - set(FIELDS))}."
    )
  arrays = {}
  for key, (dtype, shape) in FIELDS.items():
    array = np.ascontiguousarray(record[key], dtype)
    rows = len(record[f"{key.split('/')[0]}/boxes"])
    expected = (rows, *(embedding_dim if size == -1 else size for size in shape))
    if array.shape != expected:
      raise ValueError(f"{where}, {key}: expected shape {expected}, got {array.shape}.")
    if not np.isfinite(array).all():
      raise ValueError(f"{where}, {key}: has values that are not finite.")
    arrays[key] = array
  return arrays


class ShardWriter:
  """Writes one shard, which gets its name when it is closed."""

  def __init__(self, path: str | os.PathLike, partial: str, embedding_dim: int):
    """`path` may be remote; `partial` is the name until then, that no other writer may have."""
    self._path = storage.path(path)
    self._partial = storage.work_folder(self._path.parent) / partial
    self._embedding_dim = embedding_dim
    self._writer = ArrayRecordWriter(str(self._partial), "group_size:1")
    self._ids, self._positions, self._notes = [], [], {}

  def __len__(self) -> int:
    return len(self._ids)

  def write(
    self,
    image_id: int,
    record: Mapping[str, np.ndarray],
    position: int = -1,
    notes: Mapping[str, Any] | None = None,
  ):
    """Adds the results of one image; see `teachers.TeacherWriter.write`."""
    where = f"Teacher record of image {image_id} for {self._path.parent}"
    arrays = checked(record, self._embedding_dim, where)
    self._writer.write(serialization.msgpack_serialize({"image_id": int(image_id), **arrays}))
    self._ids.append(int(image_id))
    self._positions.append(int(position))
    if notes:
      self._notes[int(image_id)] = dict(notes)

  def close(self):
    last = {
      "image_ids": np.array(self._ids, np.int64),
      "positions": np.array(self._positions, np.int64),
      "notes": json.dumps(self._notes),
    }
    self._writer.write(serialization.msgpack_serialize(last))
    self._writer.close()
    storage.put(self._partial, self._path)


class ShardReader:
  """Random access to the records of one shard.

  Attributes:
    image_ids: of the records, in their order.
    positions: of the images in the source, or -1.
    notes: by image id, what was noted about an image.
  """

  def __init__(self, path: Path):
    """Opens a complete shard.

    Raises:
      ValueError: it is damaged.
    """
    self._path = path
    try:
      self._reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    except RuntimeError as error:
      raise self._damaged(error) from error
    # A shard that was cut off may seem to be empty.
    last = self[max(self._reader.num_records() - 1, 0)]
    if not isinstance(last, dict) or "image_ids" not in last:
      raise self._damaged("its last record does not say whose results it holds")
    self.image_ids: list[int] = last["image_ids"].tolist()
    unknown = np.full(len(self.image_ids), -1)
    self.positions: list[int] = last.get("positions", unknown).tolist()
    notes = json.loads(last.get("notes", "{}"))
    self.notes: dict[int, dict[str, Any]] = {int(key): note for key, note in notes.items()}

  def __getitem__(self, row: int) -> dict[str, Any]:
    """The record in this row, unchecked; ValueError where the shard is damaged."""
    try:
      return serialization.msgpack_restore(self._reader.read([row])[0])
    except (RuntimeError, ValueError) as error:
      raise self._damaged(error) from error

  def _damaged(self, reason: Exception | str) -> ValueError:
    return ValueError(
      f"{self._path} is damaged or cut off ({reason}): remove it and run `{COMMAND}` again, which "
      "makes what is missing."
    )


def open_shards(folder: Path) -> list[ShardReader]:
  """All complete shards of a local folder."""
  return [ShardReader(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
