"""Results of the frozen teachers on disk: regions, their CLIP embeddings, pseudo boxes.

`rkd_jax.precompute` writes them once per data set; builders in data/ join them into
the records by image id.  A folder holds, per split,

    <folder>/<split>/manifest.json            metadata, embedding width, count, complete or not
    <folder>/<split>/00000.arrayrecord ...    shards

A record is a msgpack dict of arrays (never a pickle) with the keys of `FIELDS`.
The last record of a shard lists the image ids of the others, so that a shard knows
its content.  Shards get their name only when they are complete: a run that was
killed loses at most the shard that it was writing, and carries on behind the others.
"""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from flax import serialization

_COMMAND = "python -m rkd_jax.precompute ..."
_MANIFEST = "manifest.json"
_SUFFIX = ".arrayrecord"
_FORMAT = 1

# Every array of a record: its type, and its shape behind the number of rows (-1: embedding width).
FIELDS = {
  "regions/boxes": (np.float32, (4,)),
  "regions/scores": (np.float32, ()),
  "regions/clip_embeddings": (np.float32, (-1,)),
  "pseudo_boxes/boxes": (np.float32, (4,)),
  "pseudo_boxes/labels": (np.int64, ()),
  "pseudo_boxes/scores": (np.float32, ()),
}


def _checked(record: Mapping[str, Any], embedding_dim: int, where: str) -> dict[str, np.ndarray]:
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


def _write_json(path: Path, content: dict):
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
  os.replace(partial, path)


def _read_manifest(path: Path) -> dict:
  try:
    manifest = json.loads(path.read_text())
  except FileNotFoundError:
    raise ValueError(
      f"No teacher results: {path} is missing. Make them with `{_COMMAND}`."
    ) from None
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{path} is no valid JSON ({error}): remove {path.parent}, run `{_COMMAND}`."
    ) from error
  if manifest.get("format") != _FORMAT:
    raise ValueError(
      f"{path} has format {manifest.get('format')}, expected {_FORMAT}: run `{_COMMAND}` again."
    )
  return manifest


def _open_shard(path: Path) -> tuple[ArrayRecordReader, list[int]]:
  """A reader for random access and the image ids of the shard's records, in order."""
  reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
  count = reader.num_records() - 1
  ids = serialization.msgpack_restore(reader.read([count])[0])["image_ids"]
  return reader, ids.tolist()


def _shards(folder: Path) -> list[Path]:
  return sorted(folder.glob(f"*{_SUFFIX}"))


