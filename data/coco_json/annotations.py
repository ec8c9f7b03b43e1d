"""Reads COCO-format JSON and checks everything that can be checked without the pixels.

Every problem is a ValueError that names the file, the record and the remedy, so that
a data set is either right or refused before training.  Boxes leave as XYXY pixels and
classes as 0-based numbers, in the order of ascending category id.
"""

import collections
import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from rkd_jax.files import json_checks as checks
from rkd_jax.records import class_names as category_names
from rkd_jax.records import schema

# Annotation tools round: a box may stick out of its image by so many pixels and is clipped.
_ROUNDING = 1.0
# Image ids travel through 32-bit integers on accelerators.
_MAX_ID = 2**31 - 1
# What `Annotations.repairs` calls them.
LEFT_OUT = "boxes without area left out"


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
  """One entry of 'images' with its annotations; boxes XYXY pixels, inside the image.

  `polygons` are those of each object, XY pixels, none where the file has run lengths or nothing;
  `federated` has LVIS' neg_category_ids and not_exhaustive_category_ids as classes.
  """

  image_id: int
  filename: str
  path: Path
  height: int
  width: int
  boxes: Float[np.ndarray, "g 4"]
  classes: Int[np.ndarray, "g"]
  object_ids: Int[np.ndarray, "g"]
  areas: Float[np.ndarray, "g"]
  is_crowd: Bool[np.ndarray, "g"]
  polygons: tuple[tuple[Float[np.ndarray, "_ 2"], ...], ...]
  federated: Mapping[str, tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
  """A whole annotation file: classes by ascending category id, images in file order.

  `categories` are the entries of the file, one per class.  `repairs` counts what `repair` and
  the dropping of polygons without area did.
  """

  path: Path
  class_names: tuple[str, ...]
  images: tuple[AnnotatedImage, ...]
  categories: tuple[Mapping[str, Any], ...] = ()
  repairs: Mapping[str, int] = dataclasses.field(default_factory=dict)


def _box(
  bbox: Any, height: int, width: int, where: str, repairs: collections.Counter | None
) -> list[float] | None:
  """COCO's [x, y, width, height] as XYXY, clipped to the image if it is out by rounding only.

  With `repairs`, boxes are clipped from anywhere, and None is one without area in the image.
  """
  numbers = isinstance(bbox, list) and all(
    isinstance(value, int | float) and not isinstance(value, bool) for value in bbox
  )
  if not numbers or len(bbox) != 4:
    raise ValueError(f"{where}: bbox is {bbox!r}, expected [x, y, width, height] as numbers.")
  if not all(map(math.isfinite, bbox)):
    raise ValueError(f"{where}: bbox {bbox} has a value that is not finite: correct or remove it.")
  x, y, w, h = bbox
  outside = max(-x, -y, x + w - width, y + h - height)
  clipped = [max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)]
  empty = clipped[0] >= clipped[2] or clipped[1] >= clipped[3]
  if repairs is not None:
    repairs["boxes clipped to the image"] += outside > _ROUNDING
    repairs[LEFT_OUT] += empty
    return None if empty else clipped
  if w <= 0 or h <= 0:
    raise ValueError(
      f"{where}: bbox {bbox} has size {w} x {h} (width x height), expected more than 0: "
      "correct or remove it. The format is [x, y, width, height]."
    )
  if outside > _ROUNDING or empty:
    raise ValueError(
      f"{where}: bbox {bbox} ([x, y, width, height]) reaches {outside:g} pixels out of the image "
      f"of {width} x {height} (width x height): correct it, or the size of the image."
    )
  return clipped


def _polygons(segmentation: Any, where: str, repairs: collections.Counter) -> tuple:
  """The polygons of a 'segmentation', [v, 2] each; none for run lengths, which are crowds'."""
  if segmentation is None or isinstance(segmentation, Mapping):
    return ()
  polygons = []
  for number, flat in enumerate(segmentation if isinstance(segmentation, list) else [None]):
    try:
      vertices = np.array(flat).reshape(-1, 2).astype(np.float64, casting="safe")
    except (TypeError, ValueError):
      vertices = np.full((1, 2), np.nan)
    if not np.isfinite(vertices).all():
      raise ValueError(
        f"{where}: segmentation[{number}] is {str(flat)[:80]}, expected a list x, y, x, y, ... of "
        "finite numbers (or run lengths in place of the polygons): correct or remove it."
      )
    if len(vertices) >= 3:
      polygons.append(vertices)
    else:
      repairs["polygons of less than three corners left out"] += 1
  return tuple(polygons)


