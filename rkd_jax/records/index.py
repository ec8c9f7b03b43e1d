"""What can be said of every record without reading it: for choosing records and their frequency.

A builder writes the index of a split beside its shards (`save`); for data sets without that file
`rkd_jax.records.sources` makes it by reading the records.
"""

import dataclasses
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int

RULES = ("", "boxes", "labels", "pseudo_boxes")


@dataclasses.dataclass(frozen=True)
class Index:
  """Columns over the n records of a split, in their order.

  `classes` are those of a record's boxes, each once and without crowds, one record after the
  other; those of record i are `classes[starts[i]:starts[i + 1]]`.
  """

  heights: Int[np.ndarray, "n"]
  widths: Int[np.ndarray, "n"]
  classes: Int[np.ndarray, "m"]
  starts: Int[np.ndarray, "n+1"]
  num_labels: Int[np.ndarray, "n"]
  num_pseudo_boxes: Int[np.ndarray, "n"]

  def __len__(self) -> int:
    return len(self.heights)

  def matching(self, rule: str) -> Bool[np.ndarray, "n"]:
    """Which records have what a rule asks for.

    Args:
      rule: '' (all records), 'boxes' (at least one box that is no crowd), 'labels' (an
        image-level label) or 'pseudo_boxes' (a pseudo box for one).

    Raises:
      ValueError: an unknown rule.
    """
    if rule == "":
      return np.ones(len(self), bool)
    if rule == "boxes":
      return np.diff(self.starts) > 0
    if rule == "labels":
      return self.num_labels > 0
    if rule == "pseudo_boxes":
      return self.num_pseudo_boxes > 0
    raise ValueError(f"records is {rule!r}; expected one of {', '.join(map(repr, RULES))}.")

  def take(self, positions: Int[np.ndarray, "k"]) -> "Index":
    """The index of these records alone."""
    counts = np.diff(self.starts)[positions]
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Each entry's place in `classes`: where its record begins, and its number within the record.
    places = np.repeat(self.starts[positions] - starts[:-1], counts) + np.arange(starts[-1])
    columns = (self.heights, self.widths, self.num_labels, self.num_pseudo_boxes)
    heights, widths, labels, pseudo = (column[positions] for column in columns)
    return Index(heights, widths, self.classes[places], starts, labels, pseudo)

  def image_counts(self, num_classes: int) -> Int[np.ndarray, "c"]:
    """The number of records with a box of each class."""
    return np.bincount(self.classes, minlength=num_classes)


def make(rows: Iterable[tuple[int, int, Sequence[int], int, int]]) -> Index:
  """The index of rows (height, width, classes of the boxes, number of labels, of pseudo boxes)."""
  heights, widths, classes, starts, labels, pseudo = [], [], [], [0], [], []
  for height, width, found, num_labels, num_pseudo in rows:
    heights.append(height)
    widths.append(width)
    classes.extend(sorted({int(number) for number in found}))
    starts.append(len(classes))
    labels.append(num_labels)
    pseudo.append(num_pseudo)
  return Index(
    np.array(heights, np.int32),
    np.array(widths, np.int32),
    np.array(classes, np.int32),
    np.array(starts, np.int64),
    np.array(labels, np.int32),
    np.array(pseudo, np.int32),
  )


def file_of(folder: str | os.PathLike, split: str) -> Path:
  """Where the index of a split lies in the folder of a built data set."""
  return Path(folder) / f"{split}.index.npz"


def save(folder: str | os.PathLike, split: str, index: Index):
  """Writes the index of a split."""
  with file_of(folder, split).open("wb") as file:
    np.savez(file, **dataclasses.asdict(index))


def load(folder: str | os.PathLike, split: str) -> Index:
  """Reads the index of a split.

  Raises:
    ValueError: the file is damaged or not an index.
  """
  path = file_of(folder, split)
  try:
    with np.load(path, allow_pickle=False) as arrays:
      return Index(**arrays)
  except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"{path} is no index of records ({error}): remove it, or build again."
    ) from error
