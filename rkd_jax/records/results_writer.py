"""Writing the teachers' results of a split: parts while it runs, one data set in the end.

A run that was killed loses at most the part that it was writing, and carries on behind the others.
Several processes may write one split, each its own images into its own parts; the last of them
brings all into the order of the source and names them as TFDS does (see `records.results`).
"""

import functools
import glob
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.naming import ShardedFileTemplate

from rkd_jax.files import json_checks, storage
from rkd_jax.records import index as index_lib
from rkd_jax.records import results, shards

# Parts that are held open while they are brought into order.
_OPEN_PARTS = 64

_Arrays, _Notes = Mapping[str, np.ndarray], Mapping[str, Any] | None


class ResultPart(shards.PartWriter):
  """Writes results to a part of a split.

  The row of a result: image id, position, checksum, numbers of regions and pseudo boxes, notes.
  """

  def __init__(
    self, folder: str | os.PathLike, name: str, partial: str, embeddings: tuple[int, str]
  ):
    """As `PartWriter`, in the folder of a split; `embeddings` are their width and stored type."""
    super().__init__(folder, f"{results.PART}{name}", partial)
    self._embedding_dim, self._embedding_dtype = embeddings
    self._serializer = shards.Serializer(results.features(*embeddings))

  def add(
    self, image_id: int, record: _Arrays, position: int, notes: _Notes, checksum: int
  ) -> None:
    """Adds the results of one image; see `TeacherWriter.write`."""
    where = f"Teacher record of image {image_id} for {self._target.parent}"
    arrays = results.checked(record, self._embedding_dim, where)
    key = "regions/clip_embeddings"
    with np.errstate(over="ignore"):
      arrays[key] = arrays[key].astype(self._embedding_dtype)
    if not np.isfinite(arrays[key]).all():
      raise ValueError(f"{where}, {key}: values beyond {self._embedding_dtype}; use float32.")
    counts = (len(arrays["regions/boxes"]), len(arrays["pseudo_boxes/boxes"]))
    row = (int(image_id), int(position), int(checksum), *counts, dict(notes or {}))
    self.write(self._serializer({"image/id": int(image_id), **arrays}), row)


