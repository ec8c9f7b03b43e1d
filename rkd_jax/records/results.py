"""Results of the frozen teachers on disk: regions, their CLIP embeddings, pseudo boxes.

`rkd_jax.precompute` writes them once per data set; builders in data/ join them into
the records by image id.  A folder holds, per split,

    <folder>/<split>/manifest.json            metadata, embedding width, count, complete or not
    <folder>/<split>/00000.arrayrecord ...    shards

(see `result_shards`).  A run that was killed loses at most the shard that it was writing, and
carries on behind the others.

Several processes may write one split, each its own images into its own shards.

A folder may be remote (gs://...): shards and manifest go there as they are completed, and are
copied to this machine (`rkd_jax.files.storage`) where they are read.
"""

import itertools
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from rkd_jax.files import storage
from rkd_jax.records.result_shards import COMMAND, SUFFIX, ShardWriter, checked, open_shards

_MANIFEST = "manifest.json"
_FORMAT = 1


class MissingResultsError(ValueError):
  """The teachers have no results for an image."""


def _write_json(path: epath.Path, content: dict):
  # Other processes may write the same file at the same time.
  partial = storage.work_folder(path.parent) / f"{path.stem}.{os.getpid()}.partial"
  partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
  storage.put(partial, path)


def _read_manifest(path: epath.Path) -> dict:
  try:
    manifest = json.loads(path.read_text())
  except FileNotFoundError:
    raise ValueError(
      f"No teacher results: {path} is missing. Make them with `{COMMAND}`."
    ) from None
  except json.JSONDecodeError as error:
    raise ValueError(
      f"{path} is no valid JSON ({error}): remove {path.parent}, run `{COMMAND}`."
    ) from error
  if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
    raise ValueError(f"{path} has not format {_FORMAT}: remove {path.parent}, run `{COMMAND}`.")
  return manifest


def _changes(then: Any, now: Any, name: str = "") -> list[str]:
  """Where two trees of JSON values differ: 'name then, now it is now'."""
  if not (isinstance(then, dict) and isinstance(now, dict)):
    return [] if then == now else [f"{name[1:]} {then!r}, now it is {now!r}"]
  return [c for k in {**then, **now} for c in _changes(then.get(k), now.get(k), f"{name}.{k}")]


class TeacherWriter:
  """Writes the teachers' results of one split; resumes where an earlier run stopped.

      with TeacherWriter(folder, 'train_boxes', 512, metadata) as writer:
        for record in source:
          if record.image_id not in writer:
            writer.write(record.image_id, {...})

  Leaving the block without an exception marks the split as complete; with one, what
  has been written is kept for the next run.  Of several processes the last one marks it.

  Attributes:
    positions: image id by position in the source, of the records that were written with one.
    process_index, process_count: which of how many processes this one is.
    complete: after the block, whether this process found the split complete.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    split: str,
    embedding_dim: int,
    metadata: Mapping[str, Any],
    records_per_shard: int = 512,
    total: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Opens or resumes a split.

    Args:
      folder: of all splits of a data set; may be remote.
      split: name of the split.
      embedding_dim: width D of the CLIP embeddings.
      metadata: whatever decides the results, as JSON values (checksum of the teacher,
        thresholds, code version); stored in the manifest.
      records_per_shard: at most this many records are lost when a run is killed.
      total: number of records of all processes; needed where there are several.
      process_index, process_count: which of how many processes this one is; each has its own
        shards, and their number may change from run to run.

    Raises:
      ValueError: the split holds results that were made with other metadata, or there is no
        such process.
    """
    if not 0 <= process_index < process_count or (process_count > 1 and total is None):
      raise ValueError(
        f"process {process_index} of {process_count}, total={total}: expected an index from 0 to "
        "the count less 1, and with several processes the total number of records."
      )
    self.process_index, self.process_count = process_index, process_count
    self._target = storage.path(folder) / split
    self._folder = storage.work_folder(self._target)
    self._embedding_dim = embedding_dim
    self._records_per_shard = records_per_shard
    self._total = total
    # Through JSON, so that tuples compare equal to the lists that a manifest gives back.
    self._metadata = json.loads(json.dumps(dict(metadata)))
    self._shard, self.complete = None, False
    path = self._target / _MANIFEST
    manifest = _read_manifest(path) if path.exists() else None
    if manifest is not None:
      mine = self._manifest(manifest["count"], manifest["complete"])
      if changes := _changes(manifest, mine):
        raise ValueError(
          f"{path} was made with {', '.join(changes)}: "
          "use the same settings, or another folder, or remove this one."
        )
    self._prefix = f"{process_index:03d}-" if process_count > 1 else ""
    for partial in self._folder.glob(f"{self._prefix}*.partial"):
      partial.unlink()
    self._done, self.positions = self._written()
    if process_count == 1 or manifest != self._manifest(total, complete=True):
      self._commit(complete=False)

  def __contains__(self, image_id: int) -> bool:
    return int(image_id) in self._done

  def __len__(self) -> int:
    return len(self._done)

  def __enter__(self) -> "TeacherWriter":
    return self

  def __exit__(self, exception_type, exception, traceback):
    self._close_shard()
    self.complete = exception_type is None and (
      self.process_count == 1 or len(self._written()[0]) == self._total
    )
    if self.complete or self.process_count == 1:
      self._commit(self.complete)

  def write(
    self,
    image_id: int,
    record: Mapping[str, np.ndarray],
    position: int = -1,
    notes: Mapping[str, Any] | None = None,
  ):
    """Adds the results of one image; arrays as in `FIELDS`.

    Args:
      image_id: of the image.
      record: the arrays.
      position: of the image in the source, so that a later run need not read it to skip it.
      notes: JSON values by name that are no results, such as why there are none.

    Raises:
      ValueError: the image is already there, or an array has a wrong shape or a value
        that is not finite.
    """
    image_id = int(image_id)
    if image_id in self._done:
      raise ValueError(
        f"Teacher record of image {image_id} for {self._target}: already written; "
        "ask `image_id in writer` first."
      )
    if self._shard is None:
      names = {path.name for path in self._folder.glob(f"*{SUFFIX}")}
      numbered = (f"{self._prefix}{n:05d}{SUFFIX}" for n in itertools.count())
      path = self._target / next(name for name in numbered if name not in names)
      self._shard = ShardWriter(path, f"{self._prefix}shard{SUFFIX}.partial", self._embedding_dim)
    self._shard.write(image_id, record, position, notes)
    self._done.add(image_id)
    if position >= 0:
      self.positions[position] = image_id
    if len(self._shard) >= self._records_per_shard:
      self._close_shard()
      if self.process_count == 1:
        self._commit(complete=False)

  def _written(self) -> tuple[set[int], dict[int, int]]:
    """Image ids in all complete shards, and those by position."""
    ids, positions = set(), {}
    for shard in open_shards(storage.local_copy(self._target, missing_ok=True)):
      ids.update(shard.image_ids)
      positions.update((p, i) for p, i in zip(shard.positions, shard.image_ids) if p >= 0)
    return ids, positions

  def _close_shard(self):
    if self._shard is not None:
      self._shard.close()
      self._shard = None

  def _manifest(self, count: int | None, complete: bool) -> dict[str, Any]:
    return {
      "format": _FORMAT,
      "metadata": self._metadata,
      "embedding_dim": self._embedding_dim,
      "count": count,
      "complete": complete,
    }

  def _commit(self, complete: bool):
    count = len(self._done) if self.process_count == 1 else self._total
    _write_json(self._target / _MANIFEST, self._manifest(count, complete))


