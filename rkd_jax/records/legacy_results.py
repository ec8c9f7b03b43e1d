"""Teachers' results as earlier versions of this project wrote them: msgpack shards, a manifest.

A record is a msgpack dict of arrays; the last one of a shard says what the others are: image ids,
positions in the source (-1: not said), and notes about images.  They are read as they are; what
was not finished then cannot be carried on.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from flax import serialization

from rkd_jax.files import storage
from rkd_jax.records.index import ResultIndex

_MANIFEST = "manifest.json"


def is_legacy(folder: epath.Path) -> bool:
  """Whether an earlier version wrote to the folder of a split, and this one has not."""
  return (folder / _MANIFEST).exists() and not (folder / "metadata.json").exists()


class LegacyResults:
  """A complete split; attributes and `read` are those of `records.results.TeacherReader`."""

  class_names: tuple[str, ...] = ()

  def __init__(self, folder: epath.Path):
    """Raises ValueError where it is not complete, or a file is damaged."""
    path = folder / _MANIFEST
    try:
      manifest = json.loads(path.read_text())
      self.metadata: dict[str, Any] = manifest["metadata"]
      self.embedding_dim: int = manifest["embedding_dim"]
      count, complete = manifest["count"], manifest["complete"]
    except (ValueError, KeyError, TypeError) as error:
      raise _damaged(path, error) from error
    if not complete:
      raise ValueError(
        f"{folder} holds results that an earlier version did not finish: go on with that version, "
        "or make them anew in another folder, with `python -m rkd_jax.precompute ...`."
      )
    self._shards, self._places = [], []
    self._lock = threading.Lock()
    self.notes: dict[int, dict[str, Any]] = {}
    ids, positions = [], []
    for file in sorted(storage.local_copy(folder).glob("*.arrayrecord")):
      reader, last = _open(file)
      self._shards.append((file, reader))
      self._places += [(len(self._shards) - 1, row) for row in range(len(last["image_ids"]))]
      ids += last["image_ids"].tolist()
      positions += np.asarray(last.get("positions", [-1] * len(last["image_ids"]))).tolist()
      self.notes |= {int(k): note for k, note in json.loads(last.get("notes", "{}")).items()}
    if len(ids) != count:
      raise ValueError(
        f"{path} says {count} records, but the shards beside it hold {len(ids)}: bring back what "
        "is missing, or make them anew in another folder."
      )
    unknown = np.full(len(ids), -1)
    self.index = ResultIndex(np.array(ids, np.int64), np.array(positions, np.int64), unknown)

  def read(self, row: int) -> dict[str, Any]:
    number, place = self._places[row]
    file, reader = self._shards[number]
    with self._lock:
      record = _read(file, reader, place)
    record["image/id"] = record.pop("image_id")
    return record


def _open(file: Path) -> tuple[ArrayRecordReader, dict[str, Any]]:
  """A shard, and its last record."""
  try:
    reader = ArrayRecordReader(os.fspath(file), options="readahead_buffer_size:0")
  except RuntimeError as error:
    raise _damaged(file, error) from error
  # A shard that was cut off may seem to be empty.
  last = _read(file, reader, max(reader.num_records() - 1, 0))
  if not isinstance(last, dict) or "image_ids" not in last:
    raise _damaged(file, "its last record does not say whose results it holds")
  return reader, last


def _read(file: Path, reader: ArrayRecordReader, row: int) -> Any:
  try:
    return serialization.msgpack_restore(reader.read([row])[0])
  except (RuntimeError, ValueError) as error:
    raise _damaged(file, error) from error


def _damaged(path: os.PathLike, reason: Exception | str) -> ValueError:
  return ValueError(
    f"{path} is damaged or cut off ({reason}): bring back a copy, or make the results anew in "
    "another folder, with `python -m rkd_jax.precompute ...`."
  )
