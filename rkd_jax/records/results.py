"""Results of the frozen teachers: regions, their CLIP embeddings, pseudo boxes.

`rkd_jax.precompute` makes them once per data set, beside the records; training joins the two when
it reads (`records.joined`).  A folder holds, per split, a TFDS data set of that one split,

    FOLDER/SPLIT/teachers-SPLIT.array_record-00000-of-00003 ...   the results, in the source's order
    FOLDER/SPLIT/SPLIT.index.npz      image ids, positions, checksums of images, numbers of boxes
    FOLDER/SPLIT/metadata.json        what made the results, and for which classes
    FOLDER/SPLIT/notes.json           by image id, such as why an image could not be read
    FOLDER/SPLIT/features.json, dataset_info.json

and while it is being made (`results_writer`), parts of that.  dataset_info.json is written last.
Complete folders of earlier versions are read, too.

A folder may be remote (gs://...): it is copied to this machine (`rkd_jax.files.storage`).
"""

import functools
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
import xxhash
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from flax import serialization
from jaxtyping import Int

from rkd_jax.files import storage
from rkd_jax.records import index as index_lib
from rkd_jax.records.shards import damage_named, open_shard, read_parts

NAME = "teachers"
METADATA, MARK, NOTES = "metadata.json", "dataset_info.json", "notes.json"
PART = "part-"
DTYPES = ("float32", "float16")
# What makes the results, for messages.
COMMAND = "python -m rkd_jax.precompute ..."
# Of earlier versions, in place of METADATA and MARK.
_MANIFEST = "manifest.json"
_LEGACY_REMEDY = f"bring back a copy, or make the results anew in another folder, with `{COMMAND}`."

# Every array of a result: its type, and its shape behind the number of rows (-1: embedding width).
FIELDS = {
  "regions/boxes": (np.float32, (4,)),
  "regions/scores": (np.float32, ()),
  "regions/clip_embeddings": (np.float32, (-1,)),
  "pseudo_boxes/boxes": (np.float32, (4,)),
  "pseudo_boxes/labels": (np.int64, ()),
  "pseudo_boxes/scores": (np.float32, ()),
}


def features(embedding_dim: int, embedding_dtype: str) -> tfds.features.FeaturesDict:
  """The schema of results: boxes are XYXY pixels of the stored image, embeddings not normalised.

  As float16 embeddings halve a result, with each value rounded to half precision: a relative error
  of at most 2^-11 (values below 6e-5: at most 3e-8).  Cosines of 640 embeddings of random numbers
  changed by at most 7e-5.
  """

  def rows(key: str) -> tfds.features.Tensor:
    dtype, shape = FIELDS[key]
    shape = tuple(embedding_dim if size == -1 else size for size in shape)
    dtype = np.dtype(embedding_dtype) if key == "regions/clip_embeddings" else dtype
    # As a list of numbers it would take three times as long to read.
    return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")

  return tfds.features.FeaturesDict({"image/id": np.int64, **{key: rows(key) for key in FIELDS}})


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


class _Stored(NamedTuple):
  """The files of a complete split; `read` gives the result of a row."""

  metadata: dict[str, Any]
  embedding_dim: int
  class_names: tuple[str, ...]
  notes: dict[int, dict[str, Any]]
  index: index_lib.ResultIndex
  read: Callable[[int], dict[str, Any]]


