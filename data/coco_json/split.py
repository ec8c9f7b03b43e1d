"""A split of a COCO-format data set: some images of an annotation file, some of their boxes."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from rkd_jax.data.coco_json import annotations
from rkd_jax.records import decoding, schema


@dataclasses.dataclass(frozen=True)
class AnnotatedSplit:
  """A `records.Split` of images and objects of an annotation file.

  Attributes:
    content: what its JSON says.
    kept: names of the classes whose boxes are stored.
    images: those of `content` that are stored.
    captions: image id -> captions; images may be missing.
    labels: image id -> image-level labels (classes).
    federated: store LVIS' negative and not exhaustive classes of each image.
    skip_bad_images: leave out images that cannot be decoded, with a counted warning.
  """

  content: annotations.Annotations
  kept: Sequence[str]
  images: Sequence[annotations.AnnotatedImage]
  captions: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)
  labels: Mapping[int, Sequence[int]] = dataclasses.field(default_factory=dict)
  federated: bool = False
  skip_bad_images: bool = False

  @functools.cached_property
  def _is_kept(self) -> np.ndarray:
    kept = set(self.kept)
    return np.array([name in kept for name in self.class_names])

  def keep(self, image: annotations.AnnotatedImage) -> np.ndarray:
    """Which objects of an image are stored."""
    return self._is_kept[image.classes]

  @property
  def source(self) -> str:
    """The file."""
    return str(self.content.path)

  @property
  def class_names(self) -> Sequence[str]:
    """Of all categories of the file."""
    return self.content.class_names

  @property
  def has_polygons(self) -> bool:
    """Whether any object of the file has one."""
    return any(own for image in self.content.images for own in image.polygons)

  def num_boxes(self) -> dict[str, int]:
    """Class name -> number of boxes that are kept, crowds included."""
    names = self.content.class_names
    classes = np.concatenate([np.zeros(0, np.int64), *(i.classes for i in self.images)])
    counts = np.bincount(classes, minlength=len(names)) * self._is_kept
    return {name: int(count) for name, count in zip(names, counts) if count}

  def image_counts(self) -> list[int]:
    """The number of images with a box that is kept, of each class."""
    found = [np.unique(image.classes[self.keep(image)]) for image in self.images]
    classes = np.concatenate([np.zeros(0, np.int64), *found])
    return np.bincount(classes, minlength=len(self.content.class_names)).tolist()

  def describe(self, name: str) -> list[str]:
    """Counts, what was repaired, and which classes the validation lacks."""
    counts = self.num_boxes()
    boxed = sum(bool(self.keep(image).any()) for image in self.images)
    labelled = sum(bool(self.labels.get(image.image_id)) for image in self.images)
    lines = [
      f"{name}: {len(self.images)} images, {boxed} with boxes, {labelled} with labels; "
      f"{sum(counts.values())} boxes of {len(counts)} classes: {_shortened(counts)}"
    ]
    lines += [f"{name}: {count} {what}" for what, count in self.content.repairs.items()]
    missing = [label for label in self.kept if label not in counts]
    if name == "validation" and missing:
      lines.append(f"{name}: no box of {len(missing)} classes: {missing[:20]}")
    return lines

  def __len__(self) -> int:
    return len(self.images)

  def entries(self, start: int = 0, stop: int | None = None) -> Iterator["AnnotatedEntry"]:
    """As `records.Split`; an image of another size than the JSON says is an error, too."""
    for image in self.images[start:stop]:
      yield AnnotatedEntry(
        image,
        self.keep(image),
        self.captions.get(image.image_id, ()),
        self.labels.get(image.image_id, ()),
        self.federated,
        self.source,
      )


class AnnotatedEntry(NamedTuple):
  """A `records.Entry`: an image with the objects to keep, its captions and image-level labels."""

  image: annotations.AnnotatedImage
  keep: Bool[np.ndarray, "g"]
  captions: Sequence[str]
  labels: Sequence[int]
  federated: bool
  json: str

  def load(self) -> dict[str, Any]:
    """As `records.Entry`."""
    image, keep = self.image, self.keep
    return {
      "image": _read_image(image, self.json),
      "image_id": image.image_id,
      "filename": image.filename,
      "height": image.height,
      "width": image.width,
      "boxes": image.boxes[keep],
      "classes": image.classes[keep],
      "object_ids": image.object_ids[keep],
      "areas": image.areas[keep],
      "is_crowd": image.is_crowd[keep],
      "captions": self.captions,
      "labels": self.labels,
      "polygons": [image.polygons[i] for i in np.flatnonzero(keep)],
      "federated": {name: getattr(image, name) for name in schema.FEDERATED}
      if self.federated
      else None,
    }


def _read_image(image: annotations.AnnotatedImage, json: str) -> bytes:
  """The encoded bytes of an image, which has been decoded once to see that it is whole."""
  name = f"{image.path} (image id {image.image_id} of {json})"
  try:
    data = image.path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"Cannot read {name}: {error.strerror}. The name is taken relative to the folder of "
      "images: check that folder, or remove the image from the JSON."
    ) from error
  height, width = decoding.decode_image(data, name).shape[:2]
  if (height, width) != (image.height, image.width):
    raise ValueError(
      f"{name} is {width} x {height} (width x height, upright as its EXIF orientation asks), but "
      f"the JSON says {image.width} x {image.height}: the boxes would be wrong. Use the images "
      "that were annotated, or correct the JSON."
    )
  return data


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
