"""What somebody's folder is: COCO JSON, Pascal VOC or YOLO, and the files of each split."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rkd_jax.data.coco_json.coco_json import Files
from rkd_jax.data.own import coco, places, voc, yolo
from rkd_jax.records import decoding

FORMATS = {own.NAME: own for own in (coco, voc, yolo)}


class Found(NamedTuple):
  """A source that was recognised.

  `splits` has 'train' and perhaps 'validation' and 'test', as the module of the `format` found
  them; `roots` the folder or file that each was looked for in.
  """

  format: str
  splits: Mapping[str, Any]
  roots: Mapping[str, Path]


def recognise(source: str | os.PathLike, validation: str | os.PathLike | None = None) -> Found:
  """Finds out which format a source has, and which files are for which split.

  Args:
    source: a folder, a JSON file or a data.yaml.
    validation: another source of the same format, all of it to evaluate on.

  Raises:
    ValueError: it has no format that is known, more than one, or nothing to train on; or it is
      of one, and something that it needs is missing.
    FileNotFoundError: it is not there, or something that it names is not.
  """
  found = _recognise(Path(source))
  splits, roots = dict(found.splits), dict(found.roots)
  if "train" not in splits:
    raise ValueError(
      f"{source} has {found.format} for {', '.join(splits)}, but nothing to train on: name a file "
      "or folder 'train', or give the one that is meant as --source."
    )
  if validation is not None:
    other = _recognise(Path(validation))
    if other.format != found.format:
      raise ValueError(
        f"{source} is {found.format}, but {validation} is {other.format}: give both in one format."
      )
    role = "validation" if "validation" in other.splits else next(iter(other.splits))
    splits["validation"], roots["validation"] = other.splits[role], other.roots[role]
  return Found(found.format, splits, roots)


def read(
  found: Found, skip_bad_images: bool = False, max_pixels: int = decoding.MAX_PIXELS
) -> dict[str, Files]:
  """The files of 'train' and, if there are any, 'validation', as the builder takes them.

  Images of VOC and YOLO are opened for their sizes; with `skip_bad_images`, those that cannot be
  are left out and counted.  Raises ValueError: images or labels were not found.
  """
  used = {role: own for role, own in found.splits.items() if role != "test"}
  module = FORMATS[found.format]
  return module.read(used, found.roots, skip_bad_images=skip_bad_images, max_pixels=max_pixels)


def _recognise(source: Path) -> Found:
  if not source.exists():
    raise FileNotFoundError(
      f"{source}: there is no such file or folder: check the path of the annotations."
    )
  if source.is_dir() and source.name.lower() == "annotations":
    source = source.parent  # the images are beside it
  found = {name: own.find(source) for name, own in FORMATS.items()}
  found = {name: splits for name, splits in found.items() if splits}
  if len(found) > 1:
    raise ValueError(
      f"{source} has annotations of several formats, {' and '.join(found)}: give the JSON file, "
      "the data.yaml or a folder with one of them."
    )
  for name, splits in found.items():
    return Found(name, splits, dict.fromkeys(splits, source))
  looked = places.folders(source, 2) if source.is_dir() else [source]
  raise ValueError(
    f"{source}: no annotations were recognised. Looked in {places.listed(looked)} for COCO "
    "JSON ('images', 'annotations' and 'categories'), Pascal VOC (XML files, as in Annotations) "
    "and YOLO (a data.yaml, or labels with a classes.txt)."
  )
