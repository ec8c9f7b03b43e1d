"""What the builders of COCO-format data sets share: splits, records, the index, the command line.

A builder (`data/<name>/<name>.py`) says which files make its splits and which boxes and labels
are kept; the rest is here.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from data import schema
from data.coco_json import annotations
from rkd_jax.inputs import index as index_lib
from rkd_jax.inputs import transforms
from rkd_jax.inputs.teachers import TeacherReader

CONFIGS = ("plain", "rkd")


@dataclasses.dataclass(frozen=True)
class Split:
  """One split, read and checked; `examples` decodes the images.

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
    return np.array([name in kept for name in self.content.class_names])

  def keep(self, image: annotations.AnnotatedImage) -> np.ndarray:
    """Which objects of an image are stored."""
    return self._is_kept[image.classes]

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

  def examples(
    self, embedding_dim: int, polygons: bool, teacher: TeacherReader | None = None
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """TFDS examples in the order of the JSON, with their positions as keys.

    Args:
      embedding_dim: width D of `regions/clip_embeddings`.
      polygons: store those of the objects.
      teacher: results by image id.

    Raises:
      ValueError: an image is missing, damaged, or of another size than the JSON says, or
        no image is left; the teachers' results of an image are missing.
    """
    path, skipped = self.content.path, 0
    bar = tqdm(self.images, f"reading {path.name}", unit=" images")
    # TFDS stores records by ascending key: positions keep the order of the JSON.
    for position, image in enumerate(bar):
      try:
        data = _read_image(image, path)
      except transforms.BadImageError as error:
        if not self.skip_bad_images:
          raise
        skipped += 1
        logging.warning("Skipped bad image (%d so far): %s", skipped, error)
        continue
      results = None if teacher is None else teacher[image.image_id]
      yield position, self._example(image, data, embedding_dim, polygons, results)
    if skipped == len(self.images):
      raise ValueError(f"{path}: none of its {skipped} images can be decoded.")

  def _example(
    self,
    image: annotations.AnnotatedImage,
    data: bytes,
    embedding_dim: int,
    polygons: bool,
    teacher: dict | None,
  ) -> dict[str, Any]:
    keep = self.keep(image)
    return schema.encode_record(
      image=data,
      image_id=image.image_id,
      filename=image.filename,
      height=image.height,
      width=image.width,
      boxes=image.boxes[keep],
      classes=image.classes[keep],
      object_ids=image.object_ids[keep],
      areas=image.areas[keep],
      is_crowd=image.is_crowd[keep],
      captions=self.captions.get(image.image_id, ()),
      labels=self.labels.get(image.image_id, ()),
      teacher=teacher,
      embedding_dim=embedding_dim,
      polygons=[image.polygons[i] for i in np.flatnonzero(keep)] if polygons else None,
      federated={name: getattr(image, name) for name in schema.FEDERATED}
      if self.federated
      else None,
    )


def _read_image(image: annotations.AnnotatedImage, json_path: Path) -> bytes:
  """The encoded bytes of an image, which has been decoded once to see that it is whole."""
  name = f"{image.path} (image id {image.image_id} of {json_path})"
  try:
    data = image.path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"Cannot read {name}: {error.strerror}. The name is taken relative to the folder of "
      "images: check that folder, or remove the image from the JSON."
    ) from error
  height, width = transforms.decode_image(data, name).shape[:2]
  if (height, width) != (image.height, image.width):
    raise ValueError(
      f"{name} is {width} x {height} (width x height, upright as its EXIF orientation asks), but "
      f"the JSON says {image.width} x {image.height}: the boxes would be wrong. Use the images "
      "that were annotated, or correct the JSON."
    )
  return data


class CocoFormatBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Base of the builders: records of some splits, and their indices beside the shards."""

  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="plain", description="Images, boxes, captions and labels."),
    tfds.core.BuilderConfig(name="rkd", description="With regions and pseudo boxes of teachers."),
  ]

  def __init__(
    self,
    *,
    splits: Mapping[str, Split],
    base: Sequence[str],
    novel: Sequence[str],
    settings: Mapping[str, Any],
    frequencies: Sequence[str] | None = None,
    totals: Sequence[str] = (),
    teachers: str | os.PathLike | None = None,
    embedding_dim: int = 512,
    **kwargs: Any,
  ):
    """Takes splits that have been read; images are read by `download_and_prepare`.

    Args:
      splits: `train`, and perhaps `validation`.
      base: classes to train on.
      novel: classes that are only evaluated.
      settings: what the splits were made from, as JSON values.
      frequencies: LVIS' 'r', 'c' or 'f' of each class.
      totals: lines of the description, see `compared`.
      teachers: folder written by `rkd_jax.precompute` for `train`; config `rkd` only.
      embedding_dim: width D of `regions/clip_embeddings`.
      **kwargs: those of every TFDS builder (`data_dir`, `config`, ...).

    Raises:
      ValueError: config `rkd` without teachers or teachers without it.
    """
    rkd = kwargs.get("config") == "rkd"
    if rkd != (teachers is not None):
      raise ValueError(
        "config rkd and teachers=FOLDER (written by `python -m rkd_jax.precompute ...`) "
        "belong together: give both or neither."
      )
    self.splits = dict(splits)
    # Files of boxes alone must not look like objects whose masks are empty.
    self._polygons = any(
      own for split in splits.values() for image in split.content.images for own in image.polygons
    )
    self._teacher = TeacherReader(teachers, "train", embedding_dim) if rkd else None
    self._embedding_dim = embedding_dim
    self._base, self._novel = tuple(base), tuple(novel)
    self._frequencies = frequencies
    self._totals = tuple(totals)
    self._settings = {
      **settings,
      "teachers": None if self._teacher is None else self._teacher.metadata,
      "embedding_dim": embedding_dim,
    }
    super().__init__(file_format="array_record", **kwargs)

  def settings(self) -> dict[str, Any]:
    """What decides the content of the records, as JSON values."""
    return self._settings

  def describe(self) -> str:
    """What the splits hold, and how that compares to the official files, for people."""
    lines = list(self._totals)
    for name, split in self.splits.items():
      counts = split.num_boxes()
      boxed = sum(bool(split.keep(image).any()) for image in split.images)
      labelled = sum(bool(split.labels.get(image.image_id)) for image in split.images)
      lines.append(
        f"{name}: {len(split.images)} images, {boxed} with boxes, {labelled} with labels; "
        f"{sum(counts.values())} boxes of {len(counts)} classes: {_shortened(counts)}"
      )
      lines += [f"{name}: {count} {what}" for what, count in split.content.repairs.items()]
      missing = [label for label in (*self._base, *self._novel) if label not in counts]
      if name == "validation" and missing:
        lines.append(f"{name}: no box of {len(missing)} classes: {missing[:20]}")
    return "\n".join(lines)

  def check(self):
    """Goes through all records without storing them; raises ValueError for the first problem."""
    for name in self.splits:
      for _ in self._generate_examples(name):
        pass

  def _info(self) -> tfds.core.DatasetInfo:
    train = self.splits["train"]
    names = train.content.class_names
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=schema.features(names, self._embedding_dim, self._polygons, train.federated),
      metadata=schema.metadata(
        names,
        self._base,
        self._novel,
        ["validation"],
        self._embedding_dim,
        self._settings,
        image_counts=train.image_counts(),
        frequencies=self._frequencies,
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {name: self._indexed_examples(name) for name in self.splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    teacher = self._teacher if split == "train" else None
    return self.splits[split].examples(self._embedding_dim, self._polygons, teacher)

  def _indexed_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The examples; once all have been taken, their index lies in the folder being written."""
    rows = []
    for key, example in self._generate_examples(split):
      objects = example["objects"]
      rows.append(
        (
          example["image/height"],
          example["image/width"],
          [thing["label"] for thing in objects if not thing["is_crowd"]],
          len(example["labels"]),
          len(example["pseudo_boxes/labels"]),
        )
      )
      yield key, example
    index_lib.save(self.data_dir, split, index_lib.make(rows))


