"""Results of the frozen teachers: regions, their CLIP embeddings, pseudo boxes.

`rkd_jax.precompute` makes them once per data set, beside the records; training joins the two when
it reads (`records.joined`).  A folder holds, per split, a TFDS data set of that one split,

    FOLDER/SPLIT/teachers-SPLIT.array_record-00000-of-00003 ...   the results, in the source's order
    FOLDER/SPLIT/SPLIT.index.npz      image ids, positions, checksums of images, numbers of boxes
    FOLDER/SPLIT/metadata.json        what made the results, and for which classes
    FOLDER/SPLIT/notes.json           by image id, such as why an image could not be read
    FOLDER/SPLIT/features.json, dataset_info.json

and while it is being made (`results_writer`), parts of that.  dataset_info.json is written last.
Folders of earlier versions are read, too (`legacy_results`).

A folder may be remote (gs://...): it is copied to this machine (`rkd_jax.files.storage`).
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import json_format
from jaxtyping import Int

from rkd_jax.files import storage
from rkd_jax.records import index as index_lib
from rkd_jax.records import legacy_results
from rkd_jax.records.shards import read_parts

NAME = "teachers"
METADATA, MARK, NOTES = "metadata.json", "dataset_info.json", "notes.json"
PART = "part-"
DTYPES = ("float32", "float16")
# What makes the results, for messages.
COMMAND = "python -m rkd_jax.precompute ..."

# Every array of a result: its type, and its shape behind the number of rows (-1: embedding width).
FIELDS = {
  "regions/boxes": (np.float32, (4,)),
  "regions/scores": (np.float32, ()),
  "regions/clip_embeddings": (np.float32, (-1,)),
  "pseudo_boxes/boxes": (np.float32, (4,)),
  "pseudo_boxes/labels": (np.int64, ()),
  "pseudo_boxes/scores": (np.float32, ()),
}


def features(embedding_dim: int, embedding_dtype: str = "float32") -> tfds.features.FeaturesDict:
  """The schema of results: boxes are XYXY pixels of the stored image, embeddings not normalised.

  Args:
    embedding_dim: width D.
    embedding_dtype: float32, or float16, which halves a result and rounds each value to half
      precision: a relative error of at most 2^-11 (values below 6e-5: at most 3e-8).  Cosines of
      640 embeddings of random numbers changed by at most 7e-5.
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


class _Stored:
  """A complete split; what `legacy_results.LegacyResults` is for folders of earlier versions."""

  def __init__(self, folder: Path, split: str):
    """Raises ValueError where a file is missing or damaged."""
    self._folder = folder
    try:
      builder = tfds.builder_from_directory(os.fspath(folder))
      content = json.loads((folder / METADATA).read_text())
      self.metadata: dict[str, Any] = content["settings"]
      self.embedding_dim: int = content["embedding_dim"]
      self.class_names: tuple[str, ...] = tuple(content["class_names"])
      self._records = builder.as_data_source(split)  # pyright: ignore[reportCallIssue]
      notes = json.loads((folder / NOTES).read_text())
    except (ValueError, KeyError, OSError, RuntimeError, json_format.ParseError) as error:
      raise self._damaged(error) from error
    self.notes: dict[int, dict[str, Any]] = {int(key): note for key, note in notes.items()}
    self.index = index_lib.load(folder, split, index_lib.ResultIndex)
    if len(self.index.image_ids) != len(self._records):
      raise self._damaged(f"{len(self._records)} results, {len(self.index.image_ids)} in the index")

  def read(self, row: int) -> dict[str, Any]:
    try:
      return self._records[row]
    except (RuntimeError, ValueError, IndexError) as error:
      raise self._damaged(f"{error}, result {row}") from error

  def _damaged(self, reason: Exception | str) -> ValueError:
    return ValueError(
      f"{self._folder} is damaged or cut off ({reason}): remove it and run `{COMMAND}` again."
    )


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
    """Opens a complete split.

    Args:
      folder: of all splits of a data set; may be remote.
      split: name of the split.
      command: what makes the results, for messages.

    Raises:
      ValueError: nothing there, not complete, or damaged.
      OSError: of a remote folder, see `storage.local_copy`.
    """
    self.folder = storage.path(folder) / split
    if legacy_results.is_legacy(self.folder):
      self._stored = legacy_results.LegacyResults(self.folder)
    else:
      self._stored = _Stored(_complete(self.folder, command), split)
    self.metadata, self.notes = self._stored.metadata, self._stored.notes
    self.class_names = self._stored.class_names
    self.embedding_dim = self._stored.embedding_dim
    self.image_ids = self._stored.index.image_ids
    self.checksums = self._stored.index.checksums
    self._order = np.argsort(self.image_ids, kind="stable")

  def __len__(self) -> int:
    return len(self.image_ids)

  def __contains__(self, image_id: int) -> bool:
    return self.rows([image_id])[0] >= 0

  def __getitem__(self, image_id: int) -> dict[str, np.ndarray]:
    """The arrays of `FIELDS` for one image.

    Raises:
      ValueError: there is no result for this image, or it is damaged.
    """
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