class TeacherWriter:
  """Writes the teachers' results of one split; resumes where an earlier run stopped.

      with TeacherWriter(folder, 'train_boxes', 512, metadata) as writer:
        for record in source:
          if record.image_id not in writer:
            writer.write(record.image_id, {...})

  Leaving the block without an exception marks the split as complete; with one, what
  has been written is kept for the next run.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    split: str,
    embedding_dim: int,
    metadata: Mapping[str, Any],
    records_per_shard: int = 512,
  ):
    """Opens or resumes a split.

    Args:
      folder: of all splits of a data set.
      split: name of the split.
      embedding_dim: width D of the CLIP embeddings.
      metadata: whatever decides the results, as JSON values (checksum of the teacher,
        thresholds, code version); stored in the manifest.
      records_per_shard: at most this many records are lost when a run is killed.

    Raises:
      ValueError: the split holds results that were made with other metadata.
    """
    self._folder = Path(folder) / split
    self._folder.mkdir(parents=True, exist_ok=True)
    self._embedding_dim = embedding_dim
    self._records_per_shard = records_per_shard
    # Through JSON, so that tuples compare equal to the lists that a manifest gives back.
    self._metadata = json.loads(json.dumps(dict(metadata)))
    self._ids = []
    self._writer = None
    path = self._folder / _MANIFEST
    if path.exists():
      manifest = _read_manifest(path)
      for key, mine in (("metadata", self._metadata), ("embedding_dim", embedding_dim)):
        if manifest[key] != mine:
          raise ValueError(
            f"{path} was made with {key} {manifest[key]}, now it is {mine}: "
            "use the same settings, or another folder, or remove this one."
          )
    for partial in self._folder.glob("*.partial"):
      partial.unlink()
    self._done = set()
    for shard in _shards(self._folder):
      self._done.update(_open_shard(shard)[1])
    self._commit(complete=False)

  def __contains__(self, image_id: int) -> bool:
    return int(image_id) in self._done

  def __len__(self) -> int:
    return len(self._done)

  def __enter__(self) -> "TeacherWriter":
    return self

  def __exit__(self, exception_type, exception, traceback):
    self._close_shard()
    self._commit(complete=exception_type is None)

  def write(self, image_id: int, record: Mapping[str, np.ndarray]):
    """Adds the results of one image; arrays as in `FIELDS`.

    Raises:
      ValueError: the image is already there, or an array has a wrong shape or a value
        that is not finite.
    """
    image_id = int(image_id)
    where = f"Teacher record of image {image_id} for {self._folder}"
    if image_id in self._done:
      raise ValueError(f"{where}: already written; ask `image_id in writer` first.")
    arrays = _checked(record, self._embedding_dim, where)
    if self._writer is None:
      self._writer = ArrayRecordWriter(str(self._partial()), "group_size:1")
    self._writer.write(serialization.msgpack_serialize({"image_id": image_id, **arrays}))
    self._ids.append(image_id)
    self._done.add(image_id)
    if len(self._ids) >= self._records_per_shard:
      self._close_shard()
      self._commit(complete=False)

  def _partial(self) -> Path:
    return self._folder / f"shard{_SUFFIX}.partial"

  def _close_shard(self):
    if self._writer is None:
      return
    ids = np.array(self._ids, np.int64)
    self._writer.write(serialization.msgpack_serialize({"image_ids": ids}))
    self._writer.close()
    number = len(_shards(self._folder))
    os.replace(self._partial(), self._folder / f"{number:05d}{_SUFFIX}")
    self._writer = None
    self._ids = []

  def _commit(self, complete: bool):
    manifest = {
      "format": _FORMAT,
      "metadata": self._metadata,
      "embedding_dim": self._embedding_dim,
      "count": len(self._done),
      "complete": complete,
    }
    _write_json(self._folder / _MANIFEST, manifest)


class TeacherReader:
  """Mapping from image id to the teachers' results of one split, in any order; thread safe."""

  def __init__(self, folder: str | os.PathLike, split: str, embedding_dim: int | None = None):
    """Opens a complete split.

    Raises:
      ValueError: nothing there, not complete, or embeddings of another width.
    """
    self._folder = Path(folder) / split
    path = self._folder / _MANIFEST
    manifest = _read_manifest(path)
    if not manifest["complete"]:
      raise ValueError(
        f"{path}: only {manifest['count']} records are there, the run that makes them did not "
        f"finish. Start it again, it carries on: `{_COMMAND}`."
      )
    self.metadata: dict[str, Any] = manifest["metadata"]
    self.embedding_dim: int = manifest["embedding_dim"]
    if embedding_dim not in (None, self.embedding_dim):
      raise ValueError(
        f"{path}: embeddings have {self.embedding_dim} columns, expected {embedding_dim}. "
        f"Set embedding_dim to the teacher's, or make them with the right one: `{_COMMAND}`."
      )
    self._place = {}
    self._readers = []
    self._lock = threading.Lock()
    for shard in _shards(self._folder):
      reader, ids = _open_shard(shard)
      places = {image_id: (len(self._readers), row) for row, image_id in enumerate(ids)}
      self._place.update(places)
      self._readers.append(reader)
    if len(self._place) != manifest["count"]:
      raise ValueError(
        f"{path} says {manifest['count']} records, but the shards beside it hold "
        f"{len(self._place)}: remove {self._folder} and run `{_COMMAND}` again."
      )

  def __len__(self) -> int:
    return len(self._place)

  def __contains__(self, image_id: int) -> bool:
    return int(image_id) in self._place

  def __getitem__(self, image_id: int) -> dict[str, np.ndarray]:
    """The arrays of `FIELDS` for one image.

    Raises:
      ValueError: there is no record of this image.
    """
    image_id = int(image_id)
    if image_id not in self._place:
      raise ValueError(
        f"No teacher results for image {image_id} in {self._folder} ({len(self)} records): "
        f"make them with `{_COMMAND}`."
      )
    shard, row = self._place[image_id]
    with self._lock:
      data = self._readers[shard].read([row])[0]
    record = serialization.msgpack_restore(data)
    record.pop("image_id")
    return _checked(record, self.embedding_dim, f"Image {image_id} in {self._folder}")