class TeacherWriter:
  """Writes the teachers' results of one split; resumes where an earlier run stopped.

      with TeacherWriter(folder, 'train_boxes', 512, metadata) as writer:
        for record in source:
          if record.image_id not in writer:
            writer.write(record.image_id, {...})

  Leaving the block without an exception completes the split; with one, what has been written is
  kept for the next run.  Of several processes the last one completes it.  A complete split takes
  the results of more images, and is read as it was until they are all there.

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
    class_names: Sequence[str] = (),
    embedding_dtype: str = "float32",
  ):
    """Opens or resumes a split in the folder of all splits, which may be remote.

    Args:
      embedding_dim: width of the CLIP embeddings.
      metadata: whatever decides the results, as JSON values.
      records_per_shard: at most this many records are lost when a run is killed.
      total: number of records of all processes; needed where there are several.
      process_index, process_count: each process has its own parts; from run to run their number
        may change.
      class_names: those that pseudo labels are numbers of.
      embedding_dtype: that of the stored embeddings, see `results.features`.

    Raises:
      ValueError: the split holds results that were made with other metadata or by an earlier
        version, there is no such process, or an unknown type.
    """
    if not 0 <= process_index < process_count or (process_count > 1 and total is None):
      raise ValueError(
        f"process {process_index} of {process_count}, total={total}: expected an index from 0 to "
        "the count less 1, and with several processes the total number of records."
      )
    if embedding_dtype not in results.DTYPES:
      raise ValueError(f"embedding_dtype is {embedding_dtype!r}; expected one of {results.DTYPES}.")
    self.process_index, self.process_count = process_index, process_count
    self._split, self._total = split, total
    self._target = storage.path(folder) / split
    if results.is_legacy(self._target):
      raise ValueError(
        f"{self._target} holds results of an earlier version. They can be trained on as they are, "
        "but not carried on: give another --output, or remove that folder."
      )
    self._folder = storage.work_folder(self._target)
    self._embeddings = (embedding_dim, embedding_dtype)
    self._records_per_shard = records_per_shard
    self._content = {
      "settings": dict(metadata),
      "class_names": list(class_names),
      "embedding_dim": embedding_dim,
      "embedding_dtype": embedding_dtype,
    }
    self._check_metadata()
    self._part, self.complete = None, False
    self._prefix = f"{process_index:03d}-" if process_count > 1 else ""
    for partial in self._folder.glob(f"{self._prefix}*.partial"):
      if partial.is_dir():
        shutil.rmtree(partial)
      else:
        partial.unlink()
    self._done, self.positions = self._written()

  def _check_metadata(self) -> None:
    """Stores the metadata, or compares it with what is there."""
    path = self._target / results.METADATA
    if not path.exists():
      storage.write(path, json.dumps(self._content, indent=1) + "\n")
      return
    with shards.damage_named(path, f"remove {self._target}."):
      found = json.loads(path.read_text())
    if changes := json_checks.differences(found, self._content):
      shown = ", ".join(f"{k} {a!r:.60}, now it is {b!r:.60}" for k, (a, b) in changes.items())
      raise ValueError(
        f"{path} was made with {shown}: use the same settings, or another folder, or remove this "
        "one."
      )

  def __contains__(self, image_id: int) -> bool:
    return int(image_id) in self._done

  def __len__(self) -> int:
    return len(self._done)

  def __enter__(self) -> "TeacherWriter":
    return self

  def __exit__(self, exception_type, exception, traceback):
    self._close_part()
    self.complete = exception_type is None and (
      self.process_count == 1 or len(self._written()[0]) == self._total
    )
    if not self.complete:
      return
    try:
      self._finish()
    except (ValueError, OSError):
      # Of two processes that see the last part at the same time one is faster, and removes it.
      index = self._index() if self.process_count > 1 else None
      if index is None or not self._done <= set(index.image_ids.tolist()):
        raise

  def write(
    self,
    image_id: int,
    record: _Arrays,
    position: int = -1,
    notes: _Notes = None,
    checksum: int = -1,
  ) -> None:
    """Adds the results of one image.

    Args:
      image_id: of the image.
      record: arrays as in `results.FIELDS`.
      position: of the image in the source, so that a later run need not read it to skip it.
      notes: JSON values by name that are no results, such as why there are none.
      checksum: of the image, see `index.checksum`; -1 if it is not known.

    Raises:
      ValueError: the image is already there, or the arrays are not as `results.checked` has them.
    """
    image_id = int(image_id)
    if image_id in self._done:
      raise ValueError(
        f"Teacher record of image {image_id} for {self._target}: already written; "
        "ask `image_id in writer` first."
      )
    if self._part is None:
      names = {path.stem for path in storage.matching(self._target, f"{results.PART}*.json")}
      numbered = (f"{self._prefix}{n:05d}" for n in itertools.count())
      name = next(name for name in numbered if f"{results.PART}{name}" not in names)
      self._part = ResultPart(self._target, name, f"{self._prefix}part", self._embeddings)
    self._part.add(image_id, record, position, notes, checksum)
    self._done.add(image_id)
    if position >= 0:
      self.positions[position] = image_id
    if len(self._part) >= self._records_per_shard:
      self._close_part()

  def _close_part(self) -> None:
    if self._part is not None:
      self._part.close()
      self._part = None

  def _local(self, *endings: str) -> Path:
    return storage.local_copy(self._target, lambda name: name.endswith(endings), missing_ok=True)

  def _index(self) -> index_lib.ResultIndex | None:
    """That of the complete split, if it is there."""
    if not (self._target / results.MARK).exists():
      return None
    return index_lib.load(self._local(".npz"), self._split, index_lib.ResultIndex)

  def _parts(self) -> list[shards.Part]:
    return shards.read_parts(self._local(".json"), results.PART)

  def _written(self) -> tuple[set[int], dict[int, int]]:
    """Image ids in all complete parts, and those by position."""
    rows = [row[:2] for part in self._parts() for row in part.rows]
    if (index := self._index()) is not None:
      rows.extend(zip(index.image_ids.tolist(), index.positions.tolist()))
    return {i for i, _ in rows}, {position: i for i, position in rows if position >= 0}

  def _finish(self) -> None:
    """Makes one data set of all parts, unless it is there.

    At any moment a kill leaves either the mark of a complete split or all parts.
    """
    self._local("")
    parts, index = self._parts(), self._index()
    if index is not None:
      if {row[0] for part in parts for row in part.rows} <= set(index.image_ids.tolist()):
        return self._remove(parts)
      self._reopen(index)
      parts = self._parts()
    folder = self._folder / f"{self._prefix}finish.partial"
    folder.mkdir()
    try:
      self._make(folder, parts)
      names = sorted(path.name for path in folder.iterdir() if path.name != results.MARK)
      for name in (*names, results.MARK):
        storage.put(folder / name, self._target / name)
    finally:
      shutil.rmtree(folder)
    for path in storage.matching(
      self._target, f"{results.NAME}-{glob.escape(self._split)}.array_record-*"
    ):
      if path.name not in names:
        path.unlink()
    self._remove(parts)

  def _make(self, folder: Path, parts: Sequence[shards.Part]) -> None:
    """The files of the data set, with the results in the order of their positions."""
    entries = {}
    for part in parts:
      for number, row in enumerate(part.rows):
        entries.setdefault(row[0], (row, part.path, number))
    # Those without a position stay behind the others, in the order in which they were written.
    order = sorted(entries.values(), key=lambda entry: entry[0][1] % 2**63)
    opened = functools.lru_cache(_OPEN_PARTS)(shards.open_shard)

    def records() -> Iterator[bytes]:
      for _, path, number in order:
        with shards.part_damage_named(path):
          (record,) = opened(path).read([number])
        yield record

    template = ShardedFileTemplate(
      data_dir=epath.Path(folder),
      dataset_name=results.NAME,
      split=self._split,
      filetype_suffix="array_record",
    )
    info = shards.write_shards(records(), template)
    tfds.folder_dataset.write_metadata(
      data_dir=folder,
      features=results.features(*self._embeddings),
      split_infos=[info],
      check_data=False,
      description="Regions, their CLIP embeddings and pseudo boxes of frozen teachers.",
      metadata=tfds.core.MetadataDict(self._content),
    )
    rows = [row for row, *_ in order]
    columns = np.array([row[:5] for row in rows], np.int64).T
    index_lib.save(folder, self._split, index_lib.ResultIndex(*columns))
    notes = {str(row[0]): row[5] for row in rows if row[5]}
    (folder / results.NOTES).write_text(json.dumps(notes, indent=1) + "\n")

  def _reopen(self, index: index_lib.ResultIndex) -> None:
    """Makes a part of a complete split, which then is none, to be joined by further parts."""
    local, raw = self._local(""), tfds.decode.DeserializeMethod.RAW_BYTES
    builder = tfds.builder_from_directory(os.fspath(local))
    records = builder.as_data_source(self._split, deserialize_method=raw)  # pyright: ignore[reportCallIssue]
    notes = json.loads((local / results.NOTES).read_text())
    part = shards.PartWriter(self._target, f"{results.PART}complete", f"{self._prefix}complete")
    columns = (column.tolist() for column in vars(index).values())
    for record, image_id, *row in zip(records, *columns):
      part.write(record, (image_id, *row, notes.get(str(image_id), {})))
    part.close()
    (self._target / results.MARK).unlink()

  def _remove(self, parts: Sequence[shards.Part]) -> None:
    for part in parts:
      for name in (part.path.name, part.path.with_suffix(".json").name):
        (self._target / name).unlink(missing_ok=True)