class TeacherReader:
  """Mapping from image id to the results of one split, in any order; thread safe, can be pickled.

  Attributes:
    metadata: what decided the results.
    embedding_dim: width of the embeddings.
    notes: by image id, what was noted about an image; see `TeacherWriter.write`.
  """

  def __init__(self, folder: str | os.PathLike, split: str, embedding_dim: int | None = None):
    """Opens a complete split.

    Raises:
      ValueError: nothing there, not complete, or embeddings of another width.
      OSError: of a remote folder, see `storage.local_copy`.
    """
    self._folder = storage.path(folder) / split
    path = self._folder / _MANIFEST
    manifest = _read_manifest(path)
    shards = open_shards(storage.local_copy(self._folder))
    if not manifest["complete"]:
      count = sum(len(shard.image_ids) for shard in shards)
      raise ValueError(
        f"{path}: only {count} records are there, the run that makes them did not "
        f"finish. Start it again, it carries on: `{COMMAND}`."
      )
    self.metadata: dict[str, Any] = manifest["metadata"]
    self.embedding_dim: int = manifest["embedding_dim"]
    if embedding_dim not in (None, self.embedding_dim):
      raise ValueError(
        f"{path}: embeddings have {self.embedding_dim} columns, expected {embedding_dim}. "
        f"Set embedding_dim to the teacher's, or make them with the right one: `{COMMAND}`."
      )
    self.notes: dict[int, dict[str, Any]] = {}
    self._place = {}
    self._lock = threading.Lock()
    for shard in shards:
      self._place.update((i, (shard, row)) for row, i in enumerate(shard.image_ids))
      self.notes.update(shard.notes)
    if len(self._place) != manifest["count"]:
      raise ValueError(
        f"{path} says {manifest['count']} records, but the shards beside it hold "
        f"{len(self._place)}: remove {self._folder} and run `{COMMAND}` again."
      )

  def __reduce__(self):
    """Another process opens it anew."""
    return TeacherReader, (self._folder.parent, self._folder.name, self.embedding_dim)

  def __len__(self) -> int:
    return len(self._place)

  def __contains__(self, image_id: int) -> bool:
    return int(image_id) in self._place

  def __getitem__(self, image_id: int) -> dict[str, np.ndarray]:
    """The arrays of `FIELDS` for one image.

    Raises:
      MissingResultsError: there is no record of this image.
    """
    image_id = int(image_id)
    if image_id not in self._place:
      raise MissingResultsError(
        f"No teacher results for image {image_id} in {self._folder} ({len(self)} records): "
        f"make them with `{COMMAND}`, or build with --skip_missing_results to leave it out."
      )
    shard, row = self._place[image_id]
    with self._lock:
      record = shard[row]
    record.pop("image_id")
    return checked(record, self.embedding_dim, f"Image {image_id} in {self._folder}")