def _objects(
  content: Any, path: Path, images: Mapping, class_of: Mapping, repair: bool
) -> tuple[dict[int, list], collections.Counter]:
  """image id -> [(box, class, annotation id, area, is_crowd, polygons), ...], and the repairs."""
  objects = {image_id: [] for image_id in images}
  seen, repairs = set(), collections.Counter()
  keys = ("id", "image_id", "category_id", "bbox")
  for where, entry, values in checks.entries(content, "annotations", path, keys):
    annotation_id, image_id, category_id, bbox = values
    checks.unseen(checks.integer(annotation_id, "id", where), seen, "annotation id", path)
    seen.add(annotation_id)
    where = f"{path}: annotation {annotation_id}"
    if checks.integer(image_id, "image_id", where) not in images:
      raise ValueError(
        f"{where} belongs to image {image_id!r}, which is not in 'images': "
        "add the image or remove the annotation."
      )
    if checks.integer(category_id, "category_id", where) not in class_of:
      raise ValueError(
        f"{where} of image {image_id} has category {category_id!r}, which is not in 'categories': "
        "add the category or remove the annotation."
      )
    image = images[image_id]
    where = f"{where} of image {image_id} ({image['filename']})"
    box = _box(bbox, image["height"], image["width"], where, repairs if repair else None)
    polygons = _polygons(entry.get("segmentation"), where, repairs)
    if box is None:
      continue
    area = entry.get("area", (box[2] - box[0]) * (box[3] - box[1]))
    if not isinstance(area, int | float) or not math.isfinite(area) or area < 0:
      raise ValueError(f"{where}: area is {area!r}, expected a number of at least 0.")
    crowd = bool(entry.get("iscrowd", 0))
    objects[image_id].append((box, class_of[category_id], annotation_id, area, crowd, polygons))
  return objects, repairs


def _file_name(entry: Mapping, lvis: bool, where: str) -> str:
  """'file_name'; LVIS v1 has none, there it is the end of 'coco_url', 'train2017/0….jpg'."""
  (name,) = checks.required(entry, ("coco_url",) if lvis else ("file_name",), where)
  return "/".join(str(name).split("/")[-2:]) if lvis else str(name)


def _federated(entry: Mapping, class_of: Mapping, where: str) -> dict[str, tuple[int, ...]]:
  """LVIS' classes that are not, or not all of them, annotated in an image."""
  keys = ("neg_category_ids", "not_exhaustive_category_ids")
  labels = {}
  for name, key, ids in zip(schema.FEDERATED, keys, checks.required(entry, keys, where)):
    if not isinstance(ids, list) or (unknown := [i for i in ids if i not in class_of]):
      found = ids if not isinstance(ids, list) else unknown
      raise ValueError(f"{where}: {key} has {found!r}, expected a list of ids in 'categories'.")
    labels[name] = tuple(class_of[i] for i in ids)
  return labels


