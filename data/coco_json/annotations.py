"""Reads COCO-format JSON and checks everything that can be checked without the pixels.

What can be read without a loss is, and is counted; every other problem is in a ValueError that
names the file, the records and the remedies, so that a data set is either right or refused before
training.  Boxes leave as XYXY pixels and classes as 0-based numbers, in the order of ascending
category id.
"""

import collections
import dataclasses
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from absl import logging
from jaxtyping import Bool, Float, Int

from rkd_jax.data.coco_json.objects import KnownImage, Polygons, read_objects
from rkd_jax.files import json_checks as checks
from rkd_jax.files import json_values
from rkd_jax.files.json_lists import Document, Problems
from rkd_jax.records import class_names as category_names
from rkd_jax.records import schema


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
  """One entry of 'images' with its annotations; boxes XYXY pixels, inside the image.

  `polygons` are those of each object, a tuple of XY pixels [v, 2], empty where the file has run
  lengths or nothing; `federated` has LVIS' neg_category_ids and not_exhaustive_category_ids as
  classes.
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
  polygons: Sequence[tuple[Float[np.ndarray, "_ 2"], ...]]
  federated: Mapping[str, tuple[int, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
  """A whole annotation file: classes by ascending category id, images in file order.

  `categories` are the entries of the file, one per class.  `repairs` counts what `repair` and
  the dropping of polygons without area did, `notes` the values that were odd and read all the
  same.
  """

  path: Path
  class_names: tuple[str, ...]
  images: tuple[AnnotatedImage, ...]
  categories: tuple[Mapping[str, Any], ...] = ()
  repairs: Mapping[str, int] = dataclasses.field(default_factory=dict)
  notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  has_polygons: bool = False


class _Image(msgspec.Struct, gc=False):
  id: json_values.Id
  height: json_values.Size
  width: json_values.Size
  file_name: str


class _LvisImage(msgspec.Struct, gc=False):
  id: json_values.Id
  height: json_values.Size
  width: json_values.Size
  coco_url: str
  neg_category_ids: json_values.Ids
  not_exhaustive_category_ids: json_values.Ids


class _Named(msgspec.Struct, gc=False):
  id: json_values.Id
  file_name: str | None = None
  coco_url: str | None = None


class _Caption(msgspec.Struct, gc=False):
  image_id: json_values.Id
  caption: str


def _file_name(name: str, folder: Path) -> str:
  """A checked 'file_name'; backslashes are slashes, unless there is a file with them.

  Raises ValueError: what is wrong with it.
  """
  if not category_names.clean_name(name) or any(
    unicodedata.category(letter) == "Cc" for letter in name
  ):
    raise ValueError("expected the name of a file")
  if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
    raise ValueError("which is an address: get the images, and give names relative to their folder")
  if re.match(r"[A-Za-z]:[\\/]", name):
    raise ValueError(
      "which has the drive of another machine: give names relative to the folder of images"
    )
  if "\\" in name and not os.path.exists(folder / name):
    return name.replace("\\", "/")
  return name


def _lvis_name(coco_url: str) -> str:
  """LVIS v1 has no file names, but the end of 'coco_url', 'train2017/0….jpg'."""
  return "/".join(coco_url.split("/")[-2:])


def _name_of_image(path: Path) -> Any:
  """What problems call an entry of 'images' that does not fit."""

  def name(number: int, entry: Mapping[str, Any]) -> str:
    own, file = entry.get("id"), entry.get("file_name", entry.get("coco_url"))
    if isinstance(own, bool) or not isinstance(own, int):
      return f"{path}: images[{number}]"
    return f"{path}: image {own} ({file if isinstance(file, str) else 'without file_name'})"

  return name


def _read_images(
  document: Document, folder: Path, lvis: bool
) -> tuple[dict[int, KnownImage], list[_Image | _LvisImage]]:
  """Image id -> what annotations must know of it, and the entries, in the order of the file."""
  problems, known, entries = document.problems, {}, []
  kind = _LvisImage if lvis else _Image
  for number, entry in document.entries("images", kind, _name_of_image(document.path)):
    where = f"{document.path}: image {entry.id}"
    raw = _lvis_name(entry.coco_url) if lvis else entry.file_name
    try:
      filename = _file_name(raw, folder)
    except ValueError as error:
      problems.add("file_name", f"{where} (images[{number}]): file_name is {raw!r}, {error}.")
      continue
    if entry.id in known:
      problems.add(
        "image id",
        f"{document.path}: image id {entry.id} occurs twice, for {known[entry.id].filename!r} and "
        f"{filename!r}: give every entry its own, or remove the copy.",
      )
      continue
    document.notes["file names with backslashes, taken for slashes"] += filename != raw
    known[entry.id] = KnownImage(len(entries), filename, entry.height, entry.width)
    entries.append(entry)
  if not known and not problems:
    problems.add("images", f"{document.path}: 'images' is empty: there is nothing to build.")
  names = collections.Counter(image.filename for image in known.values())
  document.notes["file names that several images have"] += sum(n > 1 for n in names.values())
  return known, entries


def _federated(
  entries: Sequence[_LvisImage], class_of: Mapping[int, int], document: Document
) -> list[dict[str, tuple[int, ...]]]:
  """LVIS' classes that are not, or not all of them, annotated in each image."""
  found = []
  for entry in entries:
    labels = {}
    for name, key in zip(schema.FEDERATED, ("neg_category_ids", "not_exhaustive_category_ids")):
      ids = getattr(entry, key)
      if unknown := [own for own in ids if own not in class_of]:
        document.problems.add(
          key,
          f"{document.path}: image {entry.id} ({_lvis_name(entry.coco_url)}): {key} has "
          f"{json_values.shown(unknown)}, expected a list of ids in 'categories'.",
        )
      labels[name] = tuple(class_of[own] for own in ids if own in class_of)
    found.append(labels)
  return found


