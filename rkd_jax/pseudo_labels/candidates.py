"""Boxes that may stand for a class, and the best of each class out of any number of them."""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np
from jaxtyping import Float32, Int


@dataclasses.dataclass(frozen=True)
class Candidates:
  """n boxes, each with the class that it may stand for.

  Attributes:
    keys: what they are ranked by, the larger the better.
    image_ids: of their images.
    splits: number of the split that the image is of.
    regions: number of the box in its image.
    labels: number of the class.
    similarities: cosine between the embedding of the box and that of the class.
    boxes: XYXY pixels of the stored image.
    embeddings: CLIP's, unit vectors; of width 0 where they are not needed.
  """

  keys: Float32[np.ndarray, "n"]
  image_ids: Int[np.ndarray, "n"]
  splits: Int[np.ndarray, "n"]
  regions: Int[np.ndarray, "n"]
  labels: Int[np.ndarray, "n"]
  similarities: Float32[np.ndarray, "n"]
  boxes: Float32[np.ndarray, "n 4"]
  embeddings: Float32[np.ndarray, "n d"]

  def __len__(self) -> int:
    return len(self.keys)

  def take(self, rows: np.ndarray) -> Self:
    """Those of some rows."""
    return dataclasses.replace(self, **{name: column[rows] for name, column in vars(self).items()})

  def ranked(self) -> Int[np.ndarray, "n"]:
    """Rows from the best to the worst; equals by image id, then split, then number of the box."""
    return np.lexsort((self.regions, self.splits, self.image_ids, -self.keys))

  def of_image(self, split: int, image_id: int) -> Self:
    """Those of one image, in their order."""
    return self.take(np.flatnonzero((self.splits == split) & (self.image_ids == image_id)))


def joined(parts: Sequence[Candidates]) -> Candidates:
  """All of at least one part, in their order."""
  columns = (field.name for field in dataclasses.fields(Candidates))
  return Candidates(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in columns})


def limited(found: Candidates, per_image: int) -> Candidates:
  """The best `per_image` of each class in each image, ranked."""
  found = found.take(found.ranked())
  groups = np.stack([found.labels, found.splits, found.image_ids])
  # Stable, so that within a group the best stay first.
  order = np.lexsort(groups)
  begins = np.flatnonzero(np.diff(groups[:, order], axis=1, prepend=-1).any(0))
  sizes = np.diff(begins, append=len(order))
  place = np.arange(len(order)) - np.repeat(begins, sizes)
  return found.take(np.sort(order[place < per_image]))


class Best:
  """The best candidates of each class, whatever the order in which they are added.

  Memory grows with the number of classes and of candidates that are kept, not with those added.

  Args:
    count: most candidates of a class.
    per_image: most candidates of a class in one image.
  """

  def __init__(self, count: int, per_image: int):
    self._count, self._per_image = count, per_image
    self._kept: dict[int, Candidates] = {}

  def least(self, num_classes: int) -> Float32[np.ndarray, "c"]:
    """The key below which a candidate of each class is certainly not kept; -inf if any may be."""
    least = np.full(num_classes, -np.inf, np.float32)
    for label, kept in self._kept.items():
      if len(kept) == self._count:
        least[label] = kept.keys[-1]
    return least

  def add(self, found: Candidates) -> None:
    """Adds candidates; all of an image have to come together, for the limit per image."""
    found = limited(found, self._per_image)
    for label in np.unique(found.labels).tolist():
      own = found.take(np.flatnonzero(found.labels == label))
      if label in self._kept:
        own = joined([self._kept[label], own])
      self._kept[label] = own.take(own.ranked()[: self._count])

  def of(self, label: int) -> Candidates | None:
    """The candidates of a class, the best first; None where there are none."""
    return self._kept.get(label)

  def all(self) -> list[Candidates]:
    """Those of each class that has any, by its number."""
    return [self._kept[label] for label in sorted(self._kept)]
