"""What can be said of every record without reading it: for choosing records and their frequency.

A builder writes the index of a split beside its shards (`save`); for data sets without that file
`rkd_jax.records.sources` makes it by reading the records.  The results of teachers have one of
their own (`ResultIndex`), and the two say which results belong to which records.
"""

import dataclasses
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import xxhash
from jaxtyping import Bool, Int

from rkd_jax.files import storage
from rkd_jax.files.untrusted.archives import read_arrays


class Row(NamedTuple):
  """One record: `classes` are those of boxes that are no crowds, -1 stands for unknown."""

  height: int
  width: int
  classes: Sequence[int]
  num_labels: int
  num_pseudo_boxes: int = 0
  image_id: int = -1
  checksum: int = -1


@dataclasses.dataclass(frozen=True)
class Index:
  """Columns over the n records of a split, in their order.

  `classes[starts[i]:starts[i + 1]]` are those of the boxes of record i, each once and without
  crowds.  Files of earlier versions have no image ids, checksums (see `checksum`) and numbers of
  boxes (which are no crowds).
  """

  heights: Int[np.ndarray, "n"]
  widths: Int[np.ndarray, "n"]
  classes: Int[np.ndarray, "m"]
  starts: Int[np.ndarray, "n+1"]
  num_labels: Int[np.ndarray, "n"]
  num_pseudo_boxes: Int[np.ndarray, "n"]
  image_ids: Int[np.ndarray, "n"] | None = None
  checksums: Int[np.ndarray, "n"] | None = None
  num_boxes: Int[np.ndarray, "n"] | None = None

  def __len__(self) -> int:
    return len(self.heights)

  def matching(self, rule: str) -> Bool[np.ndarray, "n"]:
    """Whether each record has what a rule asks for; ValueError for an unknown rule.

    Rules are '' (all records), 'boxes' (at least one that is no crowd), 'labels' (of the image)
    and 'pseudo_boxes' (for a label).
    """
    if rule not in _RULES:
      raise ValueError(f"records is {rule!r}; expected one of {', '.join(map(repr, _RULES))}.")
    return _RULES[rule](self)

  def take(self, positions: Int[np.ndarray, "k"]) -> "Index":
    """The index of these records alone."""
    counts = np.diff(self.starts)[positions]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Each entry's place in `classes`: where its record begins, and its number within the record.
    places = np.repeat(self.starts[positions] - starts[:-1], counts) + np.arange(starts[-1])
    whole = {"classes": self.classes[places], "starts": starts}
    columns = {k: v for k, v in vars(self).items() if k not in whole and v is not None}
    return Index(**whole, **{name: column[positions] for name, column in columns.items()})

  def image_counts(self, num_classes: int) -> Int[np.ndarray, "c"]:
    """The number of records with a box of each class."""
    return np.bincount(self.classes, minlength=num_classes)


_RULES = {
  "": lambda index: np.ones(len(index), bool),
  "boxes": lambda index: np.diff(index.starts) > 0,
  "labels": lambda index: index.num_labels > 0,
  "pseudo_boxes": lambda index: index.num_pseudo_boxes > 0,
}


@dataclasses.dataclass(frozen=True)
class ResultIndex:
  """Columns over the n results of a split, in their order.

  `positions` are those of the images in the data set, and `checksums` those of the images that
  the teachers saw; both -1 where that is not known.  Folders of earlier versions have no numbers.
  """

  image_ids: Int[np.ndarray, "n"]
  positions: Int[np.ndarray, "n"]
  checksums: Int[np.ndarray, "n"]
  num_regions: Int[np.ndarray, "n"] | None = None
  num_pseudo_boxes: Int[np.ndarray, "n"] | None = None


def checksum(image: bytes) -> int:
  """CRC-32 of an encoded image: tells images apart that have the same id in two data sets."""
  return zlib.crc32(image)


def make(rows: Iterable[Sequence]) -> Index:
  """The index of records, each with the values of `Row`."""
  rows = [Row(*row) for row in rows]
  classes = [sorted({int(number) for number in row.classes}) for row in rows]

  def column(name: str, dtype: type = np.int32) -> np.ndarray:
    return np.array([getattr(row, name) for row in rows], dtype)

  return Index(
    column("height"),
    column("width"),
    np.array([number for own in classes for number in own], np.int32),
    np.cumsum([0, *map(len, classes)], dtype=np.int64),
    column("num_labels"),
    column("num_pseudo_boxes"),
    column("image_id", np.int64),
    column("checksum", np.int64),
    np.array([len(row.classes) for row in rows], np.int32),
  )


def digest(index: "Index | ResultIndex") -> str:
  """XXH3 of all columns that earlier versions wrote, too."""
  whole = xxhash.xxh3_64()
  for name, column in vars(index).items():
    if column is not None and name != "num_boxes":
      whole.update(f"{name} {column.dtype} {column.shape}".encode())
      whole.update(np.ascontiguousarray(column).data)
  return whole.hexdigest()


_AnyIndex = TypeVar("_AnyIndex", Index, ResultIndex)


def file_of(folder: str | os.PathLike, split: str) -> Path:
  """Where the index of a split lies in the folder of a built data set."""
  return Path(folder) / f"{split}.index.npz"


def save(folder: str | os.PathLike, split: str, index: _AnyIndex) -> None:
  """Writes the index of a split, whole or not at all."""
  with storage.writing(file_of(folder, split)) as partial, partial.open("wb") as file:
    np.savez(file, **{k: v for k, v in vars(index).items() if v is not None})


def load(folder: str | os.PathLike, split: str, kind: type[_AnyIndex] = Index) -> _AnyIndex:
  """Reads the index of a split; ValueError if it is missing, damaged or something else."""
  path = file_of(folder, split)
  try:
    arrays = read_arrays(path)
    if not isinstance(arrays, dict):
      raise ValueError("it holds one array")
    return kind(**arrays)
  except (OSError, ValueError, TypeError) as error:
    message = f"{path} is no index of records ({error}): remove it, or build again."
    raise ValueError(message) from error