class TeacherReader:
  """Results of one split by image id, in any order; thread safe.

  Attributes:
    folder: of the split.
    metadata: what decided the results.
    class_names: those that pseudo labels are numbers of; none where that is not known.
    embedding_dim: width of the embeddings.
    image_ids, checksums: of the images, by row; see `index.ResultIndex`.
    notes: by image id, what was noted about an image; see `TeacherWriter.write`.
  """

  def __init__(self, folder: str | os.PathLike, split: str, command: str = COMMAND):
    """Opens a complete split; `folder` is that of all splits and may be remote.

    Messages name the `command` that makes the results.

    Raises:
      ValueError: nothing there, not complete, or damaged.
      OSError: of a remote folder, see `storage.local_copy`.
    """
    self.folder = storage.path(folder) / split
    if is_legacy(self.folder):
      self._stored = _open_legacy(self.folder)
    else:
      self._stored = _open(_complete(self.folder, command), split)
    self.metadata, self.embedding_dim, self.class_names, self.notes, index, _ = self._stored
    self.image_ids, self.checksums = index.image_ids, index.checksums
    self._order = np.argsort(self.image_ids, kind="stable")

  def __len__(self) -> int:
    return len(self.image_ids)

  @property
  def identity(self) -> str:
    """The same for the same results, wherever they lie."""
    settings = json.dumps([self.metadata, self.class_names, self.embedding_dim], sort_keys=True)
    return f"{xxhash.xxh3_64_hexdigest(settings.encode())}{index_lib.digest(self._stored.index)}"

  def __getitem__(self, image_id: int) -> dict[str, np.ndarray]:
    """The arrays of `FIELDS` for one image; ValueError if there are none, or they are damaged."""
    (row,) = self.rows([image_id])
    if row < 0:
      raise ValueError(
        f"No teacher results for image {image_id} in {self.folder} ({len(self)} results): "
        f"make them with `{COMMAND}`."
      )
    return self.at(row)

  def rows(self, image_ids: Sequence[int] | Int[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """Where the results of these images are, -1 where there is none."""
    if not len(self):
      return np.full(len(image_ids), -1)
    found = np.searchsorted(self.image_ids, image_ids, sorter=self._order)
    rows = self._order[np.minimum(found, len(self) - 1)]
    return np.where(self.image_ids[rows] == image_ids, rows, -1)

  def at(self, row: int) -> dict[str, np.ndarray]:
    """As for an image id, by `rows`."""
    record = dict(self._stored.read(int(row)))
    image_id, expected = record.pop("image/id"), self.image_ids[row]
    where = f"Image {expected} in {self.folder}"
    if image_id != expected:
      raise ValueError(f"{where}: the result there is of image {image_id}: make them again.")
    return checked(record, self.embedding_dim, where)

  @functools.cached_property
  def num_pseudo_boxes(self) -> Int[np.ndarray, "n"]:
    """By row; of a folder of an earlier version all results are read for it."""
    counts = self._stored.index.num_pseudo_boxes
    if counts is None:
      counts = [len(self.at(row)["pseudo_boxes/labels"]) for row in range(len(self))]
    return np.asarray(counts)


def _complete(folder: epath.Path, command: str) -> Path:
  """The local copy of a complete split."""
  if not (folder / METADATA).exists():
    raise ValueError(
      f"No teacher results: {folder / METADATA} is missing. Make them with `{command}`."
    )
  if not (folder / MARK).exists():
    local = storage.local_copy(folder, lambda name: name.startswith(PART) and ".json" in name)
    count = len({row[0] for part in read_parts(local, PART) for row in part.rows})
    raise ValueError(
      f"{folder}: only {count} results are there, the run that makes them did not finish. Start "
      f"it again, it carries on: `{command}`."
    )
  return storage.local_copy(folder, lambda name: not name.startswith(PART))


def _open(folder: Path, split: str) -> _Stored:
  damage = functools.partial(damage_named, folder, f"remove it and run `{COMMAND}` again.")
  index = index_lib.load(folder, split, index_lib.ResultIndex)
  with damage():
    records = tfds.builder_from_directory(os.fspath(folder)).as_data_source(split)  # pyright: ignore[reportCallIssue]
    if len(records) != len(index.image_ids):
      raise ValueError(f"{len(records)} results, {len(index.image_ids)} in the index")
    content = json.loads((folder / METADATA).read_text())
    settings, embedding_dim = content["settings"], content["embedding_dim"]
    names = tuple(content["class_names"])
    notes = {int(key): note for key, note in json.loads((folder / NOTES).read_text()).items()}

  def read(row: int) -> dict[str, Any]:
    with damage(f", result {row}"):
      return records[row]

  return _Stored(settings, embedding_dim, names, notes, index, read)


def is_legacy(folder: epath.Path) -> bool:
  """Whether an earlier version wrote to the folder of a split, and this one has not."""
  return (folder / _MANIFEST).exists() and not (folder / METADATA).exists()


def _open_legacy(folder: epath.Path) -> _Stored:
  """What earlier versions wrote: shards of msgpack dicts, and a manifest.

  The last record of a shard says what the others are: image ids, positions in the source (-1: not
  said), and notes about images.
  """
  path = folder / _MANIFEST
  with damage_named(path, _LEGACY_REMEDY):
    manifest = json.loads(path.read_text())
    metadata, embedding_dim = manifest["metadata"], manifest["embedding_dim"]
    count, complete = manifest["count"], manifest["complete"]
  if not complete:
    raise ValueError(
      f"{folder} holds results that an earlier version did not finish: go on with that version, "
      f"or make them anew in another folder, with `{COMMAND}`."
    )
  places, ids, positions, notes = [], [], [], {}
  for file in sorted(storage.local_copy(folder).glob("*.arrayrecord")):
    with damage_named(file, _LEGACY_REMEDY):
      shard = open_shard(file)
      # A shard that was cut off may seem to be empty.
      last = _unpack(shard, max(shard.num_records() - 1, 0))
      if "image_ids" not in last:
        raise ValueError("its last record does not say whose results it holds")
    own = last["image_ids"].tolist()
    places += [(file, shard, row) for row in range(len(own))]
    ids += own
    positions += np.asarray(last.get("positions", [-1] * len(own))).tolist()
    notes |= {int(key): note for key, note in json.loads(last.get("notes", "{}")).items()}
  if len(ids) != count:
    raise ValueError(
      f"{path} says {count} records, but the shards beside it hold {len(ids)}: bring back what "
      "is missing, or make them anew in another folder."
    )
  lock = threading.Lock()

  def read(row: int) -> dict[str, Any]:
    file, shard, place = places[row]
    with lock, damage_named(file, _LEGACY_REMEDY):
      record = _unpack(shard, place)
      return {"image/id": record.pop("image_id"), **record}

  columns = ids, positions, [-1] * count
  index = index_lib.ResultIndex(*(np.array(column, np.int64) for column in columns))
  return _Stored(metadata, embedding_dim, (), notes, index, read)


def _unpack(shard: ArrayRecordReader, row: int) -> Any:
  return serialization.msgpack_restore(shard.read([row])[0])