def load_annotations(
  json: str | os.PathLike | Document,
  image_dir: str | os.PathLike,
  *,
  lvis: bool = False,
  repair: bool = False,
  keep: Collection[str] = (),
) -> Annotations:
  """Reads a COCO instances file.

  Polygons of less than three corners enclose nothing and are left out, as detectron2 does.
  Annotations to be ignored are crowds: no training targets, and not counted in evaluations.

  Args:
    json: file with 'images', 'annotations' and 'categories', or what was read of it.
    image_dir: the folder that 'file_name' is relative to; it is looked into for names with
      backslashes only.
    lvis: LVIS v1: files by 'coco_url', and what an image says of classes beside its objects.
    repair: clip boxes that reach out of their image and leave out those without area (official
      files have some) rather than refuse them.
    keep: names of categories that are classes though they look like an unused root of the others.

  Raises:
    ValueError: missing or malformed file, missing keys, no images, unknown images or
      categories, ids that occur twice, boxes that are not finite, empty, or outside, polygons
      that are none; names of categories that are equal or look alike.  It has all such problems.
  """
  document = json if isinstance(json, Document) else Document(json)
  path, problems, folder = document.path, document.problems, Path(image_dir)
  if document.is_list:
    raise ValueError(
      f"{path} is a list and has no 'categories', 'images' and 'annotations': COCO format has an "
      "object with these lists."
    )
  categories = category_names.read_categories(document)
  known, entries = _read_images(document, folder, lvis)
  columns, repairs = read_objects(document, known, categories, repair)
  used = set(np.unique(columns.category_ids).tolist())
  classes = category_names.choose_classes(document, categories, lambda: used, keep)
  class_of = {category_id: number for number, category_id in enumerate(classes)}
  federated = _federated(entries, class_of, document) if lvis else [None] * len(entries)
  problems.check()
  notes = {name: count for name, count in document.notes.items() if count}
  for name, count in notes.items():
    logging.info("%s: %d %s", path, count, name)
  numbers = np.searchsorted(np.array(list(classes)), columns.category_ids)
  rows_of = columns.by_image(len(entries))
  images = []
  for (image_id, image), rows, labels in zip(known.items(), rows_of, federated):
    own = AnnotatedImage(
      image_id=image_id,
      filename=image.filename,
      path=folder / image.filename,
      height=image.height,
      width=image.width,
      boxes=columns.boxes[rows],
      classes=numbers[rows],
      object_ids=columns.ids[rows],
      areas=columns.areas[rows],
      is_crowd=columns.is_crowd[rows],
      polygons=Polygons(columns, rows),
      federated=labels,
    )
    images.append(own)
  return Annotations(
    path,
    tuple(category["name"] for category in classes.values()),
    tuple(images),
    tuple(classes.values()),
    repairs,
    notes,
    len(columns.vertex_ends) > 1,
  )