def _shortened(counts: Mapping[str, int], most: int = 100) -> str:
  if len(counts) <= most:
    return str(dict(counts))
  few = sorted(counts.items(), key=lambda item: -item[1])[:5]
  return ", ".join(f"{name} {count}" for name, count in few) + ", ..."


def images_with_boxes(
  content: annotations.Annotations, names: Sequence[str]
) -> list[annotations.AnnotatedImage]:
  """The images with an object, crowds included, of one of the classes."""
  wanted = np.array([name in set(names) for name in content.class_names])
  return [image for image in content.images if wanted[image.classes].any()]


def compared(
  counted: Mapping[str, Mapping[str, int]], official: Mapping[str, Mapping[str, int]]
) -> list[str]:
  """Lines that say which file has other totals than the official one.

  Args:
    counted: file -> {what: number}, as read.
    official: the same of the official files.
  """
  lines = []
  for file, expected in official.items():
    differing = [
      f"{counted[file][what]:,} {what} (official: {number:,})"
      for what, number in expected.items()
      if counted[file][what] != number
    ]
    if differing:
      lines.append(f"{file} is not the official file, or cut: {', '.join(differing)}")
    else:
      same = ", ".join(f"{number:,} {what}" for what, number in expected.items())
      lines.append(f"{file} has the official totals: {same}")
  return lines


def checksum(path: str | os.PathLike) -> str:
  """A short checksum of a file, for the settings."""
  with Path(path).open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def checked_limit(limit: int | None) -> int | None:
  """The limit; ValueError if it is less than one image."""
  if limit is not None and limit < 1:
    raise ValueError(f"limit is {limit}, expected at least 1 image.")
  return limit


def prepare(builder: CocoFormatBuilder) -> CocoFormatBuilder:
  """Stores the records, unless they are there with the same settings.

  Raises:
    ValueError: a problem with an image, or the records are there with other settings.
  """
  if builder.is_prepared():
    found = json.loads((Path(builder.data_dir) / "metadata.json").read_text())["settings"]
    if found != json.loads(json.dumps(builder.settings())):
      raise ValueError(
        f"{builder.data_dir} was built from other files or settings: {found}. "
        "Remove that folder, or give another data_dir."
      )
    return builder
  tfds.disable_progress_bar()
  builder.download_and_prepare()
  return builder


def argument_parser(description: str) -> argparse.ArgumentParser:
  """A command line with the flags that all builders have."""
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data_dir", required=True, help="root folder of built data sets")
  parser.add_argument("--config", choices=CONFIGS, default="plain")
  parser.add_argument("--teachers", help="folder written by rkd_jax.precompute (config rkd)")
  parser.add_argument("--embedding_dim", type=int, default=512)
  parser.add_argument("--limit", type=int, help="only the first so many images of each split")
  parser.add_argument("--skip_bad_images", action="store_true")
  parser.add_argument("--dry_run", action="store_true", help="check everything, store nothing")
  return parser


def shared_settings(args: argparse.Namespace) -> dict[str, Any]:
  """The builder's arguments that `argument_parser` has read."""
  names = ("data_dir", "config", "teachers", "embedding_dim", "limit", "skip_bad_images")
  return {name: getattr(args, name) for name in names}


def run(
  parser: argparse.ArgumentParser, make: Callable[[], CocoFormatBuilder], dry_run: bool
) -> None:
  """Builds or checks, prints what there is, and ends with a message at the first problem."""
  try:
    builder = make()
    print(builder.describe())
    if dry_run:
      builder.check()
      print("No problem found; nothing was stored.")
    else:
      prepare(builder)
      print(builder.data_dir)
  except ValueError as error:
    parser.exit(1, f"{error}\n")
