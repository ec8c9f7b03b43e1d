"""A split of a COCO-format data set: some images of an annotation file, some of their boxes."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rkd_jax.data import making
from rkd_jax.data.coco_json import annotations


@dataclasses.dataclass(frozen=True)
class AnnotatedSplit(making.Split):
  """Images and objects of an annotation file.

  Attributes:
    content: what its JSON says.
    kept: names of the classes whose boxes are stored.
    images: those of `content` that are stored.
    captions: image id -> captions; images may be missing.
    labels: image id -> image-level labels (classes).
  """

  content: annotations.Annotations
  kept: Sequence[str]
  images: Sequence[annotations.AnnotatedImage]
  captions: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)
  labels: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def _is_kept(self) -> np.ndarray:
    kept = set(self.kept)
    return np.array([name in kept for name in self.class_names])

  def keep(self, image: annotations.AnnotatedImage) -> np.ndarray:
    """Which objects of an image are stored."""
    return self._is_kept[image.classes]

  @property
  def source(self) -> str:
    return str(self.content.path)

  @property
  def class_names(self) -> Sequence[str]:
    return self.content.class_names

  @property
  def has_polygons(self) -> bool:
    return self.content.has_polygons

  @property
  def federated(self) -> bool:
    return self.content.images[0].federated is not None

  def num_boxes(self) -> dict[str, int]:
    """Class name -> number of boxes that are kept, crowds included."""
    classes = np.concatenate([np.zeros(0, np.int64), *(i.classes for i in self.images)])
    counts = np.bincount(classes, minlength=len(self.class_names)) * self._is_kept
    return {name: int(count) for name, count in zip(self.class_names, counts) if count}

  def image_counts(self) -> list[int]:
    kept = (image.classes[self.keep(image)] for image in self.images)
    return making.image_counts(kept, len(self.class_names))

  def describe(self, name: str) -> list[str]:
    """Counts, what was odd or repaired, and which classes the validation lacks."""
    counts = self.num_boxes()
    boxed = sum(bool(self.keep(image).any()) for image in self.images)
    labelled = sum(bool(self.labels.get(image.image_id)) for image in self.images)
    lines = [
      f"{name}: {len(self.images)} images, {boxed} with boxes, {labelled} with labels; "
      f"{sum(counts.values())} boxes of {len(counts)} classes: {_shortened(counts)}"
    ]
    counted = {**self.content.notes, **self.content.repairs}
    lines += [f"{name}: {count} {what}" for what, count in counted.items()]
    missing = [label for label in self.kept if label not in counts]
    if name == "validation" and missing:
      lines.append(f"{name}: no box of {len(missing)} classes: {missing[:20]}")
    return lines

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator[making.Entry]:
    """The entries; an image of another size than the JSON says is an error, too."""
    for image in self.images[start:stop]:
      keep = self.keep(image)
      objects = ("boxes", "classes", "object_ids", "areas", "is_crowd")
      fields = {
        **{name: getattr(image, name)[keep] for name in objects},
        "image_id": image.image_id,
        "filename": image.filename,
        "captions": self.captions.get(image.image_id, ()),
        "labels": self.labels.get(image.image_id, ()),
        "polygons": [image.polygons[i] for i in np.flatnonzero(keep)],
        "federated": image.federated,
      }
      name = f"{image.path} (image id {image.image_id} of {self.source})"
      yield making.Entry(making.Place(image.path), name, fields, (image.height, image.width))


def divide(
  images: Sequence[annotations.AnnotatedImage], share: float
) -> tuple[list[annotations.AnnotatedImage], list[annotations.AnnotatedImage]]:
  """Images to train on and images to evaluate on, about `share` of all and at least one.

  The name of its file alone decides where an image goes, so that it stays there when others are
  added; of images with equal names both go the same way.
  Raises ValueError: the share is not within (0, 1), or one of the two would be empty.
  """
  if not 0 < share < 1:
    raise ValueError(f"The share to evaluate on is {share}, expected more than 0 and less than 1.")
  digests = [hashlib.sha256(image.filename.encode()).digest()[:8] for image in images]
  places = [int.from_bytes(digest) / 2**64 for digest in digests]
  most = max(share, min(places))
  train = [image for image, place in zip(images, places) if place > most]
  validation = [image for image, place in zip(images, places) if place <= most]
  if not train:
    raise ValueError(
      f"{len(images)} images cannot be divided into some to train and some to evaluate on: give "
      "more, or annotations to evaluate on."
    )
  return train, validation


def images_with_boxes(
  content: annotations.Annotations, names: Sequence[str]
) -> list[annotations.AnnotatedImage]:
  """The images with an object, crowds included, of one of the classes."""
  wanted = np.array([name in set(names) for name in content.class_names])
  return [image for image in content.images if wanted[image.classes].any()]


def _shortened(counts: Mapping[str, int], most: int = 100) -> str:
  if len(counts) <= most:
    return str(dict(counts))
  few = sorted(counts.items(), key=lambda item: -item[1])[:5]
  return ", ".join(f"{name} {count}" for name, count in few) + ", ..."