def load_annotations(
  json_path: str | os.PathLike,
  image_dir: str | os.PathLike,
  *,
  lvis: bool = False,
  repair: bool = False,
) -> Annotations:
  """Reads a COCO instances file.

  Polygons of less than three corners enclose nothing and are left out, as detectron2 does.

  Args:
    json_path: JSON with 'images', 'annotations' and 'categories'.
    image_dir: the folder that 'file_name' is relative to; it is not looked into here.
    lvis: LVIS v1: files by 'coco_url', and what an image says of classes beside its objects.
    repair: clip boxes that reach out of their image and leave out those without area (official
      files have some) rather than refuse them.

  Raises:
    ValueError: missing or malformed file, missing keys, no images, unknown images or
      categories, ids that occur twice, boxes that are not finite, empty, or outside, polygons
      that are none.
  """
  path = Path(json_path)
  content = checks.read_json(path)
  categories = category_names.categories_by_id(content, path)
  class_of = {category_id: number for number, category_id in enumerate(categories)}
  images = {}
  keys = ("id", "height", "width")
  for where, entry, (image_id, height, width) in checks.entries(content, "images", path, keys):
    filename = _file_name(entry, lvis, where)
    checks.unseen(checks.integer(image_id, "id", where, high=_MAX_ID), images, "image id", path)
    where = f"{path}: image {image_id} ({filename})"
    checks.integer(height, "height", where, low=1)
    checks.integer(width, "width", where, low=1)
    images[image_id] = {
      "filename": filename,
      "path": Path(image_dir) / filename,
      "height": height,
      "width": width,
      "federated": _federated(entry, class_of, where) if lvis else None,
    }
  if not images:
    raise ValueError(f"{path}: 'images' is empty: there is nothing to build.")
  objects, repairs = _objects(content, path, images, class_of, repair)
  entries = []
  for image_id, known in images.items():
    columns = zip(*objects[image_id]) if objects[image_id] else [()] * 6
    boxes, classes, ids, areas, crowds, polygons = columns
    entry = AnnotatedImage(
      image_id=image_id,
      **known,
      boxes=np.array(boxes, np.float64).reshape(-1, 4),
      classes=np.array(classes, np.int64),
      object_ids=np.array(ids, np.int64),
      areas=np.array(areas, np.float32),
      is_crowd=np.array(crowds, bool),
      polygons=tuple(polygons),
    )
    entries.append(entry)
  return Annotations(
    path,
    tuple(category["name"] for category in categories.values()),
    tuple(entries),
    tuple(categories.values()),
    {name: count for name, count in repairs.items() if count},
  )


def load_filenames(json_path: str | os.PathLike) -> dict[int, str]:
  """Image id -> file name, in the order of the file, by 'coco_url' where it is LVIS'.

  Nothing else of the images is read.  Raises ValueError: malformed, or an id that occurs twice.
  """
  path = Path(json_path)
  filenames = {}
  for where, entry, (image_id,) in checks.entries(checks.read_json(path), "images", path, ("id",)):
    checks.unseen(checks.integer(image_id, "id", where, high=_MAX_ID), filenames, "image id", path)
    filenames[image_id] = _file_name(entry, "file_name" not in entry and "coco_url" in entry, where)
  return filenames


def load_captions(
  path: str | os.PathLike, annotations: Annotations, strip: bool = True
) -> dict[int, tuple[str, ...]]:
  """Image id -> captions, from a COCO captions file; captions of other images are left out.

  With `strip`, without the spaces and line ends around them that COCO's captions often have.
  Raises ValueError: missing or malformed, or no caption belongs to any of the images.
  """
  captions = {image.image_id: () for image in annotations.images}
  content, keys = checks.read_json(path), ("image_id", "caption")
  for where, _, (image_id, caption) in checks.entries(content, "annotations", path, keys):
    if not isinstance(caption, str):
      raise ValueError(f"{where}: caption is {caption!r}, expected a text.")
    if image_id in captions:
      captions[image_id] += (caption.strip() if strip else caption,)
  if not any(captions.values()):
    raise ValueError(f"{path}: no caption belongs to an image of {annotations.path}.")
  return captions


def load_tags(path: str | os.PathLike, annotations: Annotations) -> dict[int, tuple[str, ...]]:
  """Image id -> class names, from a JSON object {file name: [class name, ...]}.

  Raises ValueError: missing or malformed, an unknown file or class name.
  """
  content = checks.read_json(path)
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected an object {{file name: [class name, ...]}}.")
  ids = {image.filename: image.image_id for image in annotations.images}
  tags = {}
  for filename, names in content.items():
    if filename not in ids:
      raise ValueError(f"{path}: {filename!r} is not the file_name of an image in the annotations.")
    if not isinstance(names, list):
      raise ValueError(f"{path}: the tags of {filename!r} are {names!r}, expected a list of names.")
    category_names.check_names(names, annotations.class_names, f"{path}, {filename!r}")
    tags[ids[filename]] = tuple(names)
  return tags