def load_filenames(json_path: str | os.PathLike) -> dict[int, str]:
  """Image id -> file name, in the order of the file, by 'coco_url' where it is LVIS'.

  Nothing else of the images is read.  Raises ValueError: malformed, or an id that occurs twice.
  """
  document = Document(json_path)
  filenames = {}
  for number, entry in document.entries("images", _Named, _name_of_image(document.path)):
    where = f"{document.path}: images[{number}]"
    name = entry.file_name
    if name is None and entry.coco_url is not None:
      name = _lvis_name(entry.coco_url)
    if name is None:
      document.problems.add("file_name", f"{where} has no 'file_name': COCO format asks for it.")
    elif entry.id in filenames:
      document.problems.add("image id", f"{where}: image id {entry.id} occurs twice: remove one.")
    else:
      filenames[entry.id] = name
  document.problems.check()
  return filenames


def load_captions(
  path: str | os.PathLike, annotations: Annotations, strip: bool = True
) -> dict[int, tuple[str, ...]]:
  """Image id -> captions, from a COCO captions file; captions of other images are left out.

  With `strip`, without the spaces and line ends around them that COCO's captions often have.
  Raises ValueError: missing or malformed, or no caption belongs to any of the images.
  """
  captions = {image.image_id: () for image in annotations.images}
  document = Document(path)
  for _, entry in document.entries("annotations", _Caption):
    if entry.image_id in captions:
      captions[entry.image_id] += (entry.caption.strip() if strip else entry.caption,)
  document.problems.check()
  for name, count in document.notes.items():
    logging.info("%s: %d %s", path, count, name)
  if not any(captions.values()):
    raise ValueError(f"{path}: no caption belongs to an image of {annotations.path}.")
  return captions


def load_tags(path: str | os.PathLike, annotations: Annotations) -> dict[int, tuple[str, ...]]:
  """Image id -> class names, from a JSON object {file name: [class name, ...]}.

  Every image with that file name gets the tags.
  Raises ValueError: missing or malformed, an unknown file or class name; all of them.
  """
  content = checks.read_json(path)
  if not isinstance(content, dict):
    raise ValueError(f"{path}: expected an object {{file name: [class name, ...]}}.")
  ids, problems, tags = collections.defaultdict(list), Problems(path), {}
  for image in annotations.images:
    ids[image.filename].append(image.image_id)
  for filename, names in content.items():
    own = ids.get(filename) or ids.get(filename.replace("\\", "/"))
    if own is None:
      problems.add(
        "file name", f"{path}: {filename!r} is not the file_name of an image in the annotations."
      )
    elif not isinstance(names, list) or not all(isinstance(name, str) for name in names):
      problems.add(
        "tags",
        f"{path}: the tags of {filename!r} are {json_values.shown(names)}, expected a list of "
        "names.",
      )
    else:
      names = tuple(map(category_names.clean_name, names))
      try:
        category_names.check_names(names, annotations.class_names, f"{path}, {filename!r}")
      except ValueError as error:
        problems.add("class name", str(error))
      for image_id in own:
        tags[image_id] = tags.get(image_id, ()) + names
  problems.check()
  return tags
