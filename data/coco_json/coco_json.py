"""TFDS builder for your own images with annotations in COCO format.

    python -m data.coco_json.coco_json --data_dir=DIR \\
      --train_json=train.json --train_images=FOLDER \\
      [--validation_json=val.json --validation_images=FOLDER] \\
      [--base='cat,dog' | --base=@names.txt] [--novel=...] \\
      [--train_captions=captions.json] [--train_tags=tags.json] [--limit=N] [--dry_run]

Split `train` keeps the boxes of base classes only, `validation` those of base and novel
classes; boxes of any other class are left out.  Without --base every class that is not
novel is a base class.  Image-level labels are the tags (JSON: {file name: [class name, ...]})
and the class names that occur in the captions (COCO captions JSON).

The config `plain` is what the files say; `rkd` (--config=rkd --teachers=FOLDER) adds to
`train` the frozen teachers' results that `rkd_jax.precompute` made from `plain`.
Everything is checked before it is stored; --dry_run checks and stores nothing.
"""

import argparse
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tqdm import tqdm

from data import schema
from data.coco_json import annotations
from rkd_jax.inputs import transforms
from rkd_jax.inputs.teachers import TeacherReader

CONFIGS = ("plain", "rkd")


@dataclasses.dataclass(frozen=True)
class Files:
  """Where a split comes from: COCO JSON, the folder of its images, optional captions and tags."""

  json: str | os.PathLike
  images: str | os.PathLike
  captions: str | os.PathLike | None = None
  tags: str | os.PathLike | None = None

  def checksums(self) -> dict[str, str]:
    """A checksum of every file that is given."""
    files = {"json": self.json, "captions": self.captions, "tags": self.tags}
    return {
      name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
      for name, path in files.items()
      if path is not None
    }


class Split:
  """One split, read and checked; `examples` decodes the images."""

  def __init__(
    self,
    files: Files,
    content: annotations.Annotations,
    kept: Sequence[str],
    limit: int | None = None,
    skip_bad_images: bool = False,
  ):
    """Reads captions and tags.

    Args:
      files: where the split comes from.
      content: what its JSON says.
      kept: names of the classes whose boxes are stored.
      limit: only the first so many images.
      skip_bad_images: leave out images that cannot be decoded, with a counted warning.

    Raises:
      ValueError: a problem with a file, see `data.coco_json.annotations`.
    """
    self.class_names = content.class_names
    self.images = content.images[:limit]
    self._path = content.path
    self._captions = annotations.load_captions(files.captions, content) if files.captions else {}
    self._tags = annotations.load_tags(files.tags, content) if files.tags else {}
    self._kept = np.array([name in kept for name in self.class_names])
    self._skip_bad_images = skip_bad_images

  def num_boxes(self) -> dict[str, int]:
    """Class name -> number of boxes that are kept, crowds included."""
    classes = np.concatenate([image.classes for image in self.images])
    counts = np.bincount(classes, minlength=len(self.class_names)) * self._kept
    return {name: int(count) for name, count in zip(self.class_names, counts) if count}

  def examples(
    self, embedding_dim: int, teacher: TeacherReader | None = None
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """TFDS examples in the order of the JSON, with their positions as keys.

    Raises:
      ValueError: an image is missing, damaged, or of another size than the JSON says, or
        no image is left; the teachers' results of an image are missing.
    """
    skipped = 0
    bar = tqdm(self.images, f"reading {self._path.name}", unit=" images")
    # TFDS stores records by ascending key: positions keep the order of the JSON.
    for position, image in enumerate(bar):
      try:
        data = _read_image(image, self._path)
      except transforms.BadImageError as error:
        if not self._skip_bad_images:
          raise
        skipped += 1
        logging.warning("Skipped bad image (%d so far): %s", skipped, error)
        continue
      results = None if teacher is None else teacher[image.image_id]
      yield position, self._example(image, data, embedding_dim, results)
    if skipped == len(self.images):
      raise ValueError(f"{self._path}: none of its {skipped} images can be decoded.")

  def _example(
    self, image: annotations.AnnotatedImage, data: bytes, embedding_dim: int, teacher: dict | None
  ) -> dict[str, Any]:
    captions = self._captions.get(image.image_id, ())
    names = {*self._tags.get(image.image_id, ()), *annotations.named_in(captions, self.class_names)}
    keep = self._kept[image.classes]
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
      captions=captions,
      labels=[number for number, name in enumerate(self.class_names) if name in names],
      teacher=teacher,
      embedding_dim=embedding_dim,
    )


