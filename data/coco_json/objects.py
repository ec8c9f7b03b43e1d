"""Reads the 'annotations' of a COCO JSON into columns, one row per object of any image."""

import array
import collections
import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

from rkd_jax.files import json_values
from rkd_jax.files.json_lists import Document

# Annotation tools round: a box may stick out of its image by so many pixels and is clipped.
_ROUNDING = 1.0
# Records hold single precision, in which larger numbers would be infinite.
_MOST = 1e38
# What `Annotations.repairs` calls them.
LEFT_OUT = "boxes without area left out"


class KnownImage(NamedTuple):
  """What an annotation must know of its image; `position` is that among the images."""

  position: int
  filename: str
  height: int
  width: int


class _Annotation(msgspec.Struct, gc=False):
  id: json_values.Id
  image_id: json_values.Id
  category_id: json_values.Id
  bbox: json_values.Box
  area: float = math.nan
  iscrowd: json_values.Flag = 0
  ignore: json_values.Flag = 0
  segmentation: json_values.Segmentation = None


class Polygons(Sequence):
  """The polygons of some objects, XY pixels [v, 2] each, cut out of the columns when asked for."""

  def __init__(self, columns: "Objects", rows: Int[np.ndarray, "g"]):
    self._columns, self._rows = columns, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> tuple[Float[np.ndarray, "_ 2"], ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
    columns, row = self._columns, self._rows[index]
    start, stop = columns.polygon_ends[row : row + 2]
    ends = columns.vertex_ends[start : stop + 1]
    return tuple(columns.vertices[a:b] for a, b in itertools.pairwise(ends))


@dataclasses.dataclass(frozen=True)
class Objects:
  """Columns of all objects in the order of the file.

  The polygons of row i are those from `polygon_ends[i]` to `polygon_ends[i + 1]`, and the vertices
  of polygon p those from `vertex_ends[p]` to `vertex_ends[p + 1]`.
  """

  positions: Int[np.ndarray, "n"]
  boxes: Float[np.ndarray, "n 4"]
  category_ids: Int[np.ndarray, "n"]
  ids: Int[np.ndarray, "n"]
  areas: Float[np.ndarray, "n"]
  is_crowd: Bool[np.ndarray, "n"]
  polygon_ends: Int[np.ndarray, "n+1"]
  vertex_ends: Int[np.ndarray, "p+1"]
  vertices: Float[np.ndarray, "v 2"]

  def by_image(self, count: int) -> list[Int[np.ndarray, "_"]]:
    """The rows of each of `count` images, in the order of the file."""
    order = np.argsort(self.positions, kind="stable")
    ends = np.searchsorted(self.positions[order], np.arange(count + 1))
    return [order[start:stop] for start, stop in itertools.pairwise(ends)]


class _Reader:
  """Goes through the annotations of a document; columns grow, what does not fit is a problem."""

  def __init__(self, document: Document, images: Mapping[int, KnownImage], repair: bool):
    self.document, self.images, self.repair = document, images, repair
    self.repairs = collections.Counter()
    self.integers = {name: array.array("q") for name in ("positions", "category_ids", "ids")}
    self.boxes, self.areas, self.vertices = (array.array("d") for _ in range(3))
    self.crowds = array.array("b")
    self.polygon_ends, self.vertex_ends = array.array("q", [0]), array.array("q", [0])

  def name(self, number: int, entry: Any) -> str:
    """What problems call an entry, as a struct or as it stands in the file."""
    if place := self.document.places.get(number):
      return place
    get = entry.get if isinstance(entry, Mapping) else lambda key: getattr(entry, key)
    own, image_id = (get(key) for key in ("id", "image_id"))
    if isinstance(own, bool) or not isinstance(own, int | str):
      return f"{self.document.path}: annotations[{number}]"
    where = f"{self.document.path}: annotation {json_values.shown(own)}"
    image = self.images.get(image_id) if isinstance(image_id, int) else None
    return f"{where} of image {image_id} ({image.filename})" if image else where

  def add(self, number: int, entry: _Annotation, image: KnownImage) -> None:
    """Appends an annotation of a known image and category."""
    box = self._box(number, entry, image)
    polygons = self._polygons(number, entry)
    if box is None:
      return
    area = entry.area
    if math.isnan(area):
      area = (box[2] - box[0]) * (box[3] - box[1])
    elif not 0 <= area <= _MOST:
      where = self.name(number, entry)
      expected = f"expected a number of at least 0, and at most {_MOST:g}: correct or remove it."
      self.document.problems.add("area", f"{where}: area is {area:g}, {expected}")
      return
    if entry.ignore and not entry.iscrowd:
      self.document.notes["annotations to be ignored, taken for crowds"] += 1
    columns = self.integers
    columns["positions"].append(image.position)
    columns["category_ids"].append(entry.category_id)
    columns["ids"].append(entry.id)
    self.boxes.extend(box)
    self.areas.append(area)
    self.crowds.append(entry.iscrowd | entry.ignore)
    for flat in polygons:
      self.vertices.extend(flat)
      self.vertex_ends.append(len(self.vertices) // 2)
    self.polygon_ends.append(len(self.vertex_ends) - 1)

  def _box(
    self, number: int, entry: _Annotation, image: KnownImage
  ) -> tuple[float, float, float, float] | None:
    """XYXY, clipped to the image if it is out by rounding only; None is a problem.

    With `repair`, boxes are clipped from anywhere, and None is one without area in the image.
    """
    if not entry.bbox:
      if self.repair:
        self.repairs[LEFT_OUT] += 1
      else:
        self._bad_box(number, entry, "bbox is empty, expected [x, y, width, height]")
      return None
    x, y, w, h = entry.bbox
    outside = max(-x, -y, x + w - image.width, y + h - image.height)
    box = max(x, 0.0), max(y, 0.0), min(x + w, image.width), min(y + h, image.height)
    empty = box[0] >= box[2] or box[1] >= box[3]
    if self.repair:
      self.repairs["boxes clipped to the image"] += outside > _ROUNDING
      self.repairs[LEFT_OUT] += empty
      return None if empty else box
    shown = f"bbox [{x:.10g}, {y:.10g}, {w:.10g}, {h:.10g}]"
    if w <= 0 or h <= 0:
      size = f"has size {w:.10g} x {h:.10g} (width x height), expected more than 0"
      self._bad_box(number, entry, f"{shown} {size} (the format is [x, y, width, height])")
      return None
    if outside > _ROUNDING or empty:
      self._bad_box(
        number,
        entry,
        f"{shown} ([x, y, width, height]) reaches {outside:g} pixels out of the image of "
        f"{image.width} x {image.height} (width x height)",
      )
      return None
    return box

  def _bad_box(self, number: int, entry: _Annotation, text: str) -> None:
    remedy = "correct or remove it, or repair all such boxes with --repair."
    self.document.problems.add("bbox", f"{self.name(number, entry)}: {text}: {remedy}")

  def _polygons(self, number: int, entry: _Annotation) -> list[list[float]]:
    """Those of at least three corners; none for run lengths, which are mostly crowds'."""
    if entry.segmentation is None:
      return []
    if isinstance(entry.segmentation, dict):
      if entry.segmentation and "counts" not in entry.segmentation:
        self.document.problems.add(
          "segmentation",
          f"{self.name(number, entry)}: segmentation is an object without 'counts', expected "
          "polygons or run lengths: correct or remove it.",
        )
      self.repairs["masks as run lengths left out"] += bool(entry.segmentation) > entry.iscrowd
      return []
    kept = [flat for flat in entry.segmentation if len(flat) >= 6]
    for index, flat in enumerate(entry.segmentation):
      if len(flat) % 2:
        self.document.problems.add(
          "segmentation",
          f"{self.name(number, entry)}: segmentation[{index}] is {json_values.shown(flat)}, "
          "expected a list x, y, x, y, ... of an even number of values: correct or remove it.",
        )
    name = "polygons of less than three corners left out"
    self.repairs[name] += len(entry.segmentation) - len(kept)
    return kept

  def columns(self) -> Objects:
    """What was added."""
    integers = {name: np.frombuffer(own, np.int64) for name, own in self.integers.items()}
    return Objects(
      **integers,
      boxes=np.frombuffer(self.boxes, np.float64).reshape(-1, 4),
      areas=np.frombuffer(self.areas, np.float64).astype(np.float32),
      is_crowd=np.frombuffer(self.crowds, np.int8).astype(bool),
      polygon_ends=np.frombuffer(self.polygon_ends, np.int64),
      vertex_ends=np.frombuffer(self.vertex_ends, np.int64),
      vertices=np.frombuffer(self.vertices, np.float64).reshape(-1, 2),
    )


def read_objects(
  document: Document,
  images: Mapping[int, KnownImage],
  category_ids: Collection[int],
  repair: bool,
) -> tuple[Objects, dict[str, int]]:
  """The objects of all 'annotations', and how many were repaired by what was done.

  What is wrong is added to the problems of the document.  Where it has some already, of images or
  categories, the annotations of unknown ones are none.
  """
  problems, path = document.problems, Path(document.path)
  complete = not problems
  reader = _Reader(document, images, repair)
  for number, entry in document.entries("annotations", _Annotation, reader.name):
    image = images.get(entry.image_id)
    if image is not None and entry.category_id in category_ids:
      reader.add(number, entry, image)
    elif complete and image is None:
      problems.add(
        "image_id",
        f"{path}: annotation {entry.id} belongs to image {entry.image_id}, which is not in "
        "'images': add the image or remove the annotation.",
      )
    elif complete:
      problems.add(
        "category_id",
        f"{path}: annotation {entry.id} of image {entry.image_id} has category "
        f"{entry.category_id}, which is not in 'categories': add the category or remove the "
        "annotation.",
      )
  columns = reader.columns()
  vertices = columns.vertices
  if len(vertices) and not -_MOST <= vertices.min() <= vertices.max() <= _MOST:
    far = np.flatnonzero((np.abs(vertices) > _MOST).any(1))
    polygons = np.unique(np.searchsorted(columns.vertex_ends, far, "right") - 1)
    for row in np.unique(np.searchsorted(columns.polygon_ends, polygons, "right") - 1):
      problems.add(
        "segmentation",
        f"{path}: annotation {columns.ids[row]}: segmentation has a number beyond {_MOST:g}: "
        "correct or remove it.",
      )
  order = np.sort(columns.ids)
  for twice in np.unique(order[1:][order[1:] == order[:-1]]):
    problems.add(
      "annotation id",
      f"{path}: annotation id {twice} occurs twice: give every entry its own, or remove the copy.",
    )
  return columns, {name: count for name, count in reader.repairs.items() if count}