def _read_image(image: annotations.AnnotatedImage, json_path: Path) -> bytes:
  """The encoded bytes of an image, which has been decoded once to see that it is whole."""
  name = f"{image.path} (image id {image.image_id} of {json_path})"
  try:
    data = image.path.read_bytes()
  except OSError as error:
    raise ValueError(
      f"Cannot read {name}: {error.strerror}. 'file_name' is taken relative to the folder of "
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


class CocoJson(tfds.core.GeneratorBasedBuilder):
  """A folder of images with COCO-format JSON; see the module's docstring."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="plain", description="Images, boxes, captions and labels."),
    tfds.core.BuilderConfig(name="rkd", description="With regions and pseudo boxes of teachers."),
  ]

  def __init__(
    self,
    *,
    train: Files,
    validation: Files | None = None,
    base: Sequence[str] | None = None,
    novel: Sequence[str] = (),
    teachers: str | os.PathLike | None = None,
    embedding_dim: int = 512,
    limit: int | None = None,
    skip_bad_images: bool = False,
    **kwargs: Any,
  ):
    """Reads and checks the JSON files; images are read by `download_and_prepare`.

    Args:
      train: files of the split `train`.
      validation: files of the split `validation`, if there is one.
      base: classes to train on; None takes every class that is not novel.
      novel: classes that are only evaluated.
      teachers: folder written by `rkd_jax.precompute`; config `rkd` only.
      embedding_dim: width D of `regions/clip_embeddings`.
      limit: only the first so many images of each split.
      skip_bad_images: leave out images that cannot be decoded, with a counted warning.
      **kwargs: those of every TFDS builder (`data_dir`, `config`, ...).

    Raises:
      ValueError: a problem with the files, the class lists or the teachers' results.
    """
    rkd = kwargs.get("config") == "rkd"
    if rkd != (teachers is not None):
      raise ValueError(
        "config rkd and teachers=FOLDER (written by `python -m rkd_jax.precompute ...`) "
        "belong together: give both or neither."
      )
    if limit is not None and limit < 1:
      raise ValueError(f"limit is {limit}, expected at least 1 image.")
    content = annotations.load_annotations(train.json, train.images)
    names = content.class_names
    base, novel = annotations.split_classes(names, base, novel)
    self.splits = {"train": Split(train, content, base, limit, skip_bad_images)}
    if validation is not None:
      content = annotations.load_annotations(validation.json, validation.images)
      kept = (*base, *novel)
      self.splits["validation"] = Split(validation, content, kept, limit, skip_bad_images)
      if (found := content.class_names) != names:
        raise ValueError(
          f"{validation.json} has other categories than {train.json}: "
          f"{sorted(set(found) ^ set(names)) or 'the same names in another order of ids'}. "
          "Give both files the same 'categories'."
        )
    self._teacher = TeacherReader(teachers, "train", embedding_dim) if rkd else None
    self._embedding_dim = embedding_dim
    self._classes = (names, base, novel)
    self._settings = {
      "train": train.checksums(),
      "validation": None if validation is None else validation.checksums(),
      "base": list(base),
      "novel": list(novel),
      "teachers": None if self._teacher is None else self._teacher.metadata,
      "embedding_dim": embedding_dim,
      "limit": limit,
      "skip_bad_images": skip_bad_images,
    }
    super().__init__(file_format="array_record", **kwargs)

  def settings(self) -> dict[str, Any]:
    """What decides the content of the records, as JSON values."""
    return self._settings

  def describe(self) -> str:
    """What the splits hold, for people."""
    _, base, novel = self._classes
    lines = []
    for name, split in self.splits.items():
      counts = split.num_boxes()
      lines.append(f"{name}: {len(split.images)} images, {sum(counts.values())} boxes: {counts}")
      missing = [label for label in (*base, *novel) if label not in counts]
      if name == "validation" and missing:
        lines.append(f"{name}: no box of {missing}")
    return "\n".join(lines)

  def check(self):
    """Goes through all records without storing them; raises ValueError for the first problem."""
    for name in self.splits:
      for _ in self._generate_examples(name):
        pass

  def _info(self) -> tfds.core.DatasetInfo:
    names, base, novel = self._classes
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=schema.features(names, self._embedding_dim),
      metadata=schema.metadata(
        names, base, novel, ["validation"], self._embedding_dim, self._settings
      ),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
    return {name: self._generate_examples(name) for name in self.splits}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    teacher = self._teacher if split == "train" else None
    return self.splits[split].examples(self._embedding_dim, teacher)


def build(data_dir: str | os.PathLike, config: str = "plain", **settings: Any) -> CocoJson:
  """Builds a config under `data_dir`, unless it is there with the same settings.

  Args:
    data_dir: root folder; the records go to data_dir/coco_json/<config>/<version>.
    config: "plain" or "rkd".
    **settings: arguments of `CocoJson`.

  Raises:
    ValueError: a problem with the files, or it is there with other settings.
  """
  builder = CocoJson(data_dir=data_dir, config=config, **settings)
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


def main():
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data_dir", required=True, help="root folder of built data sets")
  parser.add_argument("--config", choices=CONFIGS, default="plain")
  parser.add_argument("--train_json", required=True)
  parser.add_argument("--train_images", required=True)
  parser.add_argument("--train_captions")
  parser.add_argument("--train_tags")
  parser.add_argument("--validation_json")
  parser.add_argument("--validation_images")
  parser.add_argument("--base", help="names separated by commas, or @file with one per line")
  parser.add_argument("--novel", default="", help="as --base")
  parser.add_argument("--teachers", help="folder written by rkd_jax.precompute (config rkd)")
  parser.add_argument("--embedding_dim", type=int, default=512)
  parser.add_argument("--limit", type=int, help="only the first so many images of each split")
  parser.add_argument("--skip_bad_images", action="store_true")
  parser.add_argument("--dry_run", action="store_true", help="check everything, store nothing")
  args = parser.parse_args()
  if (args.validation_json is None) != (args.validation_images is None):
    parser.error("--validation_json and --validation_images belong together")
  validation = args.validation_json and Files(args.validation_json, args.validation_images)
  train = Files(args.train_json, args.train_images, args.train_captions, args.train_tags)
  try:
    settings = {
      "train": train,
      "validation": validation,
      "base": None if args.base is None else annotations.parse_names(args.base),
      "novel": annotations.parse_names(args.novel),
      "teachers": args.teachers,
      "embedding_dim": args.embedding_dim,
      "limit": args.limit,
      "skip_bad_images": args.skip_bad_images,
    }
    if args.dry_run:
      builder = CocoJson(data_dir=args.data_dir, config=args.config, **settings)
      print(builder.describe())
      builder.check()
      print("No problem found; nothing was stored.")
    else:
      builder = build(args.data_dir, args.config, **settings)
      print(builder.describe())
      print(builder.data_dir)
  except ValueError as error:
    parser.exit(1, f"{error}\n")


if __name__ == "__main__":
  main()
